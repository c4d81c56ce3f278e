"""Which series of Prometheus are usage, and whose: rules from a file of yours, or those for the OpenStack exporter.

    [[series]]
    select = 'project_vcpu_usage{job="project_usages", location=~"site-.*"}'
    customer = "project_name"
    resource = "location_id"

A rule selects series as PromQL does and says which of their labels is the customer, the kind, the resource. The first
rule that selects a series maps it; a series that no rule selects is no usage. ``README`` of the fields: ``Rule``.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import EXACT
from tallystick.kernel.text import check_key, check_text
from tallystick.metering.sources.line_protocol import Series, canonical_series
from tallystick.metering.sources.values import InvalidValue, Refused, check_value, parse_value

MAX_FILE_BYTES: Final = 1 << 20
MAX_RULES: Final = 1000
MAX_SELECTOR_CHARACTERS: Final = 10_000

MAX_SERIES_CHARACTERS: Final = 1 << 16
"""Longest names and values of one series' labels together, which is what InfluxDB takes."""

NAME: Final = "__name__"
"""The label that holds the metric's name."""

Labels = Mapping[str, str]
"""Labels of one series; none of them empty, which to Prometheus means absent."""


class InvalidSeriesFile(InvalidInput):
    """The file of rules cannot be read or breaks a rule; the sentence names file, entry and field."""

    code = "invalid_series_file"


# Selectors


class Matcher(NamedTuple):
    """One condition on one label; a label that a series does not have is empty."""

    label: str
    operator: str
    text: str
    pattern: re.Pattern[str] | None

    def accepts(self, labels: Labels) -> bool:
        """Whether the label fulfils the condition. A pattern must match all of it."""
        value = labels.get(self.label, "")
        found = value == self.text if self.pattern is None else self.pattern.fullmatch(value) is not None
        return found is not self.operator.startswith("!")


