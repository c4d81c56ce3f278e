"""Proves the books: whatever was measured is charged exactly once, and whatever was charged has moved.

Every check looks at all there is, in one snapshot. What the database can count is counted there; price functions are
computed here, for every usage total and every charge, while the rows stream by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from psycopg.rows import TupleRow

from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries
from tallystick.kernel.errors import NotFound
from tallystick.kernel.ids import NIL
from tallystick.kernel.money import EXACT, format_quantity
from tallystick.kernel.text import check_key
from tallystick.ledger.contract import Ledger
from tallystick.metering.charges import ChargeId
from tallystick.operations.findings import (
    NAMED_DIFFERENCES,
    STEPS_PER_CHECK,
    Check,
    Examination,
    Findings,
    Tell,
    Verdict,
    money,
)
from tallystick.operations.verify_counters import CountersProof
from tallystick.operations.verify_ledger import LedgerProof, balances_elsewhere, standstill
from tallystick.operations.verify_levels import LevelsProof
from tallystick.operations.verify_postings import PostingsProof
from tallystick.operations.verify_records import RecordsProof
from tallystick.pricing.functions import PriceFunction
from tallystick.pricing.model import Price
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_suffix(".sql"))

CHECKS = {
    "transfers_balance": "transfers",
    "transfers_sealed": "batches",
    "pending_resolved_once": "posts and voids",
    "failures_stand": "refused transfers",
    "balances_equal_transfers": "accounts",
    "limits_hold": "accounts",
    "totals_equal_measurements": "usage totals",
    "charges_equal_totals": "priced usage totals",
    "charges_follow_arithmetic": "charges",
    "posted_equals_charged": "usage transfers",
    "postings_accounted": "postings and their lines",
    "measurements_accounted": "measurements",
    "levels_equal_measurements": "levels of gauges",
    "counters_stand": "counters",
    "grants_accounted": "customers' assets",
    "holds_accounted": "holds",
    "exchanges_accounted": "exchanges",
    "operations_accounted": "operations",
    "milestones_stand": "milestones",
    "checkpoints_stand": "checkpoints",
}
"""The names of the checks, in order, and what each of them counts as checked."""

__all__ = ["CHECKS", "Check", "Verdict", "Verify", "snapshot"]


@asynccontextmanager
async def snapshot(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction that sees the store as it is now, writes nothing and waits for nobody."""
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(_SQL.snapshot)
        yield conn


class Verify:
    """The proof of the books. Works in the caller's transaction, best that of ``snapshot``."""

    def __init__(self, pricing: Pricing, ledger: Ledger, pool: Pool) -> None:
        """``pool`` gives a second connection where the ledger is not in the database."""
        self._pricing = pricing
        self._ledger = ledger
        self._pool = pool

    async def run(self, conn: Connection, customer_key: str | None = None, tell: Tell | None = None) -> Verdict:
        """Checks the whole store, or one customer with whoever pays for it and all they pay for.

        Takes some four seconds per million measurements, for those of counters and filled gauges thrice that. The
        sequence of transfers and the chain of their batches are checked for the whole store only. Raises ``NotFound``
        if there is no such customer, ``InvalidInput`` if the key cannot be one, ``LedgerUnavailable`` if a ledger
        elsewhere cannot be reached.
        """
        async with standstill(self._ledger, self._pool) as beside:
            await conn.execute(_SQL.read_to_the_end)
            scope = await _scope(conn, customer_key)
            elsewhere = await balances_elsewhere(conn, beside, self._ledger, scope["books"])
        prices = {price.id: price for price in (await self._pricing.price_list(conn)).prices}
        run = Examination(conn, CHECKS, scope | {"nil": NIL}, tell or _tell_nobody, whole=customer_key is None)
        ledger, usage, records = LedgerProof(run, elsewhere), _UsageProof(run, prices), RecordsProof(run)
        await ledger.transfers()
        await ledger.balances()
        await usage.totals()
        await usage.charges()
        await ledger.usage()
        await PostingsProof(run, prices).postings()
        await usage.measurements()
        await LevelsProof(run, prices).levels()
        await CountersProof(run).counters()
        await ledger.grants()
        await records.movements()
        await records.milestones()
        await records.checkpoints()
        run.report(list(CHECKS)[-1], STEPS_PER_CHECK)
        return run.verdict()


