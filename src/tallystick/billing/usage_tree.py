"""The usage report: what was used in a period, rolled up along the paths of its resources.

Below a period stand organizations, below them families of spaces (a family is a space's name without its environment),
spaces, and leaves: the resources at one path. Paths of another shape are rolled up label by label. Nothing is lost:
usage at paths that were not asked for, and usage without a path, have headings of their own, and everything together is
what was charged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.billing.periods import Period
from tallystick.customers.hierarchy import Hierarchy
from tallystick.customers.model import Customer
from tallystick.customers.service import Customers
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput
from tallystick.ledger.assets import Assets
from tallystick.ledger.rates import Display, DisplayRates
from tallystick.metering.paths import ORGANIZATION, SPACE, expression, family

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_LEAVES = 50_000
"""The most rows of one report: a leaf of a period in an asset each. A narrower pattern has fewer."""
MAX_CUSTOMERS = 10_000
"""The most customers of one report."""
MAX_LEVELS = 32
"""How deep the tree is; labels below that stand together in the name of the leaf."""

EVERYTHING = "*"

Level = Literal["organization", "space_family", "space", "branch", "leaf", "elsewhere", "unplaced", "meter"]

_ALL_MONTHS = (date.min, date.max)
_INSTANT = timedelta(microseconds=1)


class Step(NamedTuple):
    """One level on the way down to a leaf. ``path`` is where it stands; a family stands beside its spaces."""

    level: Level
    name: str
    path: str


class Row(NamedTuple):
    """Usage at one place: ``name`` is a path or a meter, as the heading says; ``amount`` in microunits of ``asset``."""

    period: int
    heading: Literal["selected", "elsewhere", "unplaced"]
    name: str | None
    asset: str | None
    amount: int
    measurements: int
    unpriced: int


@dataclass(slots=True)
class Sums:
    """What was used: how many measurements, how many of them wait for a price, and microunits by asset."""

    measurements: int = 0
    unpriced: int = 0
    amounts: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.measurements += row.measurements
        self.unpriced += row.unpriced
        if row.asset is not None:
            self.amounts[row.asset] = self.amounts.get(row.asset, 0) + row.amount


@dataclass(slots=True)
class Node:
    """One line of the report. What stands below it adds up to it, unless the report ends here."""

    level: Level
    name: str
    path: str | None
    sums: Sums = field(default_factory=Sums)
    children: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class PeriodUsage:
    """A period's report. ``selected``, ``elsewhere`` and ``unplaced`` add up to ``total``, which is a month's bill."""

    period: Period
    total: Sums = field(default_factory=Sums)
    selected: Sums = field(default_factory=Sums)
    tree: list[Node] = field(default_factory=list)
    elsewhere: Node = field(default_factory=lambda: Node("elsewhere", "other paths", None))
    unplaced: Node = field(default_factory=lambda: Node("unplaced", "without a path", None))
    displays: dict[str, Display] = field(default_factory=dict)
    """How amounts are shown in another asset, by their own; without those for which there is no rate."""


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Whose usage it is, and what it was in each period, in the order of time."""

    customer: Customer
    pattern: str
    periods: list[PeriodUsage]


