"""``tally verify`` and ``tally explain``: the books proved as a whole, and one charge followed with a pencil."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.options import DataDir, ExitCode, Json, Url, read_settings


def verify(
    customer: Annotated[str | None, typer.Option(help="Key of one customer.", show_default="everybody")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Prove the books: all transfers balance, and everything measured is charged exactly once. Ends with 1 if that does not hold."""
    verdict = ask(read_settings(data_dir=data_dir), url, lambda api: api.get("verify", customer=customer))
    if json:
        console.print_json(verdict)
    else:
        show_verdict(verdict)
    if not verdict["holds"]:
        raise typer.Exit(ExitCode.NO)


def show_verdict(verdict: dict[str, Any]) -> None:
    """Prints a verdict as a table."""
    table = console.table("The books hold." if verdict["holds"] else "The books do NOT hold.", "check", "holds", "checked>", "detail")
    for check in verdict["checks"]:
        console.add_row(table, (check["name"], "yes" if check["holds"] else "NO", f"{check['checked']:,}", check["detail"]))
    console.out.print(table)


def explain(
    charge: Annotated[str, typer.Argument(help="A charge's id, as a customer's list of charges shows it.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the trail of one charge, from the measurement through quantity, totals, price and arithmetic to the transfer."""
    trail = ask(read_settings(data_dir=data_dir), url, lambda api: api.get("charges", charge))
    if json:
        console.print_json(trail)
    else:
        show_trail(trail)


def show_trail(trail: dict[str, Any]) -> None:
    """Prints the trail of a charge."""
    console.show_facts(trail)
