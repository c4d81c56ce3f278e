"""What a notice says, as text and as HTML, and to whom: the same for sending and for looking at it before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from tallystick.kernel.money import CREDIT, MICROUNITS, format_amount, format_quantity
from tallystick.notices.model import GOVERNANCE, MAINTAINERS, Addressee, Letter, Notice, Rule
from tallystick.notices.office import Office
from tallystick.notices.placeholders import OwnTemplate

CALM: Final = "#2f6f5e"
URGENT: Final = "#a8442a"

_WORDS = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def write(notice: Notice, rule: Rule | None, addressee: Addressee, asset: str, office: Office) -> Letter:
    """The letter about a notice; by what is usual, if its rule has been removed meanwhile."""
    to, copies = _people(rule, addressee, office)
    facts = _facts(notice, addressee, asset, office)
    if own := _own_template(notice, rule, office):
        subject, text = own.filled({**facts, **(rule.placeholders if rule else {})})
        return Letter(_line(subject), text, None, to, copies)
    words: Any = _WORDS.get_template(f"{template_of(notice)}.jinja").make_module(dict(facts))
    said = {"subject": _line(words.subject), "headline": words.headline, "message": words.message}
    look = {**facts, **said, **_look(notice, facts)}
    text = _WORDS.get_template("layout.txt").render(look)
    return Letter(said["subject"], text, _WORDS.get_template("layout.html").render(look), to, copies)


def template_of(notice: Notice) -> str:
    """Which template says it."""
    return "exhausted" if notice.exhausted else notice.kind


def _own_template(notice: Notice, rule: Rule | None, office: Office) -> OwnTemplate | None:
    if rule is not None and rule.subject is not None and rule.body is not None:
        return OwnTemplate(rule.subject, rule.body)
    return office.templates.get(template_of(notice))


def _people(rule: Rule | None, addressee: Addressee, office: Office) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """To whom it goes, and to whom in copy; nobody gets it twice. Without anybody else a copy is the letter itself."""
    if office.overwrite:
        return (office.overwrite,), ()
    symbols = {MAINTAINERS: addressee.maintainers, GOVERNANCE: (office.governance,) if office.governance else ()}
    to = _distinct(rule.recipients if rule else (MAINTAINERS,), symbols, ())
    copies = _distinct(rule.copies if rule else (GOVERNANCE,), symbols, to)
    return (to, copies) if to else (copies, ())


def _distinct(names: Iterable[str], symbols: Mapping[str, tuple[str, ...]], others: Iterable[str]) -> tuple[str, ...]:
    """The addresses behind names, each once in whatever case, without the ``others``."""
    known = {address.lower() for address in others}
    found: dict[str, str] = {}
    for name in names:
        for address in symbols.get(name, (name,)):
            if address.lower() not in known:
                found.setdefault(address.lower(), address)
    return tuple(found.values())


def _facts(notice: Notice, addressee: Addressee, asset: str, office: Office) -> dict[str, str]:
    """What templates may name, as text."""

    def money(amount: int | None) -> str:
        return "" if amount is None else _amount(amount, asset)

    share = format_quantity(notice.threshold * 100) if notice.kind == "share" else ""
    ends_on = notice.ends_at.astimezone(office.zone).date().isoformat() if notice.ends_at else ""
    return {
        "project": addressee.name or addressee.key,
        "customer": addressee.name or addressee.key,
        "credits_used": format_amount(notice.granted - notice.balance, places=2),
        "credits_granted": format_amount(notice.granted, places=2),
        "credits_left": format_amount(notice.balance, places=2),
        "asset": asset,
        "unit": "Credits" if asset == CREDIT else asset,
        "units": "credits" if asset == CREDIT else asset,
        "balance": money(notice.balance),
        "granted": money(notice.granted),
        "used": money(notice.granted - notice.balance),
        "threshold": money(int(notice.threshold)) if notice.kind == "balance" else format_quantity(notice.threshold),
        "share": share,
        "spent": money(notice.spent),
        "usual": money(notice.usual),
        "ends_on": ends_on,
        "at": _instant(notice.raised_at, office.zone),
        "link": office.link or "",
    }


def _look(notice: Notice, facts: Mapping[str, str]) -> dict[str, Any]:
    """What only the shipped letters show: a table of figures, the bar of what is left, and what the rule is about."""
    table = [("Left", facts["balance"])]
    if notice.granted > 0:
        table += [("Granted", facts["granted"]), ("Used", facts["used"])]
    if notice.kind == "unusual":
        table += [("Spent today", facts["spent"]), ("Usual day", facts["usual"])]
    if notice.kind == "forecast":
        table += [("Used lately", facts["spent"]), ("Runs out", facts["ends_on"])]
    percent = max(0, min(100, notice.balance * 100 // notice.granted)) if notice.granted > 0 else None
    low = notice.kind != "unusual" and (notice.balance <= 0 or (percent is not None and percent <= 20))
    return {
        "facts": [*table, ("As of", facts["at"])],
        "percent": percent,
        "color": URGENT if low else CALM,
        "about": _about(notice, facts),
    }


def _about(notice: Notice, facts: Mapping[str, str]) -> str:
    match notice.kind:
        case "share":
            return f"{facts['share']}% of what was granted"
        case "balance":
            return f"a balance of {facts['threshold']}"
        case "forecast":
            return f"balances that run out within {facts['threshold']} days"
        case "unusual":
            return f"days on which more than {facts['threshold']} times the usual is spent"


def _amount(amount: int, asset: str) -> str:
    places = 2 if amount % MICROUNITS else 0
    return f"{format_amount(amount, places=places)} {'credits' if asset == CREDIT else asset}"


def _instant(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


def _line(text: str) -> str:
    """One line, as a header must be: names come from outside."""
    return " ".join(text.split())
