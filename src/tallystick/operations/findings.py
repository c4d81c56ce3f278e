"""What a proof has found: how many things were looked at, and in words what differs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from psycopg.rows import TupleRow

from tallystick.database.pool import Connection
from tallystick.kernel.money import EXACT, format_quantity

ROWS_AT_ONCE = 5_000
"""Rows that are computed in one go: some milliseconds, in which the service does nothing else."""

NAMED_DIFFERENCES = 3
"""Differences of one kind that a detail spells out; the others are counted."""

STEPS_PER_CHECK = 100

Tell = Callable[[str, int, int], None]
"""Is told the check under way, and how many steps of how many are done."""


@dataclass(frozen=True, slots=True)
class Check:
    """How many things one check looked at, and in words what differs, with the first rows by their ids."""

    name: str
    holds: bool
    checked: int
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks; the books hold if each of them does."""

    checks: list[Check]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)

    def as_json(self) -> dict[str, object]:
        """``{"holds": true, "checks": [{"name": "...", "holds": true, "checked": 123, "detail": "..."}]}``."""
        checks = [
            {"name": check.name, "holds": check.holds, "checked": check.checked, "detail": check.detail}
            for check in self.checks
        ]
        return {"holds": self.holds, "checks": checks}


@dataclass(slots=True)
class Findings:
    """Of one check. ``notes`` say what is no difference, but should be known."""

    checked: int = 0
    differences: int = 0
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def differ(self, line: str) -> None:
        self.differences += 1
        if len(self.lines) < NAMED_DIFFERENCES:
            self.lines.append(line)

    def check(self, name: str, things: str) -> Check:
        figures = f"{self.differences:,} differences in {self.checked:,} {things}"
        return Check(name, self.differences == 0, self.checked, "; ".join([figures, *self.lines, *self.notes]))


class Examination:
    """One run of all checks over one snapshot of the store; ``whole`` unless only some customers' books are meant.

    ``checks`` names them, in order, and says what each of them counts as checked.
    """

    def __init__(
        self, conn: Connection, checks: Mapping[str, str], parameters: Mapping[str, object], tell: Tell, *, whole: bool
    ) -> None:
        self.conn = conn
        self.parameters = dict(parameters)
        self.whole = whole
        self._checks = checks
        self._tell = tell
        self._order = list(checks)
        self._findings = {name: Findings() for name in checks}

    def __getitem__(self, name: str) -> Findings:
        return self._findings[name]

    def verdict(self) -> Verdict:
        return Verdict([findings.check(name, self._checks[name]) for name, findings in self._findings.items()])

    def report(self, name: str, steps: int = 0) -> None:
        """Tells how far the check ``name`` has come, in hundredths."""
        self._tell(name, self._order.index(name) * STEPS_PER_CHECK + steps, len(self._order) * STEPS_PER_CHECK)

    async def count(self, name: str, *queries: str, preamble: str = "") -> None:
        """Runs queries that judge each row themselves; what the first one examines is what was checked."""
        self.report(name)
        for query in queries:
            findings = self._findings[name]
            counted = f"{preamble}select count(*), count(difference) from ({query}) as examined"  # noqa: S608  # our own
            ((examined, differences),) = await self.fetch(counted)
            findings.checked += examined if query is queries[0] else 0
            findings.differences += differences
            if differences:
                named = f"{preamble}select difference from ({query}) as examined where difference is not null"  # noqa: S608
                lines = await self.fetch(f"{named} order by difference limit {NAMED_DIFFERENCES}")
                findings.lines += [line for (line,) in lines]

    async def fetch(self, query: str, **parameters: object) -> list[TupleRow]:
        """All rows of a query."""
        # Not prepared: a plan that is kept for the whole store would read all of it for one customer.
        return await (await self.conn.execute(query, self.parameters | parameters, prepare=False)).fetchall()

    async def rows(self, name: str, query: str) -> AsyncIterator[list[TupleRow]]:
        """The rows of a query, some at a time, however many there are."""
        async with self.conn.cursor(f"verify_{name}") as cursor:
            await cursor.execute(query, self.parameters)
            while rows := await cursor.fetchmany(ROWS_AT_ONCE):
                yield rows


def money(microunits: Decimal | int | None) -> str:
    """As ``format_amount``, of figures that may be anything: they are under suspicion."""
    return "no number" if microunits is None else format_quantity(EXACT.scaleb(Decimal(microunits), -6))
