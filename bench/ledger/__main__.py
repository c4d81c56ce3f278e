"""`python -m bench.ledger`: the ledger's engines, one after the other on this machine, and how they compare.

pgledger joins with `--pgledger CHECKOUT`, TigerBeetle with TIGERBEETLE_BIN (a server is started) or
TIGERBEETLE_ADDRESS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench.client import BenchError
from bench.ledger import pgledger, postgres, tigerbeetle
from bench.report import LATEST as LATEST_OF_ALL
from bench.report import Failure, Figure, Report, describe_machine, format_number, print_report
from tallystick.database.embedded import EmbeddedPostgres
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.ledger.tigerbeetle.server import running_server

LATEST: Final = LATEST_OF_ALL.with_name("ledger.json")


def main() -> int:
    """Exit status 0 means that everything could be measured, whether or not targets are met."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="measured time of each load")
    parser.add_argument("--pgledger", type=Path, default=os.environ.get("PGLEDGER_DIR"), help="a checkout of pgledger")
    parser.add_argument("--json", type=Path, help="write the report there too")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="tally-bench-") as folder:
        report = measure(Path(folder), arguments.seconds, arguments.pgledger, console)
    print_report(report, console)
    print_ratios(report.figures, console)
    LATEST.parent.mkdir(exist_ok=True)
    for path in filter(None, (LATEST, arguments.json)):
        path.write_bytes(report.to_json())
        console.print(f"written: {path}", style="dim", highlight=False)
    return 1 if report.failures else 0


def measure(folder: Path, seconds: int, checkout: Path | None, console: Console) -> Report:
    """All engines that are there, one after the other."""
    figures: list[Figure] = []
    failures: list[Failure] = []

    def run(name: str, load: Callable[[], Awaitable[list[Figure]]]) -> None:
        console.print(f"[bold]{name}[/]", highlight=False)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `tally serve` runs
                figures.extend(runner.run(_awaited(load)))
        except BenchError as error:
            failures.append(Failure(name, str(error)))

    with EmbeddedPostgres.start(folder / "data") as server:
        machine = describe_machine(folder, "embedded")
        run("postgres: batches", lambda: _with_service(server.url, lambda s: postgres.batches(s, seconds)))
        run("postgres: singles", lambda: _with_service(server.url, lambda s: postgres.singles(s, seconds)))
        if checkout is not None:
            run("pgledger: singles", lambda: pgledger.singles(server.url, checkout, seconds))
    with _tigerbeetle(folder) as address:
        if address is None:
            console.print("tigerbeetle: skipped, neither TIGERBEETLE_BIN nor TIGERBEETLE_ADDRESS is set")
        else:
            run("tigerbeetle: our adapter", lambda: _one(tigerbeetle.adapter(0, address, seconds)))
            run("tigerbeetle: stock client", lambda: _one(tigerbeetle.stock(0, address, seconds)))
    return Report(machine, figures, failures)


def print_ratios(figures: list[Figure], console: Console) -> None:
    """Each figure as a multiple of what people would use instead."""
    others = [figure for figure in figures if figure.benchmark == pgledger.BENCHMARK or "stock" in figure.name]
    if not others:
        return
    table = Table(title="Ratios", title_justify="left", header_style="bold")
    table.add_column("")
    for other in others:
        table.add_column(f"to {other.benchmark}: {other.name}", justify="right")
    for figure in figures:
        table.add_row(
            f"{figure.benchmark}: {figure.name}",
            *(f"{format_number(figure.value / other.value)} x" for other in others),
        )
    console.print(table)


@contextmanager
def _tigerbeetle(folder: Path) -> Iterator[str | None]:
    if address := os.environ.get("TIGERBEETLE_ADDRESS"):
        yield address
    elif os.environ.get("TIGERBEETLE_BIN"):
        with running_server(folder, mode=()) as address:
            yield address
    else:
        yield None


async def _with_service(url: str, load: Callable[[Service], Awaitable[list[Figure]]]) -> list[Figure]:
    async with open_service(Settings(), url) as service:
        return await load(service)


async def _one(figure: Awaitable[Figure]) -> list[Figure]:
    return [await figure]


async def _awaited(load: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await load()


if __name__ == "__main__":
    sys.exit(main())
