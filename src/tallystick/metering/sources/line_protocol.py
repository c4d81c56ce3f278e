"""InfluxDB line protocol, version 1, read into measurements.

    measurement[,tag=text]... field=number|"text"|boolean[,field=...]... [timestamp]

Rules: InfluxData's "InfluxDB line protocol reference" and "tutorial" (OSS v1) and, where they are silent, the grammar
``line-protocol.ebnf`` of influxdata/line-protocol. The common line, without escapes and with one field, is taken apart
by splitting, and its series is remembered from one request to the next; whatever that leaves in doubt is read by
``_parse_series`` and ``_parse_fields``, which are the reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b

import msgspec

from tallystick.kernel.errors import InvalidInput, TooLarge
from tallystick.kernel.text import TextNotStorable, check_key, check_text, is_unicode
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.sources.values import EARLIEST, LATEST, Refused, parse_value

SOURCE = "line-protocol"

MAX_LINES = 50_000
"""Lines in one body, blank ones and comments included."""

MAX_LINE_CHARACTERS = 1 << 18
"""Length of one line. InfluxDB takes 64 KiB of measurement and tags, and as much for each string."""

MAX_NATURAL_KEY_CHARACTERS = 512
"""Longest natural key, which is the series with its timestamp, that is the sender's id as it is; of a longer one, its
BLAKE2b-256 is. Every source of series names its points like this."""

MAX_KNOWN_SERIES = 65_536
"""Series that are remembered, about 1 KiB each. Exporters send the same ones again and again."""

NANOSECONDS = {
    "ns": 1,
    "n": 1,
    "us": 1_000,
    "u": 1_000,
    "\u00b5": 1_000,  # MICRO SIGN; the next one is GREEK SMALL LETTER MU, which looks the same
    "\u03bc": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
"""Nanoseconds in the unit of a timestamp, by the name that ``precision`` has for the unit."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BLANKS = " \t\r"


def _text_until(ends: str) -> str:
    """A pattern for text up to one of ``ends``, which a backslash escapes; before anything else it stands for itself.

    There is only one way to match a text, so a mismatch is found in linear time.
    """
    plain, backslash = rf"[^\\\n{ends}]", rf"\\(?:[{ends}]|(?![{ends}]))"
    return rf"((?:{plain}|{backslash}){plain}*(?:{backslash}{plain}*)*)"


_MEASUREMENT = _text_until(", ")
_NAME = _text_until(",= ")
_TAG = rf",{_NAME}={_NAME}"
_STRING = r'"[^"\\]*(?:\\[\s\S][^"\\]*)*"'
_FIELD = rf'{_NAME}=({_STRING}|[^", \n]+)'
_GAP = r" [ \t]*"

_MEASUREMENT_AT = re.compile(_MEASUREMENT)
_TAG_AT = re.compile(_TAG)
_FIELD_AT = re.compile(_FIELD)
_GAP_AT = re.compile(_GAP)
_COMMA_AT = re.compile(",")
_POINT_AT = re.compile(
    rf"[ \t]*(?![ \t\#]){_MEASUREMENT}(?:{_TAG})*{_GAP}{_FIELD}(?:,{_FIELD})*(?:{_GAP}-?[0-9]+)?[ \t\r]*(?=\n|\Z)"
)
_ESCAPE = re.compile(r"\\([,= ])")
_ESCAPE_IN_MEASUREMENT = re.compile(r"\\([, ])")
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?[0-9]+i|[0-9]+u")
_BOOLEAN = re.compile(r"[tT]|[fF]|true|True|TRUE|false|False|FALSE")
_TIMESTAMP = re.compile(r"-?[0-9]{1,21}")  # in nanoseconds, the year 9999 has 21 digits


class LineMapping(msgspec.Struct, frozen=True, cache_hash=True):
    """Which tags and which field of a point make a measurement; the meter is the name of the point's measurement.

    Customer tag, resource tag and field must be there, the other tags may be absent. An empty ``resource_tag`` means
    that points have no resource. The defaults are what the OpenStack usage exporter sends.
    """

    customer_tag: str = "project_name"
    resource_tag: str = "location_id"
    kind_tag: str = "kind"
    agent_tag: str = "agent"
    field: str = "value"


_DEFAULT_MAPPING = LineMapping()


Time = tuple[datetime, str]
"""An instant, and how it stands at the end of a natural key."""


class Series(msgspec.Struct, frozen=True, gc=False):
    """What measurement and tags say, and their one canonical writing."""

    text: str
    customer: str
    meter: str
    kind: str
    resource: str
    agent: str