_METRIC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)?\s*")
_LABEL = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*")
_STRING = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)\s*""")
_ESCAPE = re.compile(r"""\\(?:([abfnrtv\\'"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))""", re.DOTALL)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse_selector(text: str) -> tuple[Matcher, ...]:
    """The conditions of a PromQL instant vector selector: ``name{label="text", other=~"pattern"}``.

    Raises ``InvalidInput`` with the place of what cannot be read, or if the selector would select everything.
    """
    if len(text) > MAX_SELECTOR_CHARACTERS:
        raise InvalidInput(f"select must have at most {MAX_SELECTOR_CHARACTERS} characters", field="select")
    if (metric := _METRIC.match(text)) is None:
        raise AssertionError("it matches nothing as well")
    matchers = [Matcher(NAME, "=", metric[1], None)] if metric[1] else []
    at = metric.end()
    if text.startswith("{", at):
        more, at = _matchers(text, at + 1)
        matchers += more
    if text[at:].strip():
        raise _unreadable("nothing must follow the selector", at)
    if all(matcher.accepts({}) for matcher in matchers):
        raise InvalidInput("select must have a name or a condition that an empty label does not meet", field="select")
    return tuple(matchers)


def _matchers(text: str, at: int) -> tuple[list[Matcher], int]:
    """The conditions between braces, and where the text goes on."""
    matchers = []
    while label := _LABEL.match(text, at):
        string = _STRING.match(text, label.end())
        if string is None:
            raise _unreadable("a condition must end in a quoted text", label.end())
        matchers.append(_matcher(label[1], label[2], _unquoted(string[1], string.start())))
        at = string.end()
        if not text.startswith(",", at):
            break
        at += 1
    at += len(text[at:]) - len(text[at:].lstrip())
    if not text.startswith("}", at):
        raise _unreadable('conditions must be written label="text", with commas between them, up to a brace', at)
    return matchers, at + 1


def _matcher(label: str, operator: str, text: str) -> Matcher:
    if not operator.endswith("~"):
        return Matcher(label, operator, text, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python warns of, RE2 reads otherwise
            return Matcher(label, operator, text, re.compile(text, re.DOTALL))
    except (re.error, FutureWarning, DeprecationWarning, RecursionError, OverflowError) as error:
        raise InvalidInput(f"select has an unreadable pattern for {label}: {error}", field="select") from None


def _unquoted(quoted: str, at: int) -> str:
    """The text that a string of PromQL stands for."""

    def meant(escape: re.Match[str]) -> str:
        if escape[5] is not None:
            raise _unreadable(f"a text must not have the escape \\{escape[5]}", at)
        if escape[1] is not None:
            return _ESCAPED.get(escape[1], escape[1])
        return chr(int(escape[2] or escape[3] or escape[4], 16))

    try:
        return quoted[1:-1] if quoted[0] == "`" else _ESCAPE.sub(meant, quoted[1:-1])
    except (ValueError, OverflowError):
        raise _unreadable("a text must not name a character that does not exist", at) from None


def _unreadable(rule: str, at: int) -> InvalidInput:
    return InvalidInput(f"select cannot be read: {rule} (character {at + 1})", field="select")


# Rules


class Rule(msgspec.Struct, frozen=True):
    """How the series that ``select`` selects become measurements.

    ``meter`` is a key; if it is empty, the metric's name is. ``customer``, ``kind`` and ``agent`` are names of labels,
    ``resource`` is several, whose values are joined by ``/``; customer and resource must be there, the others may be
    absent or not named. Values are multiplied by ``scale``. Pulls ask for ``query``, or, if that is empty,
    for ``select``.
    """

    select: str
    matchers: tuple[Matcher, ...]
    meter: str = ""
    customer: str = "project_name"
    resource: tuple[str, ...] = ()
    kind: str = ""
    agent: str = ""
    scale: Decimal = Decimal(1)
    query: str = ""

    def selects(self, labels: Labels) -> bool:
        """Whether the rule is about a series with these labels."""
        return all(matcher.accepts(labels) for matcher in self.matchers)


class Mapped(Series, frozen=True, gc=False):
    """What a series says of its measurements by a rule, whose ``scale`` is None if it is 1."""

    scale: Decimal | None

    def scaled(self, value: Decimal) -> Decimal:
        """``value`` times the rule's scale, exactly. Raises ``InvalidValue`` if that is no number that is taken."""
        return value if self.scale is None else check_value(EXACT.multiply(value, self.scale))


def map_series(rule: Rule, labels: Labels) -> Mapped:
    """What ``rule`` makes of a series that it selects.

    Raises ``InvalidInput`` if a label is missing, or what it names cannot be kept.
    """
    if sum(map(len, labels)) + sum(map(len, labels.values())) > MAX_SERIES_CHARACTERS:
        raise Refused("series_too_long", f"the labels of a series must have at most {MAX_SERIES_CHARACTERS} characters")
    # A query with an aggregation loses the name: what was asked for stands in for it, and for the meter the rule.
    text = canonical_series(labels.get(NAME) or rule.query, labels)
    if "\0" in text:
        raise Refused("text_not_storable", "the labels of a series must not contain NUL")
    return Mapped(
        text=text,
        customer=check_key(_required(labels, rule.customer), rule.customer),
        meter=check_key(rule.meter or labels.get(NAME, ""), NAME),
        kind=check_text(labels.get(rule.kind, ""), rule.kind),
        resource=_resource(labels, rule.resource),
        agent=check_text(labels.get(rule.agent, ""), rule.agent),
        scale=None if rule.scale == 1 else rule.scale,
    )


def _resource(labels: Labels, names: tuple[str, ...]) -> str:
    if not names:
        return ""
    values = [_required(labels, name) for name in names]
    if len(values) > 1:  # no two resources may share a name, as their counters would be taken for one
        values = [value.replace("%", "%25").replace("/", "%2F") for value in values]
    return check_key("/".join(values), "resource")


def _required(labels: Labels, name: str) -> str:
    if name not in labels:
        raise Refused("missing_label", f"label {name} is required", field=name)
    return labels[name]


class SeriesMap:
    """All rules, in the order in which they are tried."""

    def __init__(self, rules: Iterable[Rule], whitelist: frozenset[str] | None = None) -> None:
        self.rules = tuple(rules)
        self._whitelist = whitelist

    def rule_for(self, labels: Labels) -> Rule | None:
        """The first rule that selects a series; None if the series is no usage."""
        return next((rule for rule in self.rules if rule.selects(labels)), None)

    def rule_of_query(self, query: str) -> Rule | None:
        """The rule for which pulls ask this query."""
        return next((rule for rule in self.rules if rule.query == query), None)

    def lists(self, rule: Rule, labels: Labels) -> bool:
        """Whether the whitelist, if there is one, has the customer of a series. Others are left alone."""
        return self._whitelist is None or labels.get(rule.customer) in self._whitelist


def _openstack(metric: str) -> Rule:
    """As ``/write`` reads the same series (``line_protocol.LineMapping``)."""
    return Rule(metric, parse_selector(metric), metric, "project_name", ("location_id",), kind="kind", agent="agent")


OPENSTACK: Final = (_openstack("project_vcpu_usage"), _openstack("project_mb_usage"))
"""The two metrics of the OpenStack usage exporter."""


# The file


def open_series(path: Path | None, whitelist: frozenset[str] | None = None) -> SeriesMap:
    """The rules in the file at ``path``, or without one those for OpenStack. Raises ``InvalidSeriesFile``."""
    return SeriesMap(OPENSTACK if path is None else read_rules(path), whitelist)


def read_rules(path: Path) -> list[Rule]:
    """The rules in a TOML file. Raises ``InvalidSeriesFile``, which names file, entry and field."""
    document = _document(path)
    if unknown := sorted(set(document) - {"series"}):
        raise _invalid(path, f"{unknown[0]!r} is none of its tables; rules are written [[series]]", unknown[0])
    entries = document.get("series")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise _invalid(path, "it must have at least one rule, written [[series]]", "series")
    if len(entries) > MAX_RULES:
        raise _invalid(path, f"it must have at most {MAX_RULES} rules", "series")
    rules = []
    for number, entry in enumerate(entries, 1):
        try:
            rules.append(_rule(entry))
        except InvalidInput as error:
            named = f" ({entry['select']})" if isinstance(entry.get("select"), str) else ""
            raise _invalid(path, f"rule {number}{named}: {error.detail}", f"series[{number}].{error.field}") from None
    return rules


def _document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise _invalid(path, f"it must have at most {MAX_FILE_BYTES} bytes")
        return tomllib.loads(data.decode("utf-8-sig"), parse_float=Decimal)
    except OSError as error:
        raise _invalid(path, f"it cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise _invalid(path, f"it must be TOML: {error}") from None


_TEXTS = ("select", "meter", "customer", "kind", "agent", "query")
_FIELDS = (*_TEXTS, "resource", "scale")


def _rule(entry: dict[str, Any]) -> Rule:
    for field in entry:
        if field not in _FIELDS:
            raise InvalidInput(f"{field} is none of the fields {', '.join(_FIELDS)}", field=field)
    texts = {field: _text(entry[field], field) for field in _TEXTS if field in entry}
    if "select" not in texts:
        raise InvalidInput("select is required", field="select")
    matchers = parse_selector(texts["select"])
    if "meter" in texts:
        check_key(texts["meter"], "meter")
    return Rule(
        matchers=matchers,
        resource=_names(entry.get("resource", ()), "resource"),
        scale=_scale(entry.get("scale", 1)),
        **texts,
    )


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{field} must be a text that is not empty", field=field)
    return value


def _names(value: object, field: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise InvalidInput(f"{field} must be the name of a label, or a list of them", field=field)
    return tuple(_text(name, field) for name in names)


def _scale(value: object) -> Decimal:
    """A number, or one in quotes. Zero would make usage of everything vanish."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise InvalidInput("scale must be a number", field="scale")
    scale = parse_value(str(value), "scale")
    if not scale:
        raise InvalidValue("scale", "must not be 0")
    return scale


def _invalid(path: Path, rule: str, field: str | None = None) -> InvalidSeriesFile:
    return InvalidSeriesFile(f"the file of series {path}: {rule}", field=field)
