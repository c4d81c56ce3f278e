"""``tally verify`` and ``tally explain``: the books proved as a whole, and one charge followed with a pencil."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.books import open_books
from tallystick.commands.options import DataDir, ExitCode, Json, Url, read_settings
from tallystick.operations.verify import snapshot
from tallystick.settings import Settings


def verify(
    customer: Annotated[str | None, typer.Option(help="Key of one customer.", show_default="everybody")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Prove the books: what was measured is charged once, what was charged has moved. Ends with 1 if that is not so."""
    settings = read_settings(data_dir=data_dir)
    if url is None:
        verdict = asyncio.run(_verify(settings, customer))
    else:
        verdict = ask(settings, url, lambda api: api.get("verify", customer=customer))
    if json:
        console.print_json(verdict)
    else:
        show_verdict(verdict)
    if not verdict["holds"]:
        raise typer.Exit(ExitCode.NO)


async def _verify(settings: Settings, customer: str | None) -> dict[str, Any]:
    """Without the route between, so that one sees how far it has come: large books take minutes."""
    async with open_books(settings) as service, snapshot(service.pool) as conn:
        with console.progress_bar() as progress:
            task = progress.add_task("", total=None)
            verdict = await service.verify.run(
                conn,
                customer,
                lambda check, done, total: progress.update(task, description=check, completed=done, total=total),
            )
    return verdict.as_json()


def show_verdict(verdict: dict[str, Any]) -> None:
    """Prints a verdict as a table."""
    title = "The books hold" if verdict["holds"] else "The books do NOT hold"
    table = console.table(title, "check", "holds", "detail")
    for check in verdict["checks"]:
        console.add_row(table, (check["name"], "yes" if check["holds"] else "NO", check["detail"]))
    console.out.print(table)


def explain(
    charge: Annotated[str, typer.Argument(help="A charge's id, as a customer's list of charges shows it.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the trail of one charge: measurement, quantity, totals, price, arithmetic, transfer."""
    trail = ask(read_settings(data_dir=data_dir), url, lambda api: api.get("charges", charge))
    if json:
        console.print_json(trail)
    else:
        console.say("\n".join(trail["lines"]))
