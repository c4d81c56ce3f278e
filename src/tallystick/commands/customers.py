"""``tally customers``: who is metered or pays, and what they have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.options import Cursor, DataDir, Json, Limit, Url, read_settings
from tallystick.kernel.money import CREDIT

app = typer.Typer(help="List, show and create customers, and grant them credits.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(help="The customer's key.")]
Policy = Literal["postpaid", "prepaid"]
Posting = Literal["immediate", "monthly"]


@app.command("list")
def list_customers(
    limit: Limit = 100, cursor: Cursor = None, url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """List customers in the order of their keys."""
    page = ask(read_settings(data_dir=data_dir), url, lambda api: api.get("customers", limit=limit, cursor=cursor))
    fields = ("key", "name", "email", "parent", "payer", "credit_policy", "posting_policy")
    console.show_page(page, "Customers", fields, as_json=json)


@app.command("show")
def show_customer(key: Key, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show one customer with its balances."""
    _show(ask(read_settings(data_dir=data_dir), url, lambda api: api.get("customers", key)), as_json=json)


@app.command("create")
def create_customer(
    key: Key,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    email: Annotated[str | None, typer.Option(help="Where it reads mail; no two customers share one.")] = None,
    parent: Annotated[str | None, typer.Option(help="Key of the customer it belongs to.")] = None,
    payer: Annotated[str | None, typer.Option(help="Key of the customer that pays.", show_default="itself")] = None,
    credit_policy: Annotated[Policy, typer.Option(help="Whether bills are refused when it is empty.")] = "postpaid",
    posting_policy: Annotated[
        Posting, typer.Option(help="Whether usage moves money at once, or when its month is over.")
    ] = "immediate",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Create a customer. Usage of an unknown key creates one too, postpaid."""
    wanted: dict[str, str | None] = {"key": key, "name": name, "email": email, "parent": parent, "payer": payer}
    wanted |= {"credit_policy": credit_policy, "posting_policy": posting_policy}
    _show(ask(read_settings(data_dir=data_dir), url, lambda api: api.post("customers", json=wanted)), as_json=json)


@app.command("grant")
def grant_credits(
    key: Key,
    amount: Annotated[str, typer.Argument(help="A decimal number, for example 200 or 99.75.")],
    asset: Annotated[str, typer.Option(help="Credits or a currency.")] = CREDIT,
    reason: Annotated[str | None, typer.Option(help="Kept with the grant.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key grants once, however often.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Give credits to a customer."""
    wanted = {"asset": asset, "amount": amount, "reason": reason}
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
    settings = read_settings(data_dir=data_dir)
    granted = ask(settings, url, lambda api: api.post("customers", key, "grants", json=wanted, headers=headers))
    if json:
        console.print_json(granted)
    else:
        console.say(f"{key} has been granted {granted['amount']} {asset}; its balance is {granted['balance']} {asset}.")


def _show(customer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.print_json(customer)
        return
    balances = customer.pop("balances")
    console.show_facts(customer)
    table = console.table("Balances", "asset", "granted>", "used>", "balance>", "available>")
    for balance in balances:
        console.add_row(table, [balance[name] for name in ("asset", "granted", "used", "balance", "available")])
    console.out.print(table)
