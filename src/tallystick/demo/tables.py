"""What the demo shows at the end: balances, a bill, one charge explained, and that nothing was lost."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tallystick.commands import console


def customers(shown: list[dict[str, Any]]) -> Table:
    """Customers with their balances; one that pays for others has theirs on its own."""
    table = console.table("Customers", "customer", "policy", "paid by", "asset", "granted>", "used>", "balance>")
    for customer in shown:
        facts = (customer["name"], customer["credit_policy"], customer["payer"])
        for balance in customer["balances"] or [dict.fromkeys(("asset", "granted", "used", "balance"))]:
            console.add_row(table, (*facts, *(balance[name] for name in ("asset", "granted", "used", "balance"))))
    return table


def bill(shown: dict[str, Any]) -> Table:
    """A bill with its lines, and the sum of each asset."""
    title = f"Bill of {shown['customer']} for {shown['month']} ({shown['state']})"
    table = console.table(title, "usage", "kind", "quantity>", "unit", "measurements>", "price", "amount>", "asset")
    for line in shown["lines"]:
        measurements = f"{line['measurements']:,}"
        price = _price(line["model"]) if line["model"] else "none yet"
        cells = (line["name"], line["kind"], line["quantity"], line["unit"], measurements, price, line["amount"], line["asset"])
        console.add_row(table, cells)
    for total in shown["totals"]:
        console.add_row(table, ("total", *[None] * 5, total["amount"], total["asset"]))
    return table


def _price(model: dict[str, Any]) -> str:
    if model["type"] == "per_unit":
        return f"{model['amount']} per {model['per']}"
    return ", ".join(
        f"{tier['amount']} per {tier['per']}" + (f" up to {tier['up_to']}" if tier["up_to"] else " beyond") for tier in model["tiers"]
    )


def explanation(trail: dict[str, Any]) -> RenderableType:
    """The trail of one charge."""
    return Group("[bold]One charge, explained[/]", *(escape(line) for line in trail["lines"]))


def account_for(counts: dict[str, int], reasons: list[dict[str, Any]]) -> Table:
    """Where everything is that was sent."""
    table = console.table("Nothing is lost", "what", "count>", "where it is")
    console.add_row(table, ("sent", f"{counts['sent']:,}", "events and lines, repetitions included"))
    console.add_row(table, ("charged", f"{counts['charged']:,}", "measurements on the bills"))
    console.add_row(table, ("known already", f"{counts['duplicates']:,}", "sent again, recorded once"))
    console.add_row(table, ("without a price", f"{counts['unpriced']:,}", "measured and totalled; the price charges them when it comes"))
    for reason in reasons:
        console.add_row(table, ("unreadable", "1", f"in quarantine: {reason['detail']} ({reason['code']})"))
    return table


def proof(shown: dict[str, Any], expected: dict[str, str], charged: dict[str, str]) -> Table:
    """The proof, and the sums that were worked out a second time."""
    table = console.table("The books, proved", "check", "holds", "detail")
    for check in shown["checks"]:
        console.add_row(table, (check["name"], _yes(check["holds"]), check["detail"]))
    for asset, amount in expected.items():
        same = charged.get(asset) == amount
        console.add_row(table, ("expected_equals_charged", _yes(same), f"{amount} {asset} expected, {charged.get(asset)} {asset} on the bills"))
    return table


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"