@dataclass(frozen=True, slots=True)
class _Total:
    """A usage total as it stands (``quantity`` is ``None`` if it is missing), and what its measurements sum to."""

    customer_id: UUID
    customer: str | None
    period: date
    price_id: UUID
    meter: str | None
    kind: str | None
    quantity: Decimal | None
    measurements: int | None
    sum_of_quantities: Decimal
    count_of_measurements: int
    sum_of_amounts: Decimal
    linked: bool
    unmoved: Decimal
    posted: Decimal
    posted_quantity: Decimal
    is_noted: bool

    def __str__(self) -> str:
        price = "without a price" if self.price_id == NIL else f"under price {self.price_id}"
        return (
            f"usage total {self.customer or self.customer_id}, {self.period:%Y-%m}, "
            f"meter {self.meter!r}, kind {self.kind!r}, {price}"
        )


class _UsageProof:
    """The checks of what was measured and charged, in one run."""

    def __init__(self, examination: Examination, prices: dict[UUID, Price]) -> None:
        self._examination = examination
        self._prices = prices
        self._unlinked: list[_Total] = []
        self._charges = 0

    async def totals(self) -> None:
        """Totals against the sums of their measurements, and ``F`` of a total against what was charged for it."""
        run = self._examination
        run.report("totals_equal_measurements")
        findings, priced = run["totals_equal_measurements"], run["charges_equal_totals"]
        async for rows in run.rows("totals", _SQL.totals):
            for total in (_Total(*row) for row in rows):
                findings.checked += 1
                _compare_sums(total, findings)
                if total.price_id != NIL and total.quantity is not None:
                    priced.checked += 1
                    self._charges += total.count_of_measurements
                    self._compare_amount(total, total.quantity, priced)
                    self._compare_posted(total, total.quantity)
                if not total.linked:
                    run["charges_follow_arithmetic"].differences += 1
                    if len(self._unlinked) < NAMED_DIFFERENCES:
                        self._unlinked.append(total)

    def _compare_amount(self, total: _Total, quantity: Decimal, findings: Findings) -> None:
        price = self._prices.get(total.price_id)
        if price is None:
            findings.differ(f"{total}: there is no such price")
        elif not _is_for(price, total):
            findings.differ(f"{total}: the price is for other usage")
        elif total.sum_of_amounts != (due := _cost(price.function, quantity, quantity)):
            findings.differ(
                f"{total}: F({format_quantity(quantity)}) is {money(due)} {price.asset}, "
                f"found charges of {money(total.sum_of_amounts)}"
            )

    def _compare_posted(self, total: _Total, quantity: Decimal) -> None:
        """What charges did not move, postings did; but for what is noted as still to be posted."""
        price = self._prices.get(total.price_id)
        if price is None or not (total.unmoved or total.posted or total.is_noted):
            return
        since = EXACT.subtract(quantity, total.posted_quantity) if total.is_noted else Decimal(0)
        outstanding = _cost(price.function, quantity, since)
        if outstanding is None or total.unmoved != total.posted + outstanding:
            self._examination["postings_accounted"].differ(
                f"{total}: charges of {money(total.unmoved)} {price.asset} are posted by the month, found "
                f"{money(total.posted)} posted and {money(outstanding)} noted to be posted"
            )

    async def charges(self) -> None:
        """Each charge by itself: ``F`` after it minus ``F`` before it; and that it begins where another one ended."""
        run = self._examination
        findings = run["charges_follow_arithmetic"]
        for total in self._unlinked:
            findings.lines.append(await self._name_unlinked(total))
        functions = {str(price.id): price.function for price in self._prices.values()}
        wrong: list[TupleRow] = []
        async for rows in run.rows("charges", _SQL.charges):
            for row in rows:
                price_id, quantity, after, amount = row
                function = functions.get(price_id)
                if function is None or _cost(function, after, quantity) != amount:
                    findings.differences += 1
                    if len(wrong) < NAMED_DIFFERENCES:
                        wrong.append(row)
            findings.checked += len(rows)
            run.report(
                "charges_follow_arithmetic", STEPS_PER_CHECK * findings.checked // max(self._charges, findings.checked)
            )
        for row in wrong:
            findings.lines.append(await self._name_charge(*row))

    async def measurements(self) -> None:
        """That each counts as what it says, and waits only for a price that is missing."""
        await self._examination.count("measurements_accounted", _SQL.remarks, _SQL.waiting)

    async def _name_unlinked(self, total: _Total) -> str:
        rows = await self._examination.fetch(
            _SQL.unlinked,
            customer_id=total.customer_id,
            period=total.period,
            price_id=total.price_id,
            meter=total.meter,
            kind=total.kind,
        )
        if not rows:
            return f"{total}: its charges do not lead from 0 to it without a gap"
        charge, before = ChargeId(total.customer_id, rows[0][0]), format_quantity(rows[0][1])
        return f"charge {charge}: begins at a total of {before}, found no charge that ends there"

    async def _name_charge(self, price_id: str, quantity: Decimal, after: Decimal, amount: Decimal) -> str:
        rows = await self._examination.fetch(
            _SQL.charge_like, price_id=price_id, quantity=quantity, total_after=after, amount=amount
        )
        if not rows:
            raise LookupError("a charge was counted that this snapshot does not have")
        charge, price = ChargeId(*rows[0]), self._prices.get(UUID(price_id))
        if price is None:
            return f"charge {charge}: there is no price {price_id}"
        expected = _cost(price.function, after, quantity)
        return (
            f"charge {charge}: F({format_quantity(after)}) - F({format_quantity(after)} - {format_quantity(quantity)}) "
            f"is {money(expected)} {price.asset}, found {money(amount)}"
        )


