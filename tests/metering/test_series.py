"""Rules that say which series are usage: how they select, what they make of labels, and what is wrong with a file."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tallystick.kernel.errors import InvalidInput
from tallystick.metering.series import (
    MAX_FILE_BYTES,
    MAX_RULES,
    MAX_SELECTOR_CHARACTERS,
    MAX_SERIES_CHARACTERS,
    OPENSTACK,
    InvalidSeriesFile,
    Mapped,
    Rule,
    SeriesMap,
    map_series,
    open_series,
    parse_selector,
    read_rules,
)

VCPU = {
    "__name__": "project_vcpu_usage",
    "domain_name": "elixir",
    "job": "project_usages",
    "location": "site-a",
    "location_id": "8676",
    "project_name": "os_credits_1",
}


def selects(selector: str, labels: dict[str, str]) -> bool:
    return all(matcher.accepts(labels) for matcher in parse_selector(selector))


def rule(select: str = "m", **fields: Any) -> Rule:
    return Rule(select, parse_selector(select), **fields)


def mapped(rule: Rule, labels: dict[str, str]) -> Mapped:
    return map_series(rule, labels)


# Selectors


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("project_vcpu_usage", True),
        (" project_vcpu_usage { } ", True),
        ("project_mb_usage", False),
        ('project_vcpu_usage{job="project_usages"}', True),
        ('project_vcpu_usage{job="project_usage"}', False),
        ('project_vcpu_usage{job!="project_usages"}', False),
        ('project_vcpu_usage{job!="other", missing!="x",}', True),
        ('project_vcpu_usage{missing=""}', True),
        ('{__name__=~"project_.*_usage", job="project_usages"}', True),
        ('{__name__=~"project_.*"}', True),
        ('{__name__=~"project"}', False),  # a pattern must match all of it
        ('{__name__=~"vcpu|project_vcpu_usage"}', True),
        ('{__name__=~"^project_.+$"}', True),
        ('project_vcpu_usage{location!~"site-[b-z]"}', True),
        ('project_vcpu_usage{location!~"site-.*"}', False),
        ("project_vcpu_usage{location=~'site-[a-z]'}", True),
        ("project_vcpu_usage{location_id=~`\\d+`}", True),
        ('project_vcpu_usage{location_id=~"\\\\d+"}', True),
        ('project_vcpu_usage{location="\\x73ite\\u002da"}', True),
        ('project_vcpu_usage{location="a,}b"}', False),
    ],
)
def test_series_are_selected_as_in_promql(selector: str, selected: bool) -> None:
    assert selects(selector, VCPU) is selected


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("", "select must have a name or a condition that an empty label does not meet"),
        ("{}", "select must have a name or a condition that an empty label does not meet"),
        ('{a=~".*"}', "select must have a name or a condition that an empty label does not meet"),
        ('{a!="x"}', "select must have a name or a condition that an empty label does not meet"),
        ("m{", "select cannot be read: conditions must be written"),
        ('m{a="1"', "select cannot be read: conditions must be written"),
        ('m{a="1" b="2"}', "(character 9)"),
        ("m{a=1}", "select cannot be read: a condition must end in a quoted text (character 5)"),
        ('m{a=="1"}', "a condition must end in a quoted text"),
        ('m{1a="1"}', "conditions must be written"),
        ("m[5m]", "select cannot be read: nothing must follow the selector (character 2)"),
        ("sum(m)", "nothing must follow the selector (character 4)"),
        ('m{a="\\q"}', "a text must not have the escape \\q"),
        ('m{a="\\Uffffffff"}', "a text must not name a character that does not exist"),
        ('m{a=~"("}', "select has an unreadable pattern for a"),
        ('m{a=~"[[:alpha:]]"}', "select has an unreadable pattern for a"),
        ("m" * (MAX_SELECTOR_CHARACTERS + 1), f"select must have at most {MAX_SELECTOR_CHARACTERS} characters"),
    ],
)
def test_what_is_no_selector_is_refused_with_the_place(selector: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_selector(selector)
    assert reason in refused.value.detail
    assert refused.value.field == "select"


# What a rule makes of labels


def test_the_exporters_metrics_are_mapped_as_write_maps_them() -> None:
    found = SeriesMap(OPENSTACK).rule_for(VCPU)
    assert found is OPENSTACK[0]
    series = mapped(found, VCPU | {"kind": "k", "agent": "a"})
    assert (series.customer, series.meter, series.resource) == ("os_credits_1", "project_vcpu_usage", "8676")
    assert (series.kind, series.agent, series.scale) == ("k", "a", None)
    assert mapped(found, VCPU).text == (
        "project_vcpu_usage,__name__=project_vcpu_usage,domain_name=elixir,job=project_usages,"
        "location=site-a,location_id=8676,project_name=os_credits_1"
    )
    assert SeriesMap(OPENSTACK).rule_for(VCPU | {"__name__": "project_mb_usage"}) is OPENSTACK[1]
    assert SeriesMap(OPENSTACK).rule_for(VCPU | {"__name__": "up"}) is None


def test_the_first_rule_that_selects_a_series_maps_it() -> None:
    narrow, wide = rule('m{a="1"}', meter="narrow"), rule("m", meter="wide")
    rules = SeriesMap([narrow, wide])
    assert rules.rule_for({"__name__": "m", "a": "1"}) is narrow
    assert rules.rule_for({"__name__": "m", "a": "2"}) is wide


def test_customers_that_a_whitelist_lacks_are_left_alone() -> None:
    rules = SeriesMap([rule(customer="org")], frozenset({"in"}))
    assert rules.lists(rules.rules[0], {"org": "in"})
    assert not rules.lists(rules.rules[0], {"org": "out"})
    assert not rules.lists(rules.rules[0], {})


def test_labels_may_name_kind_agent_and_resource() -> None:
    labels = {"__name__": "m", "org": "o", "flavor": "f", "user": "u", "host": "a/b", "disk": "c"}
    series = mapped(rule(customer="org", kind="flavor", agent="user", resource=("host", "disk")), labels)
    assert (series.meter, series.customer, series.kind, series.agent) == ("m", "o", "f", "u")
    assert series.resource == "a%2Fb/c"
    other = mapped(rule(customer="org", resource=("host", "disk")), labels | {"host": "a", "disk": "b/c"})
    assert other.resource != series.resource
    assert mapped(rule(customer="org", resource=("host",)), labels).resource == "a/b"
    assert mapped(rule(customer="org"), labels).resource == ""


def test_values_are_scaled_exactly() -> None:
    series = mapped(rule(scale=Decimal("0.0009765625")), {"__name__": "m", "project_name": "p"})
    assert series.scaled(Decimal("1.1")) == Decimal("0.00107421875")
    with pytest.raises(InvalidInput, match="value must be a finite decimal number"):
        series.scaled(Decimal("0.1234567890123456789012345"))


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ({"__name__": "m"}, "missing_label"),
        ({"__name__": "m", "project_name": "p"}, "missing_label"),
        ({"__name__": "m", "project_name": " ", "r": "1"}, "text_empty"),
        ({"__name__": "m", "project_name": "p" * 257, "r": "1"}, "text_too_long"),
        ({"__name__": "m", "project_name": "p", "r": "r" * 257}, "text_too_long"),
        ({"__name__": "m", "project_name": "p", "r": "1", "other": "\0"}, "text_not_storable"),
        ({"__name__": "m", "project_name": "p", "r": "1", "o": "x" * MAX_SERIES_CHARACTERS}, "series_too_long"),
        ({"project_name": "p", "r": "1"}, "text_empty"),
    ],
)
def test_labels_that_cannot_be_mapped_say_why(labels: dict[str, str], code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        map_series(rule(resource=("r",)), labels)
    assert refused.value.code == code


# The file


def write(folder: Path, text: str) -> Path:
    path = folder / "series.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_replaces_the_built_in_rules(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [[series]]
        select = 'project_vcpu_usage{job="project_usages"}'
        resource = "location_id"

        [[series]]
        select = '{__name__=~"node_.*_total"}'
        meter = "node"
        customer = "team"
        resource = ["instance", "device"]
        kind = "device"
        agent = "user"
        scale = 0.5
        query = 'sum by (team) (increase(node_x_total[1h]))'
        """,
    )
    first, second = open_series(path).rules
    assert (first.select, first.meter, first.customer) == (
        'project_vcpu_usage{job="project_usages"}',
        "",
        "project_name",
    )
    assert (first.resource, first.kind, first.agent, first.scale) == (("location_id",), "", "", Decimal(1))
    assert (second.meter, second.customer, second.kind, second.agent) == ("node", "team", "device", "user")
    assert (second.resource, second.scale) == (("instance", "device"), Decimal("0.5"))
    assert second.query == "sum by (team) (increase(node_x_total[1h]))"
    assert open_series(path).rule_of_query(second.query) == second
    assert open_series(None).rules == OPENSTACK


