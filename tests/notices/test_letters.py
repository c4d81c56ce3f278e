"""What letters say, to whom, and that nothing in them is markup that somebody else wrote."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tallystick.notices.letters import write
from tallystick.notices.model import Addressee, Notice
from tallystick.notices.office import Office
from tallystick.notices.placeholders import check_template
from tests.notices.test_crossing import rule

AT = datetime(2026, 11, 20, 17, 30, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
OFFICE = Office(NEW_YORK, governance="board@example.org", link="https://portal.example.org/usage?a=1&b=2")
LAB = Addressee("lab-7", "Lab Seven", ("ada@example.org", "bob@example.org"))
UNIT = 1_000_000
NOTICE = Notice(UUID(int=1), UUID(int=2), UUID(int=3), "share", 1, Decimal("0.5"), 49_500_000, 100 * UNIT, AT)

KINDS = {
    "share": (NOTICE, "50% Credits left for Project Lab Seven"),
    "exhausted": (
        replace(NOTICE, threshold=Decimal(0), balance=-2 * UNIT),
        "No Credits left for Project Lab Seven",
    ),
    "balance": (
        replace(NOTICE, kind="balance", threshold=Decimal(50 * UNIT)),
        "49.50 credits left for Project Lab Seven",
    ),
    "forecast": (
        replace(NOTICE, kind="forecast", threshold=Decimal(7), spent=70 * UNIT, ends_at=AT.replace(day=25, hour=2)),
        "Credits of Project Lab Seven run out on 2026-11-24",
    ),
    "unusual": (
        replace(NOTICE, kind="unusual", threshold=Decimal("2.5"), spent=30 * UNIT, usual=10 * UNIT),
        "Unusual spending of Project Lab Seven",
    ),
}


class Seen(HTMLParser):
    """The text of a page, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def seen(html: str | None) -> Seen:
    assert html is not None
    page = Seen()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_it_in_text_and_html(kind: str) -> None:
    notice, subject = KINDS[kind]
    letter = write(notice, rule(1, "0.5"), LAB, "CREDIT", OFFICE)
    assert letter.subject == subject
    page = seen(letter.html)
    assert page.links == [OFFICE.link]
    shown = " ".join("".join(page.text).split())
    for fact in ("Lab Seven", "2026-11-20 12:30 EST", letter.text.splitlines()[0]):
        assert fact in letter.text
        assert fact in shown
    assert "{{" not in letter.text
    assert OFFICE.link is not None
    assert OFFICE.link in letter.text
    assert (letter.to, letter.copies) == (("ada@example.org", "bob@example.org"), ("board@example.org",))


def test_in_another_asset_it_is_called_by_its_code() -> None:
    letter = write(NOTICE, None, LAB, "EUR", OFFICE)
    assert letter.subject == "50% EUR left for Project Lab Seven"
    assert "49.50 EUR left of 100 EUR granted" in " ".join(letter.text.split())


def test_a_name_commands_neither_a_header_nor_a_page() -> None:
    evil = Addressee("x", "<script>alert(1)</script>\r\nBcc: all@example.org", ())
    letter = write(NOTICE, None, evil, "CREDIT", OFFICE)
    assert "\n" not in letter.subject
    assert "\r" not in letter.subject
    assert "<script>" not in str(letter.html)
    assert "<script>alert(1)</script>" in "".join(seen(letter.html).text)
    own = replace(OFFICE, templates={"share": check_template("To $project", "b")})
    assert "\n" not in write(NOTICE, None, evil, "CREDIT", own).subject


@pytest.mark.parametrize(
    ("recipients", "copies", "governance", "to", "cc"),
    [
        (("maintainers",), ("governance",), "board@example.org", ["ada", "bob"], ["board"]),
        (("maintainers",), ("governance",), None, ["ada", "bob"], []),
        (("maintainers", "eve@example.org"), (), "board@example.org", ["ada", "bob", "eve"], []),
        (
            ("ADA@example.org", "maintainers"),
            ("bob@example.org", "governance"),
            "board@example.org",
            ["ADA", "bob"],
            ["board"],
        ),
        (("governance",), ("governance", "maintainers"), "board@example.org", ["board"], ["ada", "bob"]),
        (("governance",), ("maintainers",), None, ["ada", "bob"], []),
    ],
)
def test_who_gets_it(
    recipients: tuple[str, ...], copies: tuple[str, ...], governance: str | None, to: list[str], cc: list[str]
) -> None:
    asked = rule(1, "0.5", recipients=recipients, copies=copies)
    letter = write(NOTICE, asked, LAB, "CREDIT", replace(OFFICE, governance=governance))
    assert [address.partition("@")[0] for address in letter.to] == to
    assert [address.partition("@")[0] for address in letter.copies] == cc


def test_the_overwrite_gets_it_alone() -> None:
    letter = write(NOTICE, rule(1, "0.5"), LAB, "CREDIT", replace(OFFICE, overwrite="test@example.org"))
    assert (letter.to, letter.copies) == (("test@example.org",), ())


def test_a_folders_template_goes_before_the_shipped_one_and_a_rules_own_before_both() -> None:
    office = replace(
        OFFICE, templates={"share": check_template("$share of $project", "$credits_used of $credits_granted")}
    )
    letter = write(NOTICE, rule(1, "0.5"), LAB, "CREDIT", office)
    assert (letter.subject, letter.text, letter.html) == ("50 of Lab Seven", "50.50 of 100.00", None)
    own = rule(1, "0.5", subject="$project", body="$link", placeholders={"project": "mine"})
    letter = write(NOTICE, own, LAB, "CREDIT", office)
    assert (letter.subject, letter.text) == ("mine", OFFICE.link)
    exhausted = replace(NOTICE, threshold=Decimal(0))
    assert write(exhausted, rule(1, "0"), LAB, "CREDIT", office).html is not None
