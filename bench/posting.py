"""`python -m bench.posting`: how long a month takes to post, whatever number of measurements it has.

Beside it, on the same server, the way of the platform's billing: every measurement priced by one UPDATE, then grouped
and posted. The books are written by SQL as intake would leave them; what is measured is `tally post` itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from psycopg import AsyncConnection
from rich.console import Console

from bench.client import BenchError
from bench.report import LATEST as LATEST_OF_ALL
from bench.report import Figure, Report, below, describe_machine, print_report
from tallystick.database.embedded import EmbeddedPostgres
from tallystick.database.queries import Queries
from tallystick.kernel.calendar import Month, parse_month
from tallystick.kernel.clock import TestClock
from tallystick.metering.model import Meter
from tallystick.operations.verify import snapshot
from tallystick.pricing.functions import MIN_QUANTUM, parse_model
from tallystick.pricing.model import NewPrice
from tallystick.service import Service, open_service
from tallystick.settings import Settings

LATEST: Final = LATEST_OF_ALL.with_name("posting.json")

KINDS: Final = 8
MONTHS: Final = (("2026-01", 1), ("2026-02", 50))
"""A month, and how many measurements each of its totals has."""

METER: Final = "cfapps"
MICROCREDITS: Final = 10_000
"""What a measurement costs."""

LIMIT_SECONDS: Final = 60

_SQL = Queries(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True)
class Load:
    """A month of usage of customers of its own."""

    month: Month
    customers: int
    each: int

    @property
    def name(self) -> str:
        return f"{self.each} to a total"

    @property
    def cost(self) -> int:
        """What the month comes to, in microcredits."""
        return self.customers * KINDS * self.each * MICROCREDITS

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "name": f"customer-{self.month}-",
            "customers": self.customers,
            "each": self.each,
            "at": self.month.start,
            "until": self.month.end,
            "period": self.month.first_day,
            "amount": MICROCREDITS,
            "first": self.month.first_day.toordinal() * 1_000,
        }


def main() -> int:
    """Exit status 0 means that everything was measured and came to the right sums, whether or not targets are met."""
    parser = argparse.ArgumentParser(prog="python -m bench.posting", description=__doc__)
    parser.add_argument("--customers", type=int, default=100_000, help=f"each with {KINDS} usage totals a month")
    parser.add_argument(
        "--verify", action="store_true", help="verify the books at the end (minutes, if they are large)"
    )
    parser.add_argument("--json", type=Path, help="write the report there too")
    arguments = parser.parse_args()
    console = Console()
    loads = [Load(parse_month(month), arguments.customers, each) for month, each in MONTHS]
    with (
        tempfile.TemporaryDirectory(prefix="tally-bench-") as folder,
        EmbeddedPostgres.start(Path(folder) / "data") as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        machine = describe_machine(Path(folder), "embedded")
        figures = runner.run(measure(server.url, loads, console, verify=arguments.verify))
    report = Report(machine, figures, [])
    print_report(report, console)
    LATEST.parent.mkdir(exist_ok=True)
    for path in filter(None, (LATEST, arguments.json)):
        path.write_bytes(report.to_json())
        console.print(f"written: {path}", style="dim", highlight=False)
    return 0


async def measure(url: str, loads: list[Load], console: Console, *, verify: bool) -> list[Figure]:
    """Fills the books, posts each month, and does the same in the way of the platform's billing."""
    figures: list[Figure] = []
    after = datetime(2026, 12, 1, tzinfo=UTC)
    async with open_service(Settings(), url, TestClock(after)) as service, service.pool.connection() as conn:
        await _set_up(service)
        for load in loads:
            console.print(f"[bold]filling[/] {load.customers:,} customers, {load.name}", highlight=False)
            for statement in (_SQL.customers, _SQL.series, _SQL.measurements, _SQL.totals, _SQL.notes):
                await conn.execute(statement, load.parameters)
        for load in loads:
            await _settle(conn, _SQL.analyze)
            console.print(f"[bold]posting[/] {load.month}", highlight=False)
            began = time.perf_counter()
            await service.postings.post(load.month)
            seconds = time.perf_counter() - began
            await _insist(conn, _SQL.posted, load)
            figures.append(_figure("posting", load, seconds))
        if verify:
            async with snapshot(service.pool) as examined:
                if not (verdict := await service.verify.run(examined)).holds:
                    raise BenchError(f"the books do not hold: {verdict.as_json()}")
        figures += [await _reference(conn, load, console) for load in loads]
    return figures


async def _set_up(service: Service) -> None:
    """Eight kinds at a price each, and the tables of the other way."""
    async with service.pool.connection() as conn, conn.transaction():
        await service.meters.put(conn, Meter(METER))
        for kind in range(KINDS):
            model = parse_model({"type": "per_unit", "amount": "0.01"})
            start = datetime(2025, 1, 1, tzinfo=UTC)
            new = NewPrice(METER, f"kind-{kind}", None, start, "CREDIT", MIN_QUANTUM, model)
            await service.pricing.create(conn, new)
        await conn.execute(_SQL.reference_schema)
        await conn.execute(_SQL.reference_prices, {"amount": MICROCREDITS})


async def _reference(conn: AsyncConnection, load: Load, console: Console) -> Figure:
    console.print(f"[bold]the other way[/] {load.month}: filling", highlight=False)
    for statement in (_SQL.reference_resources, _SQL.reference_readings, _SQL.reference_measurements):
        await conn.execute(statement, load.parameters)
    await _settle(conn, _SQL.reference_analyze)
    console.print(f"[bold]the other way[/] {load.month}: pricing and posting", highlight=False)
    seconds = await _seconds(conn, _SQL.reference_price, load)
    await conn.execute(_SQL.reference_counted)  # else it would plan for a table without amounts, and take minutes
    seconds += await _seconds(conn, _SQL.reference_post, load)
    await _insist(conn, _SQL.reference_posted, load)
    return _figure("an UPDATE per measurement, grouped and posted", load, seconds)


async def _seconds(conn: AsyncConnection, statement: str, load: Load) -> float:
    began = time.perf_counter()
    await conn.execute(statement, load.parameters)
    return time.perf_counter() - began


async def _settle(conn: AsyncConnection, statement: str) -> None:
    await conn.execute(statement)
    await conn.execute("checkpoint")


async def _insist(conn: AsyncConnection, query: str, load: Load) -> None:
    (posted,) = await (await conn.execute(query, load.parameters)).fetchall()
    if posted != (load.cost, load.customers):
        raise BenchError(f"{load.month} came to {posted}, and not to {(load.cost, load.customers)}")


def _figure(way: str, load: Load, seconds: float) -> Figure:
    ours = way == "posting"
    return Figure(
        benchmark=way,
        name=f"{load.customers:,} customers x {KINDS} totals, {load.name}",
        value=seconds,
        unit="s",
        target=below(LIMIT_SECONDS) if ours else None,
    )


if __name__ == "__main__":
    sys.exit(main())
