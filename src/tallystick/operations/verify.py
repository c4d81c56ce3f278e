"""Proves the books: whatever was measured is charged exactly once, and whatever was charged has moved.

Every check looks at all there is, in one snapshot. What the database can count is counted there; price functions are
computed here, for every usage total and every charge, while the rows stream by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
from tallystick.ledger.contract import AccountFlags
from tallystick.ledger.wallets import AccountCode, TransferCode
from tallystick.metering.charges import ChargeId
from tallystick.pricing.functions import PriceFunction
from tallystick.pricing.model import Price
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_suffix(".sql"))

ROWS_AT_ONCE = 5_000
"""Rows that are computed in one go: some milliseconds, in which the service does nothing else."""

NAMED_DIFFERENCES = 3
"""Differences of one kind that a detail spells out; the others are counted."""

CHECKS = {
    "transfers_balance": "transfers",
    "balances_equal_transfers": "accounts",
    "limits_hold": "accounts",
    "totals_equal_measurements": "usage totals",
    "charges_equal_totals": "priced usage totals",
    "charges_follow_arithmetic": "charges",
    "posted_equals_charged": "usage transfers",
    "measurements_accounted": "measurements",
    "grants_accounted": "customers' assets",
}
"""The names of the checks, in order, and what each of them counts as checked."""

Tell = Callable[[str, int, int], None]
"""Is told the check under way, and how many steps of how many are done."""

STEPS_PER_CHECK = 100

_CODES = {
    "wallet": AccountCode.WALLET.value,
    "arrears": AccountCode.ARREARS.value,
    "used": AccountCode.USED.value,
    "granted": AccountCode.GRANTED.value,
    "expired": AccountCode.EXPIRED.value,
    "usage": TransferCode.USAGE.value,
    "debits_limited": AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS.value,
    "credits_limited": AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS.value,
    "nil": NIL,
}


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


@asynccontextmanager
async def snapshot(pool: Pool) -> AsyncIterator[Connection]:
    """A connection in a transaction that sees the store as it is now, writes nothing and waits for nobody."""
    async with pool.connection() as conn, conn.transaction():
        await conn.execute(_SQL.snapshot)
        yield conn


class Verify:
    """The proof of the books. Works in the caller's transaction, best that of ``snapshot``."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing

    async def run(self, conn: Connection, customer_key: str | None = None, tell: Tell | None = None) -> Verdict:
        """Checks the whole store, or one customer with whoever pays for it and all they pay for.

        Takes some four seconds per million measurements. The sequence of transfers is checked for the whole store only.
        Raises ``NotFound`` if there is no such customer, ``InvalidInput`` if the key cannot be one.
        """
        await conn.execute(_SQL.read_to_the_end)
        prices = {price.id: price for price in (await self._pricing.price_list(conn)).prices}
        proof = _Proof(conn, prices, await _scope(conn, customer_key), tell or _tell_nobody)
        return await proof.verdict()


@dataclass(slots=True)
class _Findings:
    checked: int = 0
    differences: int = 0
    lines: list[str] = field(default_factory=list)

    def differ(self, line: str) -> None:
        self.differences += 1
        if len(self.lines) < NAMED_DIFFERENCES:
            self.lines.append(line)

    def check(self, name: str) -> Check:
        figures = f"{self.differences:,} differences in {self.checked:,} {CHECKS[name]}"
        return Check(name, self.differences == 0, self.checked, "; ".join([figures, *self.lines]))


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

    def __str__(self) -> str:
        price = "without a price" if self.price_id == NIL else f"under price {self.price_id}"
        return (
            f"usage total {self.customer or self.customer_id}, {self.period:%Y-%m}, "
            f"meter {self.meter!r}, kind {self.kind!r}, {price}"
        )


