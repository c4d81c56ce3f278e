"""The history of wallets, against what the wallets said at the time. Milestones are close together, so they matter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from tallystick.billing.transactions import (
    END,
    MILESTONE_EVERY,
    MILESTONES_AT_ONCE,
    Place,
    Transaction,
    Transactions,
    TransactionType,
    Wanted,
)
from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.paging import next_cursor
from tallystick.ledger.contract import Transfer, TransferFlags
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import (
    AccountCode,
    Balance,
    Movement,
    Payer,
    TransferCode,
    Wallets,
    transfer_of,
)

CREDITS, DOLLARS = 1, 840
LEDGERS = (CREDITS, DOLLARS)
NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PREPAID = Payer(UUID(int=1), "prepaid")
NEIGHBOUR = Payer(UUID(int=2), "postpaid")
EVERYTHING = Wanted()


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOON)


@pytest.fixture
async def conn(pool: Pool) -> AsyncIterator[Connection]:
    async with pool.connection() as connection:
        yield connection


@pytest.fixture
def wallets(clock: TestClock) -> Wallets:
    return Wallets(PostgresLedger(clock))


@pytest.fixture
def history(clock: TestClock) -> Transactions:
    return Transactions(clock, milestone_every=7)


WALLET, USED, GRANTED = AccountCode.WALLET, AccountCode.USED, AccountCode.GRANTED
EXPIRED, EXCHANGED = AccountCode.EXPIRED, AccountCode.EXCHANGED


@dataclass
class Year:
    """Random movements of a payer, of every kind there is, a second after one another or at the same instant."""

    conn: Connection
    wallets: Wallets
    clock: TestClock
    random: Random
    payer: Payer = PREPAID
    held: list[Transfer] = field(default_factory=list)
    standings: dict[datetime, list[Balance]] = field(default_factory=dict)

    async def live(self, steps: int) -> None:
        ways = (self.grant, self.top_up, self.bill, self.use, self.use, self.give_back, self.hold, self.settle)
        rare = (self.release, self.expire, self.void, self.exchange, self.take_over)
        for _ in range(steps):
            self.clock.advance(SECOND)
            for _ in range(self.random.choice((1, 1, 3))):
                async with self.conn.transaction():
                    await self.random.choice(ways * 2 + rare)()
            self.standings[self.clock.now()] = await self.wallets.balances(self.conn, self.payer.id, LEDGERS)

    def movement(self, ledger: int | None = None, payer: Payer | None = None, sign: int = 1) -> Movement:
        ledger = ledger or self.random.choice((CREDITS, CREDITS, DOLLARS))
        amount = sign * self.random.randint(1, 100)
        return Movement(UUID(int=self.random.getrandbits(127)), payer or self.payer, ledger, amount)

    async def grant(self) -> None:
        await self.wallets.grant(self.conn, [self.movement()], TransferCode.GRANT)

    async def top_up(self) -> None:
        await self.wallets.grant(self.conn, [self.movement(), self.movement()], TransferCode.TOP_UP)

    async def bill(self) -> None:
        await self.wallets.bill(self.conn, [self.movement()])

    async def use(self) -> None:
        await self.wallets.charge(self.conn, [self.movement(), self.movement(payer=NEIGHBOUR), self.movement()])

    async def give_back(self) -> None:
        await self.wallets.charge(self.conn, [self.movement(sign=-1)])

    async def take_over(self) -> None:
        movement = self.movement(sign=self.random.choice((-1, 1)))
        await self.wallets.charge(self.conn, [movement], TransferCode.TAKEOVER)

    async def hold(self) -> None:
        hold = transfer_of(self.movement(), WALLET, USED, TransferCode.HOLD, TransferFlags.PENDING)
        if await self.post(hold):
            self.held.append(hold)

    async def settle(self) -> None:
        if self.held:
            await self.resolve(TransferFlags.POST_PENDING, share=self.random.choice((0, 1, 2)))

    async def release(self) -> None:
        if self.held:
            await self.resolve(TransferFlags.VOID_PENDING, share=0)

    async def resolve(self, how: TransferFlags, share: int) -> None:
        hold = self.held.pop(self.random.randrange(len(self.held)))
        resolved = hold._replace(
            id=self.movement().id, amount=hold.amount * share // 2, flags=how, pending_id=hold.id, cause_id=None
        )
        assert await self.post(resolved)

    async def expire(self) -> None:
        await self.post(transfer_of(self.movement(), WALLET, EXPIRED, TransferCode.EXPIRY))

    async def void(self) -> None:
        await self.post(transfer_of(self.movement(), WALLET, GRANTED, TransferCode.GRANT_VOIDED))

    async def exchange(self) -> None:
        out, into = self.movement(CREDITS), self.movement(DOLLARS)
        linked = transfer_of(out, WALLET, EXCHANGED, TransferCode.EXCHANGE, TransferFlags.LINKED)
        other = transfer_of(into, EXCHANGED, WALLET, TransferCode.EXCHANGE)._replace(cause_id=out.id)
        await self.post(linked, other)

    async def post(self, *transfers: Transfer) -> bool:
        movements = [Movement(t.id, self.payer, t.ledger, t.amount) for t in transfers]
        (result,) = await self.wallets.post(self.conn, [transfers], movements[:1])
        return result.stands


@pytest.fixture
def year(conn: Connection, wallets: Wallets, clock: TestClock) -> Year:
    return Year(conn, wallets, clock, Random(1))


async def read(
    history: Transactions,
    conn: Connection,
    wanted: Wanted = EVERYTHING,
    *,
    ledgers: tuple[int, ...] | None = None,
    limit: int = 1_000,
    payer: Payer = PREPAID,
) -> list[Transaction]:
    """All pages together, oldest first."""
    found: list[Transaction] = []
    cursor: str | None = None
    while True:
        page = await history.page(conn, payer.id, ledgers, wanted, cursor, limit)
        assert len(page.items) <= limit
        found += page.items
        if (cursor := page.next) is None:
            return found[::-1]
        assert len(page.items) == limit


def of(found: list[Transaction], **what: object) -> list[Transaction]:
    return [one for one in found if all(getattr(one, name) == value for name, value in what.items())]


# What must hold for any history


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("payer", [PREPAID, NEIGHBOUR], ids=lambda payer: payer.credit_policy)
async def test_effects_add_up_to_every_balance_there_ever_was(
    year: Year, history: Transactions, seed: int, payer: Payer
) -> None:
    year.random, year.payer = Random(seed), payer
    for _ in range(4):  # milestones are set while the history grows
        await year.live(40)
        found = await read(history, year.conn, payer=payer)
        for now in await year.wallets.balances(year.conn, payer.id, LEDGERS):
            moved = of(found, ledger=now.ledger)
            assert sum(one.amount for one in moved) == now.balance
            left = 0
            for one in moved:
                left += one.amount
                assert one.balance_after == left
                assert one.amount != 0
    for instant, standings in year.standings.items():
        for at in (instant, instant + SECOND - timedelta(microseconds=1)):
            if at <= year.clock.now():
                then = {one.ledger: one for one in await history.standings(year.conn, payer.id, at)}
                for standing in standings:
                    assert then[standing.ledger] == standing
                last = of([one for one in found if one.created_at <= at], ledger=CREDITS)
                assert then[CREDITS].balance == (last[-1].balance_after if last else 0)


async def test_a_history_reads_the_same_in_whatever_pieces(year: Year, history: Transactions) -> None:
    await year.live(120)
    whole = await read(history, year.conn)
    assert len(whole) > 150
    assert sorted(whole, key=lambda one: one.sequence) == whole
    for limit in (1, 3, 7, 50):
        assert await read(history, year.conn, limit=limit) == whole
        forth: list[Transaction] = []
        while more := await history.following(
            year.conn, PREPAID.id, None, Wanted(), forth[-1].sequence if forth else 0, limit
        ):
            forth += more
        assert forth == whole
    for every in (1, 2, 100, MILESTONE_EVERY):
        async with year.conn.transaction(force_rollback=True):
            await year.conn.execute("delete from ledger_milestones")
            assert await read(Transactions(year.clock, milestone_every=every), year.conn, limit=20) == whole


async def test_every_filter_finds_what_it_says_and_keeps_the_balances(year: Year, history: Transactions) -> None:
    await year.live(300)
    whole = await read(history, year.conn)
    assert {one.type for one in whole} == set(TransactionType)
    for type_ in TransactionType:
        wanted = Wanted(types=[type_, type_])
        assert await read(history, year.conn, wanted, limit=2) == of(whole, type=type_)
    two = {TransactionType.EXPIRY, TransactionType.BILL}
    expected = [one for one in whole if one.type in two]
    assert await read(history, year.conn, Wanted(types=two), limit=3) == expected
    assert await history.following(year.conn, PREPAID.id, None, Wanted(types=two), 0, 999) == expected
    for ledger in LEDGERS:
        assert await read(history, year.conn, ledgers=(ledger,), limit=9) == of(whole, ledger=ledger)
    instants = sorted({one.created_at for one in whole})
    for since, until in ((3, 60), (0, 1), (50, 50), (60, 3), (100, len(instants) - 1)):
        bounds = Wanted(since=instants[since], until=instants[until])
        expected = [one for one in whole if instants[since] <= one.created_at < instants[until]]
        assert await read(history, year.conn, bounds, limit=5) == expected
        assert await history.following(year.conn, PREPAID.id, None, bounds, 0, 999) == expected
    assert await read(history, year.conn, Wanted(since=year.clock.now() + SECOND)) == []
    assert await read(history, year.conn, Wanted(until=NOON)) == []


async def test_a_cause_finds_the_transfer_and_what_completes_or_settles_it(year: Year, history: Transactions) -> None:
    await year.live(200)
    whole = await read(history, year.conn)
    causes = {one.id for one in whole} | {one.cause_id for one in whole if one.cause_id}
    assert any(one.type is TransactionType.HOLD and one.cause_id for one in whole)
    assert any(one.type is TransactionType.EXCHANGE and one.cause_id for one in whole)
    for cause in causes:
        expected = [one for one in whole if cause in (one.id, one.cause_id)]
        assert await read(history, year.conn, Wanted(cause=cause)) == expected
    assert await read(history, year.conn, Wanted(cause=UUID(int=5))) == []
    assert await read(history, year.conn, Wanted(cause=whole[0].id), payer=NEIGHBOUR) == []


async def test_numbers_count_from_the_newest(year: Year, history: Transactions) -> None:
    await year.live(100)
    place = Place(PREPAID.id, CREDITS)
    whole = (await read(history, year.conn, ledgers=(CREDITS,)))[::-1]
    for skip in (0, 1, 6, 7, 8, 50, len(whole) - 1, len(whole), 10**30):
        for limit in (1, 20, 1_000):
            found, total = await history.numbered(year.conn, place, skip, limit)
            assert total == len(whole)
            assert found == whole[skip : skip + limit]
    assert await history.numbered(year.conn, Place(UUID(int=9), CREDITS), 0, 10) == ([], 0)


async def test_the_sums_of_accounts_are_not_asked(year: Year, history: Transactions) -> None:
    """Where TigerBeetle keeps the ledger, they stay zero in this database."""
    await year.live(80)
    now = year.clock.now()
    whole, standings = await read(history, year.conn), await history.standings(year.conn, PREPAID.id, now)
    assert standings == year.standings[now]
    await year.conn.execute(
        "update ledger_accounts set debits_posted = 0, credits_posted = 0, debits_pending = 0, credits_pending = 0"
    )
    assert await read(history, year.conn) == whole
    assert await history.standings(year.conn, PREPAID.id, now) == standings


# While it grows


async def test_pages_stay_as_they_are_while_new_transfers_arrive(year: Year, history: Transactions) -> None:
    await year.live(80)
    whole = await read(history, year.conn)
    found: list[Transaction] = []
    cursor: str | None = None
    while True:
        page = await history.page(year.conn, PREPAID.id, None, Wanted(), cursor, 10)
        found += page.items
        if (cursor := page.next) is None:
            break
        await year.live(5)
    assert found[::-1] == whole


async def test_readers_at_the_same_time_set_the_same_milestones(pool: Pool, year: Year, history: Transactions) -> None:
    await year.live(100)

    async def look() -> list[Transaction]:
        async with pool.connection() as conn:
            return await read(history, conn, limit=20)

    found = await asyncio.gather(*(look() for _ in range(3)))
    assert found[0] == found[1] == found[2]
    set_at_once = await milestones(year.conn)
    await year.conn.execute("delete from ledger_milestones")
    assert await read(history, year.conn) == found[0]
    assert await milestones(year.conn) == set_at_once
    assert len(set_at_once) > 20


async def test_milestones_beyond_what_one_statement_sets(year: Year, clock: TestClock) -> None:
    history = Transactions(clock, milestone_every=1)
    movements = [year.movement(CREDITS) for _ in range(2 * MILESTONES_AT_ONCE)]
    async with year.conn.transaction():
        await year.wallets.grant(year.conn, movements, TransferCode.GRANT)  # each is followed by a repayment of nothing
    found = await read(history, year.conn)
    assert [one.id for one in found] == [movement.id for movement in movements]
    assert len(await milestones(year.conn)) == 4 * MILESTONES_AT_ONCE + 1


async def milestones(conn: Connection) -> list[object]:
    rows = await (
        await conn.execute("select m::text from ledger_milestones as m order by customer_id, ledger, sequence")
    ).fetchall()
    return list(rows)


# The edges


async def test_a_clock_that_went_back_leaves_the_order_of_the_books(conn: Connection, pool: Pool) -> None:
    """Two servers whose clocks differ: what was posted first stands first, and every page and instant agrees."""
    for number, seconds in enumerate((0, 10, 5, 20), start=1):
        wallets = Wallets(PostgresLedger(TestClock(NOON + seconds * SECOND)))
        async with conn.transaction():
            await wallets.bill(conn, [Movement(UUID(int=number), NEIGHBOUR, CREDITS, 10**number)])
    history = Transactions(TestClock(NOON + 60 * SECOND), milestone_every=2)
    for seconds, left in ((0, 10), (4, 10), (5, 10), (10, 1_110), (19, 1_110), (20, 11_110)):
        (then,) = await history.standings(conn, NEIGHBOUR.id, NOON + seconds * SECOND)
        assert then.balance == -left
    parts = [
        await read(history, conn, Wanted(since=NOON + since * SECOND, until=NOON + until * SECOND), payer=NEIGHBOUR)
        for since, until in ((0, 5), (5, 10), (10, 15), (15, 60))
    ]
    assert [[one.id.int for one in part] for part in parts] == [[1], [], [2, 3], [4]]


async def test_the_future_is_not_known(conn: Connection, history: Transactions, clock: TestClock) -> None:
    with pytest.raises(InvalidInput, match="at must not be in the future"):
        await history.standings(conn, PREPAID.id, clock.now() + timedelta(microseconds=1))
    assert await history.standings(conn, PREPAID.id, clock.now()) == []


async def test_before_anything_there_was_nothing(year: Year, history: Transactions) -> None:
    await year.live(20)
    standings = await history.standings(year.conn, PREPAID.id, NOON - 1_000 * SECOND)
    assert standings == [Balance(ledger, 0, 0, 0, 0) for ledger in LEDGERS]


async def test_a_cursor_must_be_one(conn: Connection, history: Transactions) -> None:
    for place in ((), ("1", "2"), ("x",), ("-1",), ("0",), ("1.5",), (str(END + 1),), ("9" * 50,), ("\u0661",)):
        with pytest.raises(InvalidInput, match="cursor must be one that a page of this list gave"):
            await history.page(conn, PREPAID.id, None, Wanted(), next_cursor(*place), 10)


def test_every_reason_to_move_money_has_a_type() -> None:
    for code in TransferCode:
        assert code is TransferCode.REPAYMENT or TransactionType(code.name.lower())