def _cost(function: PriceFunction, after: Decimal, quantity: Decimal) -> int | None:
    """What raising a total by ``quantity`` to ``after`` costs; ``None`` where damage left no finite numbers."""
    try:
        return function(after) - function(EXACT.subtract(after, quantity))
    except (ArithmeticError, ValueError):
        return None


def _is_for(price: Price, total: _Total) -> bool:
    is_for_customer = price.customer_id in (None, total.customer_id)
    return is_for_customer and (price.meter, price.kind) == (total.meter, total.kind)


def _compare_sums(total: _Total, findings: Findings) -> None:
    if total.quantity is None:
        findings.differ(f"{total}: {total.count_of_measurements} measurements belong to it, found no total")
    elif total.measurements != total.count_of_measurements:
        findings.differ(f"{total}: {total.count_of_measurements} measurements, found a count of {total.measurements}")
    elif total.quantity != total.sum_of_quantities:
        findings.differ(
            f"{total}: its measurements sum to {format_quantity(total.sum_of_quantities)}, "
            f"found {format_quantity(total.quantity)}"
        )


async def _scope(conn: Connection, customer_key: str | None) -> dict[str, list[UUID] | None]:
    """Whose books and whose measurements are examined; ``None`` for everybody's."""
    if customer_key is None:
        return {"books": None, "metered": None}
    check_key(customer_key, "customer")
    ((related,),) = await (await conn.execute(_SQL.scope, {"key": customer_key}, prepare=False)).fetchall()
    if related is None:
        raise NotFound(f"there is no customer {customer_key!r}", field="customer")
    return {"books": related, "metered": related}


def _tell_nobody(name: str, done: int, of: int) -> None:
    pass