class _Proof:
    """One run of all checks."""

    def __init__(
        self, conn: Connection, prices: dict[UUID, Price], scope: dict[str, list[UUID] | None], tell: Tell
    ) -> None:
        self._conn = conn
        self._prices = prices
        self._parameters = {**_CODES, **scope}
        self._whole_store = scope["books"] is None
        self._tell = tell
        self._findings = {name: _Findings() for name in CHECKS}
        self._unlinked: list[_Total] = []
        self._charges = 0

    async def verdict(self) -> Verdict:
        order = [_SQL.sequence] if self._whole_store else []
        await self._count("transfers_balance", _SQL.transfers, _SQL.assets, *order)
        await self._count("balances_equal_transfers", _SQL.accounts)
        await self._count("limits_hold", _SQL.limits)
        await self._compare_totals()
        await self._recompute_charges()
        await self._count("posted_equals_charged", _SQL.movements, _SQL.unposted)
        await self._count("measurements_accounted", _SQL.remarks, _SQL.waiting)
        await self._count("grants_accounted", _SQL.grants)
        self._report("grants_accounted", STEPS_PER_CHECK)
        return Verdict([findings.check(name) for name, findings in self._findings.items()])

    def _report(self, name: str, steps: int = 0) -> None:
        self._tell(name, list(CHECKS).index(name) * STEPS_PER_CHECK + steps, len(CHECKS) * STEPS_PER_CHECK)

    async def _count(self, name: str, *queries: str) -> None:
        """Runs queries that judge each row themselves; what the first one examines is what was checked."""
        self._report(name)
        findings = self._findings[name]
        for query in queries:
            counted = f"select count(*), count(difference) from ({query}) as examined"  # noqa: S608  # our own text
            ((examined, differences),) = await self._examine(counted)
            findings.checked += examined if query is queries[0] else 0
            findings.differences += differences
            if differences:
                named = f"select difference from ({query}) as examined where difference is not null"  # noqa: S608
                lines = await self._examine(f"{named} order by difference limit {NAMED_DIFFERENCES}")
                findings.lines += [line for (line,) in lines]

    async def _examine(self, query: str) -> list[TupleRow]:
        # Not prepared: a plan that is kept for the whole store would read all of it for one customer.
        return await (await self._conn.execute(query, self._parameters, prepare=False)).fetchall()

    async def _rows(self, name: str, query: str) -> AsyncIterator[list[TupleRow]]:
        async with self._conn.cursor(f"verify_{name}") as cursor:
            await cursor.execute(query, self._parameters)
            while rows := await cursor.fetchmany(ROWS_AT_ONCE):
                yield rows

    async def _compare_totals(self) -> None:
        """Totals against the sums of their measurements, and ``F`` of a total against what was charged for it."""
        self._report("totals_equal_measurements")
        findings, priced = self._findings["totals_equal_measurements"], self._findings["charges_equal_totals"]
        async for rows in self._rows("totals", _SQL.totals):
            for total in (_Total(*row) for row in rows):
                findings.checked += 1
                _compare_sums(total, findings)
                if total.price_id != NIL and total.quantity is not None:
                    priced.checked += 1
                    self._charges += total.count_of_measurements
                    self._compare_amount(total, total.quantity, priced)
                if not total.linked:
                    self._findings["charges_follow_arithmetic"].differences += 1
                    if len(self._unlinked) < NAMED_DIFFERENCES:
                        self._unlinked.append(total)

    def _compare_amount(self, total: _Total, quantity: Decimal, findings: _Findings) -> None:
        price = self._prices.get(total.price_id)
        if price is None:
            findings.differ(f"{total}: there is no such price")
        elif not _is_for(price, total):
            findings.differ(f"{total}: the price is for other usage")
        elif total.sum_of_amounts != (due := _cost(price.function, quantity, quantity)):
            findings.differ(
                f"{total}: F({format_quantity(quantity)}) is {_money(due)} {price.asset}, "
                f"found charges of {_money(total.sum_of_amounts)}"
            )

    async def _recompute_charges(self) -> None:
        """Each charge by itself: ``F`` after it minus ``F`` before it; and that it begins where another one ended."""
        findings = self._findings["charges_follow_arithmetic"]
        for total in self._unlinked:
            findings.lines.append(await self._name_unlinked(total))
        functions = {str(price.id): price.function for price in self._prices.values()}
        wrong: list[TupleRow] = []
        async for rows in self._rows("charges", _SQL.charges):
            for row in rows:
                price_id, quantity, after, amount = row
                function = functions.get(price_id)
                if function is None or _cost(function, after, quantity) != amount:
                    findings.differences += 1
                    if len(wrong) < NAMED_DIFFERENCES:
                        wrong.append(row)
            findings.checked += len(rows)
            self._report(
                "charges_follow_arithmetic", STEPS_PER_CHECK * findings.checked // max(self._charges, findings.checked)
            )
        for row in wrong:
            findings.lines.append(await self._name_charge(*row))

    async def _name_unlinked(self, total: _Total) -> str:
        key = {
            "customer_id": total.customer_id,
            "period": total.period,
            "price_id": total.price_id,
            "meter": total.meter,
            "kind": total.kind,
        }
        row = await (await self._conn.execute(_SQL.unlinked, key, prepare=False)).fetchone()
        if row is None:
            return f"{total}: its charges do not lead from 0 to it without a gap"
        charge, before = ChargeId(total.customer_id, row[0]), format_quantity(row[1])
        return f"charge {charge}: begins at a total of {before}, found no charge that ends there"

    async def _name_charge(self, price_id: str, quantity: Decimal, after: Decimal, amount: Decimal) -> str:
        figures = {"price_id": price_id, "quantity": quantity, "total_after": after, "amount": amount}
        row = await (await self._conn.execute(_SQL.charge_like, self._parameters | figures, prepare=False)).fetchone()
        if row is None:
            raise LookupError("a charge was counted that this snapshot does not have")
        charge, price = ChargeId(*row), self._prices.get(UUID(price_id))
        if price is None:
            return f"charge {charge}: there is no price {price_id}"
        expected = _cost(price.function, after, quantity)
        return (
            f"charge {charge}: F({format_quantity(after)}) - F({format_quantity(after)} - {format_quantity(quantity)}) "
            f"is {_money(expected)} {price.asset}, found {_money(amount)}"
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


def _compare_sums(total: _Total, findings: _Findings) -> None:
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
    row = await (await conn.execute(_SQL.scope, {"key": customer_key}, prepare=False)).fetchone()
    if row is None:
        raise NotFound(f"there is no customer {customer_key!r}", field="customer")
    return {"books": row[0], "metered": row[1]}


def _money(microunits: Decimal | int | None) -> str:
    """As ``format_amount``, of figures that may be anything: they are under suspicion."""
    return "no number" if microunits is None else format_quantity(EXACT.scaleb(Decimal(microunits), -6))


def _tell_nobody(name: str, done: int, of: int) -> None:
    pass
