"""Posting: usage of payers who are posted monthly moves money once its month is over, by one transfer per asset.

What a posting moves is, for each usage total, the price function's difference between where the total stands and where
it was posted before. So a month costs the same however many measurements it has, and usage that comes late is posted
the same way, as a supplement. What is to be posted is noted by whoever raises a total (``metering/unposted.py``); a
transaction takes some payers' notes, whole months of each, and posts them: it may end anywhere and go on later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from psycopg import AsyncConnection

from tallystick.database.pool import Pool
from tallystick.database.queries import Queries, UuidArray, array, copy_text
from tallystick.kernel.calendar import Month, month_of, month_starting
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.kernel.ids import derived_id
from tallystick.kernel.paging import Page, foreign_cursor, next_cursor, read_cursor
from tallystick.ledger.wallets import Movement, Payer, Wallets
from tallystick.pricing.model import Price
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_suffix(".sql"))
_log = structlog.get_logger()

CUSTOMERS_AT_ONCE = 2_000
"""Customers whose months one transaction posts; more if one payer pays for more of them."""

TOTALS_AT_ONCE = 10_000
"""Usage totals that are computed in one go."""

MONTHS_SHOWN = 120

MAX_NUMBER = 2**31 - 1
"""Of a supplement, or a ledger."""

Told = Callable[[int], None]
"""Is told how many customers' months have been posted so far."""


class Unposted(NamedTuple):
    """A customer's month that is to be posted in the books of its payer."""

    payer_id: UUID
    customer_id: UUID
    period: date


@dataclass(frozen=True, slots=True)
class Posting:
    """What a payer's month came to in one asset (its code), in microunits; ``number`` counts its supplements."""

    id: UUID
    ledger: int
    asset: str
    period: date
    number: int
    amount: int
    description: str | None
    """``None`` if nothing had to move."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PostingLine:
    """How far a posting took a usage total of a customer (a key), and what that came to, in microunits."""

    customer: str
    price_id: UUID
    meter: str
    kind: str
    quantity_before: Decimal
    quantity_after: Decimal
    amount: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a month is posted: ``waiting`` customers have usage that is not, ``payers`` were posted so far."""

    period: date
    waiting: int
    payers: int
    supplements: int
    last_at: datetime | None


def describe(period: date, number: int) -> str:
    """``Monthly usage 2026-10-01--2026-11-01``, as the platform's billing writes it: the end is exclusive."""
    end = month_starting(period).next_first_day
    supplement = f", supplement {number}" if number else ""
    return f"Monthly usage {period}--{end}{supplement}"


def check_over(month: Month, now: datetime) -> None:
    """Raises ``InvalidInput`` if a month is not over, which nobody can post."""
    if now < month.end:
        raise InvalidInput(f"month must be over before it is posted, which {month} is not", field="month")


class Listener(Protocol):
    """Who hears of postings, by payer and id, in the transaction that makes them."""

    async def usage_posted(self, conn: AsyncConnection, places: Collection[tuple[UUID, UUID]]) -> None: ...


