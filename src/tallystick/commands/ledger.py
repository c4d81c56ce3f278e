"""``tally ledger``: where the balances are kept."""

from __future__ import annotations

import asyncio
from typing import Annotated

import psycopg
import typer

from tallystick.commands import console
from tallystick.commands.books import database
from tallystick.commands.options import DataDir, ExitCode, InvalidUsage, Json, read_settings
from tallystick.database.migrate import migrate
from tallystick.kernel.clock import SystemClock
from tallystick.ledger.postgres import Journal
from tallystick.ledger.tigerbeetle.addresses import Cluster, parse_cluster
from tallystick.ledger.tigerbeetle.copying import Copy, Progress, Proof
from tallystick.settings import Settings

app = typer.Typer(help="Move the books to a TigerBeetle cluster.", no_args_is_help=True)


@app.callback()
def ledger() -> None:
    """Move the books to a TigerBeetle cluster."""


@app.command("copy")
def copy(
    to: Annotated[
        str | None,
        typer.Option(help="The cluster, as tigerbeetle://CLUSTER@HOST:PORT,HOST:PORT.", show_default="TALLY_LEDGER"),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Copy the books from PostgreSQL to TigerBeetle and prove that they are equal, account by account.

    Stop the service first: nothing can be posted meanwhile. A copy that was stopped goes on where it ended. Ends with 1
    if an account differs.
    """
    settings = read_settings(data_dir=data_dir)
    cluster = parse_cluster(to) if to is not None else settings.tigerbeetle
    if cluster is None:
        raise InvalidUsage("say which cluster: --to tigerbeetle://CLUSTER@HOST:PORT, or TALLY_LEDGER", field="to")
    with console.progress_bar("rows") as bar:
        task = bar.add_task("", total=None)
        proof = asyncio.run(
            _copy(
                settings,
                cluster,
                lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
            )
        )
    if json:
        console.print_json(proof.as_json())
    else:
        _show(proof, cluster)
    if not proof.equal:
        raise typer.Exit(ExitCode.NO)


async def _copy(settings: Settings, cluster: Cluster, progress: Progress) -> Proof:
    from tallystick.ledger.tigerbeetle.client import TigerBeetleClient  # loads a native library

    with database(settings) as url:  # blocks the loop, on which nothing else runs
        await asyncio.to_thread(migrate, url)
        client = TigerBeetleClient(*cluster)
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn, conn.transaction():
                return await Copy(conn, Journal(SystemClock()), client, cluster, progress).run()
        finally:
            await client.close()


def _show(proof: Proof, cluster: Cluster) -> None:
    verdict = "The ledgers are equal" if proof.equal else "The ledgers are NOT equal"
    table = console.table(f"{verdict}: PostgreSQL, and TigerBeetle at {cluster.addresses}", "what", "number>")
    console.add_row(table, ("accounts compared", f"{proof.accounts:,}"))
    console.add_row(table, ("accounts that differ", f"{proof.different:,}"))
    console.add_row(table, ("transfers copied", f"{proof.transfers:,}"))
    console.add_row(table, ("ids that stay failed", f"{proof.failures:,}"))
    console.out.print(table)
    for difference in proof.differences:
        console.say(difference)
    if proof.equal:
        console.say(f"Start the service with TALLY_LEDGER=tigerbeetle://{cluster.id}@{cluster.addresses}")
