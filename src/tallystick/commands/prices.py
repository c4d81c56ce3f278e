"""``tally prices``: what usage costs."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.options import Cursor, DataDir, InvalidUsage, Json, Limit, Url, read_settings
from tallystick.kernel.money import CREDIT

app = typer.Typer(help="List and create prices.", no_args_is_help=True)


@app.command("list")
def list_prices(
    meter: Annotated[str | None, typer.Option(help="Only of this meter.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List prices by meter, kind and age. Each ends where the next one of its kind starts."""
    settings = read_settings(data_dir=data_dir)
    page = ask(settings, url, lambda api: api.get("prices", meter=meter, limit=limit, cursor=cursor))
    fields = ("meter", "kind", "customer", "effective_from", "asset", "quantum", "model")
    console.show_page(page, "Prices", fields, as_json=json)


@app.command("create")
def create_price(
    meter: Annotated[str, typer.Argument(help="Key of the meter.")],
    effective_from: Annotated[str, typer.Option("--from", help="When it starts, as 2026-01-01T00:00:00Z.")],
    kind: Annotated[str, typer.Option(help="Kind of resource within the meter.", show_default="the empty kind")] = "",
    customer: Annotated[str | None, typer.Option(help="Only for this customer.", show_default="everybody")] = None,
    amount: Annotated[str | None, typer.Option(help="So much ...")] = None,
    per: Annotated[str, typer.Option(help="... for so many units.")] = "1",
    model: Annotated[str | None, typer.Option(help='Instead of amount and per: a model, as {"type": ...}.')] = None,
    asset: Annotated[str, typer.Option(help="Credits or a currency.")] = CREDIT,
    quantum: Annotated[str, typer.Option(help="The step that totals are rounded to.")] = "0.000001",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Create a price. Usage that has waited for it is charged at once."""
    wanted = {
        "meter": meter,
        "kind": kind,
        "customer": customer,
        "effective_from": effective_from,
        "asset": asset,
        "quantum": quantum,
        "model": _model(amount, per, model),
    }
    price = ask(read_settings(data_dir=data_dir), url, lambda api: api.post("prices", json=wanted))
    if json:
        console.print_json(price)
    else:
        console.show_facts(price)


def _model(amount: str | None, per: str, model: str | None) -> object:
    if (amount is None) == (model is None):
        raise InvalidUsage("give either --amount or --model", field="model")
    if model is None:
        return {"type": "per_unit", "amount": amount, "per": per}
    try:
        # Numbers stay text: a binary float would not be the price that was written.
        return json_text.loads(model, parse_float=str)
    except ValueError as error:
        raise InvalidUsage(f"--model must be JSON: {error}", field="model") from None
