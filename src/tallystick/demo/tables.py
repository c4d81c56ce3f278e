"""What the demo shows at the end: balances, a bill, one charge explained, and that nothing was lost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from tallystick.commands import console


def customers(shown: list[dict[str, Any]]) -> Table:
    """Customers with their balances; what one pays for others is on its own."""
    table = console.table("Customers", "customer", "policy", "asset", "granted>", "used>", "balance>")
    for customer in shown:
        who = (customer["name"], customer["credit_policy"])
        for balance in customer["balances"]:
            console.add_row(table, (*who, *(balance[name] for name in ("asset", "granted", "used", "balance"))))
        if customer["payer"]:
            console.add_row(table, (*who, f"paid for by {customer['payer']}", None, None, None))
    return table


def bill(shown: dict[str, Any]) -> Table:
    """A bill with its lines, and the sum of each asset."""
    title = f"Bill of {shown['customer']} for {shown['month']}, {shown['state']}"
    table = console.table(title, "usage", "quantity>", "price", "amount>", "asset")
    for line in shown["lines"]:
        usage = f"{line['name']} {line['kind']}"
        quantity = f"{Decimal(line['quantity']):,f} {line['unit']}"
        price = _price(line["model"]) if line["model"] else "none yet: it waits"
        console.add_row(table, (usage, quantity, price, line["amount"], line["asset"]))
    for total in shown["totals"]:
        console.add_row(table, ("total", None, None, total["amount"], total["asset"]))
    return table


def _price(model: dict[str, Any]) -> str:
    if model["type"] == "per_unit":
        return f"{model['amount']} per {model['per']}"
    tiers = [
        f"{tier['amount']} per {tier['per']} {'up to ' + tier['up_to'] if tier['up_to'] else 'beyond'}"
        for tier in model["tiers"]
    ]
    return ", ".join(tiers)


def explanation(trail: dict[str, Any]) -> Group:
    """The trail of one charge."""
    return Group("[bold]One charge, explained[/]", *(escape(console.plain(line)) for line in trail["lines"]))


def account_for(counts: dict[str, int], quarantine: list[dict[str, Any]]) -> Table:
    """Where everything is that was sent."""
    table = console.table("Nothing is lost", "what", "count>", "where it is")
    for what, where in (
        ("sent", "events and lines, repetitions included"),
        ("charged", "on the bills"),
        ("duplicates", "sent again, recorded once"),
        ("unpriced", "measured and totalled; charged as soon as there is a price"),
    ):
        console.add_row(table, (what, f"{counts[what]:,}", where))
    for piece in quarantine:
        console.add_row(table, ("unreadable", 1, f"in quarantine: {piece['detail']}"))
    return table


def proof(verdict: dict[str, Any], expected: dict[str, str], billed: dict[str, str]) -> Table:
    """The verdict over the books, and the sums that were worked out a second time."""
    table = console.table("The books, proved", "check", "holds", "detail")
    for check in verdict["checks"]:
        console.add_row(table, (check["name"], "yes" if check["holds"] else "NO", check["detail"]))
    for asset, amount in expected.items():
        same = billed.get(asset) == amount
        detail = f"{amount} {asset} expected, {billed.get(asset)} {asset} on the bills"
        console.add_row(table, ("bills_as_expected", "yes" if same else "NO", detail))
    return table
