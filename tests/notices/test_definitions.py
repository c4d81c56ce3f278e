"""What a rule, a template and a maintainer must be: refused when defined, by field and rule."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tallystick.customers.maintainers import MAX_MAINTAINERS, maintainers_of, put_maintainers
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.notices.definitions import MAX_RECIPIENTS, check_rule
from tallystick.notices.model import NewRule
from tallystick.notices.placeholders import check_template, read_templates
from tallystick.notices.service import MAX_RULES
from tallystick.service import Service
from tests.notices.conftest import define, instruct


def new(kind: Any = "share", threshold: str = "0.5", **others: Any) -> NewRule:
    return NewRule(kind, Decimal(threshold), **others)


@pytest.mark.parametrize(
    "rule",
    [
        new("share", "0"),
        new("share", "1"),
        new("share", "0.333333"),
        new("balance", "-5", asset="CREDIT"),
        new("forecast", "366"),
        new("unusual", "1.5"),
        new(recipients=("ada@example.org", "maintainers"), copies=()),
        new(subject="$project has ${credits_left}", body="$$ and $mine", placeholders={"mine": "me"}),
        new(subject="$project", body="own before built-in", placeholders={"project": "ours"}),
    ],
)
def test_a_rule_that_is_whole(rule: NewRule) -> None:
    check_rule(rule)


@pytest.mark.parametrize(
    ("rule", "field", "says"),
    [
        (new("share", "-0.1"), "threshold", "must be from 0 to 1"),
        (new("share", "1.000001"), "threshold", "must be from 0 to 1"),
        (new("share", "0.1234567"), "threshold", "at most 6 decimal places"),
        (new("balance", "5"), "asset", "must be given"),
        (new("balance", str(10**30), asset="CREDIT"), "threshold", "must not exceed"),
        (new("forecast", "0"), "threshold", "1 to 366 whole days"),
        (new("forecast", "1.5"), "threshold", "1 to 366 whole days"),
        (new("unusual", "1"), "threshold", "above 1"),
        (new("unusual", "1001"), "threshold", "above 1"),
        (new(recipients=()), "recipients", "must not be empty"),
        (new(recipients=("ada",)), "recipients", "'ada' is none"),
        (new(copies=("everybody",)), "copies", "'everybody' is none"),
        (new(recipients=("a@example.org", "A@example.org")), "recipients", "twice"),
        (new(recipients=tuple(f"{n}@example.org" for n in range(MAX_RECIPIENTS + 1))), "recipients", "at most 50"),
        (new(subject="only"), "body", "must be given with a subject"),
        (new(body="only"), "subject", "must be given with a body"),
        (new(subject=" ", body="b"), "subject", "must not be empty"),
        (new(subject="s", body=" "), "body", "must not be empty"),
        (new(subject="a\nb", body="b"), "subject", "a single line"),
        (new(subject="$projekt", body="b"), "subject", "unknown placeholder: $projekt"),
        (new(subject="s", body="${projekt}"), "body", "unknown placeholder: $projekt"),
        (new(subject="s", body="costs $5"), "body", "begins no placeholder"),
        (new(subject="s", body="${project"), "body", "begins no placeholder"),
        (new(placeholders={"a": "b"}), "placeholders", "need a subject and a body"),
        (new(subject="s", body="b", placeholders={"a-b": "c"}), "placeholders", "letters, digits and _"),
        (new(subject="s", body="b", placeholders={"a": "c" * 1001}), "placeholders", "at most 1000 characters"),
        (new(subject="s", body="b", placeholders={f"p{n}": "" for n in range(51)}), "placeholders", "at most 50"),
    ],
)
def test_a_rule_that_is_not(rule: NewRule, field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_rule(rule)
    assert refused.value.field == field
    assert says in refused.value.detail


def test_ones_own_placeholders_go_first_and_what_nobody_knows_stays() -> None:
    template = check_template("$project", "$mine", {"mine", "project"})
    assert template.filled({"project": "ours"}) == ("ours", "$mine")


def test_templates_are_read_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "share.txt").write_text("Subject: ${share}% left\n\nDear $project.\n")
    (tmp_path / "notes.md").write_text("not one")
    found = read_templates(tmp_path)
    assert list(found) == ["share"]
    assert found["share"].filled({"share": "50", "project": "lab"}) == ("50% left", "Dear lab.\n")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("half.txt", b"Subject: s\n\nb", "named after no kind"),
        ("share.txt", b"s\n\nb", "must begin with a line 'Subject:'"),
        ("share.txt", b"Subject: s\n\n", "body must not be empty"),
        ("share.txt", b"Subject: $nobody\n\nb", "unknown placeholder: $nobody"),
        ("share.txt", b"Subject: \xff\n\nb", "cannot be read"),
    ],
)
def test_a_folder_with_something_else(tmp_path: Path, name: str, text: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InvalidInput, match=name) as refused:
        read_templates(tmp_path)
    assert says in refused.value.detail


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        read_templates(tmp_path / "none")


async def test_the_standard_rules_are_there(service: Service) -> None:
    async with service.pool.connection() as conn:
        rules = (await service.notices.rules(conn, None, None, 10)).items
    assert [(rule.kind, rule.threshold, rule.customer, rule.asset) for rule in rules] == [
        ("share", Decimal("0.5"), None, None),
        ("share", Decimal("0.2"), None, None),
        ("share", Decimal(0), None, None),
    ]
    assert {(rule.recipients, rule.copies) for rule in rules} == {(("maintainers",), ("governance",))}


async def test_the_same_rule_is_not_defined_twice(service: Service) -> None:
    await instruct(service, "open", "lab", 1)
    with pytest.raises(Conflict):
        await define(service, "share", "0.50")
    for others in ({}, {"customer": "lab"}, {"asset": "EUR"}, {"customer": "lab", "asset": "EUR"}):
        await define(service, "share", "0.25", **others)
        with pytest.raises(Conflict):
            await define(service, "share", "0.25", **others)


async def test_whom_a_rule_names_must_be_there(service: Service) -> None:
    with pytest.raises(NotFound):
        await define(service, "share", "0.25", customer="nobody")
    with pytest.raises(InvalidInput) as refused:
        await define(service, "share", "0.25", asset="PEBBLE")
    assert refused.value.field == "asset"


async def test_there_is_an_end_of_rules(service: Service) -> None:
    await instruct(service, "open", "lab", 1)
    for number in range(MAX_RULES):
        await define(service, "forecast", number + 1, customer="lab")
    with pytest.raises(Conflict, match="the most there may be"):
        await define(service, "share", "0.1", customer="lab")
    await define(service, "share", "0.1")


async def test_maintainers_are_put_and_forgotten_with_their_customer(service: Service) -> None:
    await instruct(service, "open", "lab", 1)
    await define(service, "share", "0.1", customer="lab", recipients=("ada@example.org",))
    async with service.pool.connection() as conn:
        lab = await service.customers.get(conn, "lab")
        async with conn.transaction():
            assert await put_maintainers(conn, lab.id, ["b@example.org", "a@example.org"]) == [
                "a@example.org",
                "b@example.org",
            ]
            await put_maintainers(conn, lab.id, ["b@example.org", "c@example.org"])
        assert await maintainers_of(conn, lab.id) == ["b@example.org", "c@example.org"]
        for wrong in (
            ["x"],
            ["a@example.org", "A@example.org"],
            [f"{n}@example.org" for n in range(MAX_MAINTAINERS + 1)],
        ):
            with pytest.raises(InvalidInput) as refused:
                await put_maintainers(conn, lab.id, wrong)
            assert refused.value.field == "maintainers"
        async with conn.transaction():
            await service.accounts.delete(conn, lab.id)
        assert await maintainers_of(conn, lab.id) == []
        rules = (await service.notices.rules(conn, None, None, 10)).items
        assert all(rule.customer_id is None for rule in rules)