class Postings:
    """Posts, and lists what was posted."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        zone: ZoneInfo,
        pricing: Pricing,
        wallets: Wallets,
        listener: Listener | None = None,
    ) -> None:
        self._pool = pool
        self._listener = listener
        self._clock = clock
        self._zone = zone
        self._pricing = pricing
        self._wallets = wallets

    async def post(self, last: Month, tell: Told = lambda _: None) -> int:
        """Posts whatever is not posted of ``last`` and the months before it; returns how many customers' months.

        Each transaction posts some payers, so it may be stopped anywhere and called again, by several at once. Raises
        ``InvalidInput`` if ``last`` is not over.
        """
        check_over(last, self._clock.now())
        done = 0
        while months := await self._post_some(last.next_first_day):
            done += months
            _log.info("posting.progress", month=str(last), customers=done)
            tell(done)
        return done

    async def waiting(self, conn: AsyncConnection, last: Month) -> int:
        """How many customers' months, up to ``last``, are to be posted."""
        ((count,),) = await (await conn.execute(_SQL.waiting, {"before": last.next_first_day})).fetchall()
        return int(count)

    async def settle(self, conn: AsyncConnection, customer_ids: Collection[UUID]) -> dict[int, int]:
        """Posts these customers' usage as far as it goes now, this month's too; returns what moved by ledger.

        For whoever changes who pays, or how: the caller holds the catalogue alone (``Pricing.change``).
        """
        await conn.execute(_SQL.lock)
        rows = await conn.execute(_SQL.take_of_customers, {"customer_ids": UuidArray(customer_ids)})
        moved: dict[int, int] = {}
        for movement in await self._post_months(conn, [Unposted(*row) for row in await rows.fetchall()]):
            moved[movement.ledger] = moved.get(movement.ledger, 0) + movement.amount
        return moved

    async def post_ending(self, conn: AsyncConnection, now: datetime, limit: int) -> None:
        """Posts what payers have used whose grants end ``now``, of months that began before: the grants pay for it.

        Of the first ``limit`` grants that are due, for whoever ends those next in the same transaction.
        """
        await self._pricing.enter(conn)
        await conn.execute(_SQL.lock)
        rows = await conn.execute(_SQL.take_of_ending, {"now": now, "limit": limit, "zone": self._zone.key})
        await self._post_months(conn, [Unposted(*row) for row in await rows.fetchall()])

    async def begin(self, conn: AsyncConnection, customer_ids: Collection[UUID]) -> None:
        """Notes that these customers' usage until now was posted at once, and is posted monthly from here on.

        For whoever changes who pays, or how, as ``settle``.
        """
        await conn.execute(_SQL.begin_lines, {"customer_ids": UuidArray(customer_ids)})

    async def page(self, conn: AsyncConnection, payer_id: UUID, cursor: str | None, limit: int) -> Page[Posting]:
        """What was posted in a payer's books: the last months first, and of each month its last supplement."""
        rows = await conn.execute(_SQL.page, {"payer_id": payer_id, "limit": limit + 1, **_before(cursor)})
        found = [_posting(*row) for row in await rows.fetchall()]
        if len(found) <= limit:
            return Page(found, None)
        last = found[limit - 1]
        return Page(found[:limit], next_cursor(last.period.isoformat(), str(last.number), str(last.ledger)))

    async def lines(
        self, conn: AsyncConnection, payer_id: UUID, posting_id: UUID, cursor: str | None, limit: int
    ) -> Page[PostingLine]:
        """What a posting is made of, in the order of customers' keys. Raises ``NotFound``."""
        found = await (await conn.execute(_SQL.posting, {"payer_id": payer_id, "id": posting_id})).fetchone()
        if found is None:
            raise NotFound(f"there is no posting {posting_id}", field="id")
        after = read_cursor(cursor, 4) or ("", "", "", "")
        places = dict(zip(("after_key", "after_price", "after_meter", "after_kind"), after, strict=True))
        parameters = {"payer_id": payer_id, "id": posting_id, "period": _posting(*found).period, "limit": limit + 1}
        rows = await (await conn.execute(_SQL.lines, parameters | places)).fetchall()
        lines = [PostingLine(*(*figures, int(amount))) for *figures, amount in rows[:limit]]
        if len(rows) <= limit:
            return Page(lines, None)
        last = lines[-1]
        return Page(lines, next_cursor(last.customer, str(last.price_id), last.meter, last.kind))

    async def progress(self, conn: AsyncConnection) -> list[Progress]:
        """How far the months that are over are posted, the last ones first."""
        parameters = {"before": month_of(self._clock.now(), self._zone).first_day, "limit": MONTHS_SHOWN}
        return [Progress(*row) for row in await (await conn.execute(_SQL.progress, parameters)).fetchall()]

    async def _post_some(self, before: date) -> int:
        async with self._pool.connection() as conn, conn.transaction():
            await self._pricing.enter(conn)
            await conn.execute(_SQL.lock)
            rows = await conn.execute(_SQL.take, {"before": before, "limit": CUSTOMERS_AT_ONCE})
            months = [Unposted(*row) for row in await rows.fetchall()]
            await self._post_months(conn, months)
        return len(months)

    async def _post_months(self, conn: AsyncConnection, months: Sequence[Unposted]) -> list[Movement]:
        """Posts these months; the caller has taken their notes and holds the lock of postings."""
        if not months:
            return []
        accounts = _Accounts(await self._numbers(conn, months))
        prices = {str(price.id): price for price in (await self._pricing.price_list(conn)).prices}
        async with conn.cursor("outstanding") as cursor:
            await cursor.execute(_SQL.outstanding, _columns(months))
            while rows := await cursor.fetchmany(TOTALS_AT_ONCE):
                lines = [accounts.add(prices[row[3]], *row) for row in rows]
                async with conn.cursor() as writer, writer.copy(_SQL.copy_lines) as copy:
                    await copy.write("".join(lines))
        return await self._keep(conn, list(accounts.postings.values()))

    async def _numbers(self, conn: AsyncConnection, months: Sequence[Unposted]) -> dict[_Place, int]:
        columns = _columns(months)
        del columns["customer_ids"]
        rows = await (await conn.execute(_SQL.numbers, columns)).fetchall()
        return {_Place(payer, period, ledger): count for payer, period, ledger, count in rows}

    async def _keep(self, conn: AsyncConnection, postings: Sequence[_Sum]) -> list[Movement]:
        """Writes postings down, and moves what they come to."""
        if not postings:
            return []
        moving = [posting for posting in postings if posting.amount]
        await conn.execute(
            _SQL.keep,
            {
                **_names(postings),
                "ledgers": array(posting.place.ledger for posting in postings),
                "periods": array(posting.place.period for posting in postings),
                "numbers": array(posting.number for posting in postings),
                "amounts": array(posting.amount for posting in postings),
                "now": self._clock.now(),
            },
        )
        descriptions = [describe(date.fromisoformat(one.place.period), one.number) for one in moving]
        await conn.execute(_SQL.describe, {**_names(moving), "descriptions": descriptions})
        movements = [posting.movement for posting in moving]
        await self._wallets.charge(conn, movements)
        if self._listener is not None:
            await self._listener.usage_posted(conn, [(UUID(posting.place.payer), posting.id) for posting in postings])
        return movements


