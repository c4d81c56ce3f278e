"""Proves postings: what months moved as a whole, line by line; and what was owed when somebody else began to pay."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from tallystick.database.queries import Queries
from tallystick.kernel.money import format_quantity
from tallystick.operations.findings import Examination, money
from tallystick.pricing.model import Price

_SQL = Queries(Path(__file__).with_suffix(".sql"))

CHECK = "postings_accounted"


class _Line(NamedTuple):
    customer_id: UUID
    period: date
    price_id: UUID
    meter: str
    kind: str
    number: int
    posting_id: UUID | None
    quantity_before: Decimal
    quantity_after: Decimal
    amount: Decimal
    expected_before: Decimal
    expected_number: int

    def __str__(self) -> str:
        return (
            f"posting line {self.number} of usage total {self.customer_id}, {self.period:%Y-%m}, "
            f"meter {self.meter!r}, kind {self.kind!r}, price {self.price_id}"
        )


class PostingsProof:
    """The checks of postings, in one run; after those of ``LedgerProof``, whose words it uses."""

    def __init__(self, examination: Examination, prices: dict[UUID, Price]) -> None:
        self._examination = examination
        self._prices = prices

    async def postings(self) -> None:
        """Lines by themselves and in their order, postings against their lines, and debts that were taken over."""
        run = self._examination
        await run.count(CHECK, _SQL.postings, _SQL.noted, _SQL.takeovers)
        findings = run[CHECK]
        async for rows in run.rows("posting_lines", _SQL.lines):
            for line in (_Line(*row) for row in rows):
                findings.checked += 1
                if (difference := self._difference(line)) is not None:
                    findings.differ(f"{line}: {difference}")

    def _difference(self, line: _Line) -> str | None:
        if line.number != line.expected_number:
            return f"expected number {line.expected_number}, found {line.number}"
        if line.quantity_before != line.expected_before:
            return (
                f"expected it to begin at {format_quantity(line.expected_before)}, "
                f"found {format_quantity(line.quantity_before)}"
            )
        if line.posting_id is None:
            return None
        price = self._prices.get(line.price_id)
        if price is None:
            return "there is no such price"
        try:
            due = price.function(line.quantity_after) - price.function(line.quantity_before)
        except (ArithmeticError, ValueError):
            due = None
        if line.amount == due:
            return None
        return (
            f"F({format_quantity(line.quantity_after)}) - F({format_quantity(line.quantity_before)}) is {money(due)} "
            f"{price.asset}, found {money(line.amount)}"
        )