@pytest.mark.parametrize("written", ["1", "1.0", '"1"', "1e0"])
def test_a_scale_is_a_number_with_or_without_quotes(tmp_path: Path, written: str) -> None:
    (only,) = read_rules(write(tmp_path, f"[[series]]\nselect = 'm'\nscale = {written}"))
    assert only.scale == 1
    assert mapped(only, {"__name__": "m", "project_name": "p"}).scale is None


@pytest.mark.parametrize(
    ("text", "reason", "field"),
    [
        ("", "it must have at least one rule, written [[series]]", "series"),
        ("series = 1", "it must have at least one rule, written [[series]]", "series"),
        ("[[series]]\nselect='m'\n[meters]", "'meters' is none of its tables; rules are written [[series]]", "meters"),
        ("[[series]", "it must be TOML: ", None),
        ("[[series]]\nmeter = 'm'", "rule 1: select is required", "series[1].select"),
        ("[[series]]\nselect = 1", "rule 1: select must be a text that is not empty", "series[1].select"),
        (
            "[[series]]\nselect = 'm'\n[[series]]\nselect = 'n'\ncustomr = 'x'",
            "rule 2 (n): customr is none of the fields select, meter, customer, kind, agent, query, resource, scale",
            "series[2].customr",
        ),
        ("[[series]]\nselect = 'm{'", "rule 1 (m{): select cannot be read", "series[1].select"),
        ("[[series]]\nselect = 'm'\ncustomer = ''", "customer must be a text that is not empty", "series[1].customer"),
        ("[[series]]\nselect = 'm'\nmeter = '" + "x" * 257 + "'", "meter must have at most 256", "series[1].meter"),
        (
            "[[series]]\nselect = 'm'\nresource = 5",
            "resource must be the name of a label, or a list",
            "series[1].resource",
        ),
        ("[[series]]\nselect = 'm'\nresource = ['a', 5]", "resource must be a text", "series[1].resource"),
        ("[[series]]\nselect = 'm'\nscale = true", "scale must be a number", "series[1].scale"),
        ("[[series]]\nselect = 'm'\nscale = 'half'", "scale must be a finite decimal number", "series[1].scale"),
        ("[[series]]\nselect = 'm'\nscale = 0", "scale must not be 0", "series[1].scale"),
        ("[[series]]\nselect = 'm'\nscale = nan", "scale must be a finite decimal number", "series[1].scale"),
        ("[[series]]\nselect = 'm'\n" * (MAX_RULES + 1), f"it must have at most {MAX_RULES} rules", "series"),
        ("#" * (MAX_FILE_BYTES + 1), f"it must have at most {MAX_FILE_BYTES} bytes", None),
    ],
)
def test_a_wrong_file_is_refused_by_file_rule_and_field(
    tmp_path: Path, text: str, reason: str, field: str | None
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidSeriesFile) as refused:
        open_series(path)
    assert refused.value.detail.startswith(f"the file of series {path}: ")
    assert reason in refused.value.detail
    assert refused.value.field == field


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSeriesFile, match="it cannot be read: No such file or directory"):
        open_series(tmp_path / "nothing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSeriesFile, match="it must be TOML"):
        open_series(tmp_path / "bytes.toml")