class UsageTrees:
    """Makes usage reports. Read only; works on the caller's connection."""

    def __init__(
        self, clock: Clock, customers: Customers, hierarchy: Hierarchy, assets: Assets, display_rates: DisplayRates
    ) -> None:
        self._clock = clock
        self._customers = customers
        self._hierarchy = hierarchy
        self._assets = assets
        self._display_rates = display_rates

    async def report(
        self,
        conn: AsyncConnection,
        customer_key: str,
        periods: Sequence[Period],
        *,
        pattern: str = EVERYTHING,
        depth: int | None = None,
        descendants: bool = False,
        display: str | None = None,
    ) -> UsageReport:
        """The usage of a customer, or with ``descendants`` of it and of all below it, at the paths of a pattern.

        ``depth`` is how many levels are shown; sums do not depend on it. ``display`` is an asset in which amounts are
        shown as well, where there is a rate at the end of the period (now, if that is yet to come).

        Raises ``NotFound`` without such a customer, ``InvalidInput`` for a pattern or asset that is none, or a report
        with more than ``MAX_LEAVES`` leaves or ``MAX_CUSTOMERS`` customers.
        """
        wanted = expression(pattern)
        customer = await self._customers.get(conn, customer_key)
        customer_ids = await self._whose(conn, customer.id) if descendants else [customer.id]
        rows = await self._rows(conn, customer_ids, periods, wanted)
        reports = grow(periods, rows, depth)
        if display is not None:
            for report in reports:
                report.displays = await self._displays(conn, report, display)
        return UsageReport(customer, pattern, reports)

    async def _whose(self, conn: AsyncConnection, customer_id: UUID) -> list[UUID]:
        customer_ids = await self._hierarchy.branch(conn, customer_id, MAX_CUSTOMERS + 1)
        if len(customer_ids) > MAX_CUSTOMERS:
            raise InvalidInput(f"descendants must be at most {MAX_CUSTOMERS} customers", field="descendants")
        return customer_ids

    async def _rows(
        self, conn: AsyncConnection, customer_ids: list[UUID], periods: Sequence[Period], wanted: str
    ) -> list[Row]:
        windows = [period.window for period in periods]
        months = [period.months or _ALL_MONTHS for period in periods]
        parameters = {
            "customer_ids": UuidArray(customer_ids),
            "sinces": [since for since, _ in windows],
            "untils": [until for _, until in windows],
            "firsts": [first for first, _ in months],
            "lasts": [last for _, last in months],
            "expression": wanted,
            "limit": MAX_LEAVES + 1,
        }
        found = await (await conn.execute(_SQL.usage, parameters)).fetchall()
        if len(found) > MAX_LEAVES:
            raise InvalidInput(
                f"pattern must select at most {MAX_LEAVES} leaves; name an organization or a space", field="pattern"
            )
        return [Row._make((*row[:4], int(row[4]), *row[5:])) for row in found]

    async def _displays(self, conn: AsyncConnection, report: PeriodUsage, display: str) -> dict[str, Display]:
        asset = await self._assets.get(conn, display, "display")
        instant = min(self._clock.now(), report.period.end - _INSTANT)
        displays = {}
        for code in report.total.amounts:
            with suppress(InvalidInput):  # there is no rate
                displays[code] = await self._display_rates.display(conn, [code], asset, instant)
        return displays


def grow(periods: Sequence[Period], rows: Iterable[Row], depth: int | None = None) -> list[PeriodUsage]:
    """The reports of these periods from their rows. Pure."""
    reports = [PeriodUsage(period) for period in periods]
    known: dict[tuple[int, Level, str], Node] = {}
    for row in rows:
        report = reports[row.period]
        report.total.add(row)
        match row.heading:
            case "selected":
                report.selected.add(row)
                steps, siblings = steps_to(row.name or ""), report.tree
            case "unplaced":
                report.unplaced.sums.add(row)
                steps, siblings = [Step("meter", row.name or "", "")], report.unplaced.children
            case _:
                report.elsewhere.sums.add(row)
                continue
        for step in steps[:depth]:
            place = (row.period, step.level, step.path or step.name)
            node = known.get(place)
            if node is None:
                node = known[place] = Node(step.level, step.name, step.path or None)
                siblings.append(node)
            node.sums.add(row)
            siblings = node.children
    return reports


def steps_to(path: str) -> list[Step]:
    """The levels on the way down to what stands at ``path``; the last one is always its leaf."""
    labels = path.split(".")
    place = next((number for number, label in enumerate(labels) if label.startswith(ORGANIZATION)), None)
    if place is None:
        depth = min(len(labels), MAX_LEVELS) - 1
        branches = [Step("branch", labels[number], ".".join(labels[: number + 1])) for number in range(depth)]
        return [*branches, Step("leaf", ".".join(labels[depth:]), path)]
    organization = Step("organization", labels[place], ".".join(labels[: place + 1]))
    rest = labels[place + 1 :]
    if not rest or not rest[0].startswith(SPACE):
        return [organization, Step("leaf", ".".join(rest) or labels[place], path)]
    name = family(rest[0])
    return [
        organization,
        Step("space_family", name, f"{organization.path}.{name}"),
        Step("space", rest[0], f"{organization.path}.{rest[0]}"),
        Step("leaf", ".".join(rest[1:]) or rest[0], path),
    ]