def read(
    body: bytes,
    received_at: datetime,
    *,
    precision: str = "ns",
    mapping: LineMapping = _DEFAULT_MAPPING,
    max_lines: int = MAX_LINES,
) -> Batch:
    """The measurements in ``body``, one for each line that is neither blank nor a comment.

    ``received_at`` (aware) stands in for a missing timestamp. Times are cut to microseconds, towards the past; the
    sender's id, which is the series and its timestamp in nanoseconds, keeps the rest. A line that cannot be read
    becomes an ``Unreadable`` with its number, counted from 0, and stops no other.

    Raises ``InvalidInput`` for an unknown ``precision``, ``TooLarge`` if the body has more than ``max_lines`` lines.
    """
    if precision not in NANOSECONDS:
        raise InvalidInput(f"precision must be one of {', '.join(NANOSECONDS)}", field="precision")
    if body.count(b"\n") + (not body.endswith(b"\n")) > max_lines:
        raise TooLarge(f"the body must have at most {max_lines} lines")
    unit = NANOSECONDS[precision]
    received_ns = (received_at - _EPOCH) // _MICROSECOND * 1000
    times: dict[str, Time] = {}  # by timestamp: most lines of a body share theirs
    batch = Batch(SOURCE, [], [], [])
    text = body.decode(errors="surrogateescape")
    is_clean = "\0" not in text and is_unicode(text)
    for index, record in _records(text):
        line = record.strip(_BLANKS)
        if not line or line[0] == "#":
            continue
        try:
            if not is_clean or len(line) > MAX_LINE_CHARACTERS:
                _check_line(line)
            series, number, timestamp = _read_line(line, mapping)
            value = _number(number, mapping.field)
            if (time := times.get(timestamp)) is None:
                time = times[timestamp] = time_of(_nanoseconds(timestamp, unit) if timestamp else received_ns)
            measurement = measurement_of(series, time, value)
        except InvalidInput as refusal:
            raw = record.encode(errors="surrogateescape")
            unreadable = Unreadable(index, raw, refusal.code, refusal.detail, reader(precision))
            batch.unreadable.append(unreadable)
        else:
            batch.measurements.append(measurement)
            batch.indexes.append(index)
    return batch


def reader(precision: str) -> str | None:
    """What ``Unreadable.reader`` says of lines with this precision, which cannot be seen from the lines themselves.

    None for nanoseconds, the precision that ``read`` takes if it is told none.
    """
    return None if NANOSECONDS[precision] == 1 else f"{SOURCE};precision={precision}"


def _records(text: str) -> Iterator[tuple[int, str]]:
    """Each line with its number."""
    if '"' not in text:
        yield from enumerate(text.split("\n"))
        return
    index = start = 0
    while start < len(text):
        end = _line_end(text, start)
        yield index, text[start:end]
        index += text.count("\n", start, end) + 1
        start = end + 1


def _line_end(text: str, start: int) -> int:
    """Where the line from ``start`` on ends. It goes on over line ends within a string if that makes it a point."""
    limit = start + MAX_LINE_CHARACTERS
    point = _POINT_AT.match(text, start, limit)
    if point is not None and (point.end() < limit or limit >= len(text)):
        return point.end()
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


def _check_line(line: str) -> None:
    if len(line) > MAX_LINE_CHARACTERS:
        raise Refused("line_too_long", f"a line must have at most {MAX_LINE_CHARACTERS} characters")
    if "\0" in line:
        raise TextNotStorable("a line must not contain NUL")
    if not is_unicode(line):
        raise TextNotStorable("a line must be UTF-8")


def _read_line(line: str, mapping: LineMapping) -> tuple[Series, str, str]:
    """The series in ``line``, its value as it is written, and its timestamp or nothing.

    Raises ``InvalidInput`` where the line leaves the grammar, or if it lacks a part.
    """
    key = line.partition(" ")[0]
    end = len(key)
    series = _known_series(key, mapping) if end <= MAX_NATURAL_KEY_CHARACTERS else None
    if series is None:
        series, end = _parse_series(line, mapping)
    if not line.startswith(" ", end):
        raise _invalid("measurement and tags must be followed by a space and a field", end)
    field, _, rest = line[end + 1 :].partition("=")
    value, _, timestamp = rest.partition(" ")
    if field != mapping.field or not value or "," in value or "=" in value or '"' in value:
        value, timestamp = _parse_fields(line, end, mapping.field)
    return series, value, timestamp.strip(_BLANKS)


@lru_cache(MAX_KNOWN_SERIES)
def _known_series(key: str, mapping: LineMapping) -> Series | None:
    """The series in a key without escapes, read by splitting; None if there is any doubt."""
    measurement, *pairs = key.split(",")
    if not measurement or "\\" in key:
        return None
    tags: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or "=" in text:
            return None
        tags[name] = text
    if len(tags) != len(pairs) or "" in tags or "" in tags.values():
        return None
    return _series(
        measurement, tags, mapping, key if list(tags) == sorted(tags) else canonical_series(measurement, tags)
    )