class _Place(NamedTuple):
    """A payer's month in an asset; ids and days as text."""

    payer: str
    period: str
    ledger: int


@dataclass(slots=True)
class _Sum:
    """A posting while it is added up."""

    place: _Place
    number: int
    id: UUID
    amount: int = 0

    @property
    def movement(self) -> Movement:
        # Whoever is posted monthly is postpaid.
        payer = Payer(UUID(self.place.payer), "postpaid", "monthly")
        return Movement(self.id, payer, self.place.ledger, self.amount)


class _Accounts:
    """Adds lines up to postings. ``numbers`` says how many there are by place already."""

    def __init__(self, numbers: dict[_Place, int]) -> None:
        self.postings: dict[_Place, _Sum] = {}
        self._numbers = numbers

    def add(
        self,
        price: Price,
        payer: str,
        customer: str,
        period: str,
        price_id: str,
        meter: str,
        kind: str,
        quantity: Decimal,
        posted: Decimal,
        lines: int,
    ) -> str:
        """Adds what a total has gone on by since it was posted; answers the row of its line in PostgreSQL's text."""
        place = _Place(payer, period, price.ledger)
        posting = self.postings.get(place) or self._open(place)
        amount = price.function(quantity) - price.function(posted)
        posting.amount += amount
        return (
            f"{customer}\t{period}\t{price_id}\t{copy_text(meter)}\t{copy_text(kind)}\t{lines + 1}\t{posting.id}"
            f"\t{posted!s}\t{quantity!s}\t{amount}\n"
        )

    def _open(self, place: _Place) -> _Sum:
        number = self._numbers.get(place, 0)
        posting_id = derived_id("posting", place.payer, place.period, str(place.ledger), str(number))
        self.postings[place] = posting = _Sum(place, number, posting_id)
        return posting


def _before(cursor: str | None) -> dict[str, object]:
    place = read_cursor(cursor, 3)
    if place is None:
        return {"before_period": None, "before_number": None, "before_ledger": None}
    try:
        period, number, ledger = date.fromisoformat(place[0]), int(place[1]), int(place[2])
    except ValueError:
        raise foreign_cursor() from None
    if not (0 <= number <= MAX_NUMBER and 0 <= ledger <= MAX_NUMBER):
        raise foreign_cursor()
    return {"before_period": period, "before_number": number, "before_ledger": ledger}


def _names(postings: Iterable[_Sum]) -> dict[str, object]:
    postings = list(postings)
    return {
        "payer_ids": array(posting.place.payer for posting in postings),
        "ids": UuidArray(posting.id for posting in postings),
    }


def _columns(months: Sequence[Unposted]) -> dict[str, object]:
    return {
        "payer_ids": UuidArray(month.payer_id for month in months),
        "customer_ids": UuidArray(month.customer_id for month in months),
        "periods": array(month.period for month in months),
    }


def _posting(
    id_: UUID,
    ledger: int,
    asset: str,
    period: date,
    number: int,
    amount: str,
    description: str | None,
    created_at: datetime,
) -> Posting:
    return Posting(id_, ledger, asset, period, number, int(amount), description, created_at)