def _parse_series(line: str, mapping: LineMapping) -> tuple[Series, int]:
    """The series of any line, and where it ends."""
    match = _MEASUREMENT_AT.match(line)
    if not match:
        raise _invalid("a line must begin with the name of a measurement", 0)
    measurement = _ESCAPE_IN_MEASUREMENT.sub(r"\1", match[1])
    tags: dict[str, str] = {}
    end = match.end()
    while line.startswith(",", end):
        match = _TAG_AT.match(line, end)
        if not match:
            raise _invalid("a tag must be written key=text, neither of them empty", end + 1)
        name, text = _unescaped(match[1]), _unescaped(match[2])
        if name in tags:
            raise Refused("duplicate_tag", f"the tag at character {end + 2} must be there only once")
        tags[name] = text
        end = match.end()
    return _series(measurement, tags, mapping, canonical_series(measurement, tags)), end


def _parse_fields(line: str, end: int, wanted: str) -> tuple[str, str]:
    """The value of the field ``wanted``, as it is written, and what follows the fields."""
    fields: dict[str, str] = {}
    separator = _GAP_AT.match(line, end)
    while separator is not None:
        match = _FIELD_AT.match(line, separator.end())
        if not match:
            raise _invalid('a field must be written key=number, key=boolean or key="text"', separator.end())
        name, value = _unescaped(match[1]), match[2]
        if name in fields:
            raise Refused("duplicate_field", f"the field at character {match.start() + 1} must be there only once")
        if value[0] != '"' and not _NUMBER.fullmatch(value) and not _BOOLEAN.fullmatch(value):
            raise Refused(
                "invalid_value", f'the field at character {match.start() + 1} must be a number, a boolean or a "text"'
            )
        fields[name] = value
        end = match.end()
        separator = _COMMA_AT.match(line, end)
    if end < len(line) and line[end] != " ":
        raise _invalid("a field must be followed by a comma, a space or the end of the line", end)
    if wanted not in fields:
        raise Refused("missing_field", f"field {wanted} is required", field=wanted)
    return fields[wanted], line[end:]


def _invalid(rule: str, position: int) -> Refused:
    return Refused("invalid_line", f"{rule} (character {position + 1})")


def _series(measurement: str, tags: dict[str, str], mapping: LineMapping, text: str) -> Series:
    return Series(
        text=text,
        customer=_required(tags, mapping.customer_tag),
        meter=check_key(measurement, "measurement"),
        kind=check_text(tags.get(mapping.kind_tag, ""), mapping.kind_tag),
        resource=_required(tags, mapping.resource_tag) if mapping.resource_tag else "",
        agent=check_text(tags.get(mapping.agent_tag, ""), mapping.agent_tag),
    )


def _required(tags: dict[str, str], name: str) -> str:
    if name not in tags:
        raise Refused("missing_tag", f"tag {name} is required", field=name)
    return check_key(tags[name], name)


def canonical_series(measurement: str, tags: Mapping[str, str]) -> str:
    """The one writing of a series that all its writings share: tags sorted by key, nothing escaped without need."""
    parts = [measurement.replace(",", "\\,").replace(" ", "\\ ")]
    for name in sorted(tags):
        parts.append(f"{_escaped(name)}={_escaped(tags[name])}")
    return ",".join(parts)


def _escaped(text: str) -> str:
    return text.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def measurement_of(series: Series, time: Time, value: Decimal) -> Measurement:
    """A point of a series, by its natural key."""
    at, stamp = time
    key = series.text + stamp
    if len(key) > MAX_NATURAL_KEY_CHARACTERS:
        key = blake2b(key.encode(), digest_size=32).hexdigest()
    return Measurement(
        SOURCE, key, series.customer, series.meter, at, value, series.kind, series.resource, series.agent
    )


def time_of(at_ns: int) -> Time:
    """An instant as the points at it share it. Raises ``Refused`` outside the years that are taken."""
    return instant_of(at_ns), f" {at_ns}"


def _nanoseconds(timestamp: str, unit: int) -> int:
    if not _TIMESTAMP.fullmatch(timestamp):
        raise Refused("invalid_time", "the timestamp must be an integer between the years 2 and 9997", field="time")
    return int(timestamp) * unit


def instant_of(at_ns: int) -> datetime:
    """The instant, cut to microseconds. Raises ``Refused`` outside the years that are taken."""
    try:
        at = _EPOCH + timedelta(microseconds=at_ns // 1000)
        if EARLIEST <= at < LATEST:
            return at
    except OverflowError:
        pass
    raise Refused("invalid_time", "the timestamp must lie between the years 2 and 9997", field="time")


def _number(text: str, field: str) -> Decimal:
    """The value of a float (``1.5``), integer (``1i``) or unsigned (``1u``) field, exactly."""
    if text[0] == '"':
        raise Refused("invalid_value", f"{field} must be a number and not a string", field=field)
    if text[0] in "tTfF" and _BOOLEAN.fullmatch(text):
        raise Refused("invalid_value", f"{field} must be a number and not a boolean", field=field)
    if text[-1] in "iu" and _NUMBER.fullmatch(text):
        text = text[:-1]
    return parse_value(text, field)
