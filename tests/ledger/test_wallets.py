from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import pytest

from tallystick.database.pool import Connection
from tallystick.ledger.contract import LedgerRefusal, Result, Status
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import (
    AccountCode,
    Balance,
    Left,
    Movement,
    Payer,
    TransferCode,
    Wallets,
    account_id,
    repayment_id,
    usage_id,
)

CREDITS, DOLLARS = 1, 840
PREPAID, POSTPAID = Payer(UUID(int=1), "prepaid"), Payer(UUID(int=2), "postpaid")


def moves(number: int, amount: int, payer: Payer = PREPAID, ledger: int = CREDITS) -> Movement:
    return Movement(UUID(int=number), payer, ledger, amount)


async def balance(wallets: Wallets, conn: Connection, payer: Payer = PREPAID, ledger: int = CREDITS) -> Balance:
    (standing,) = await wallets.balances(conn, payer.id, [ledger])
    return standing


async def books(conn: Connection) -> tuple[list[Any], list[Any]]:
    """Everything the ledger holds."""
    accounts = await conn.execute("select * from ledger_accounts order by customer_id, id")
    transfers = await conn.execute("select * from ledger_transfers order by sequence")
    return await accounts.fetchall(), await transfers.fetchall()


async def transfers_of(conn: Connection) -> list[tuple[int, int, int, int, UUID | None]]:
    """Debit role, credit role, amount, code and cause of each transfer, in order."""
    cursor = await conn.execute(
        "select d.code, c.code, t.amount, t.code, t.cause_id from ledger_transfers as t"
        " join ledger_accounts as d on d.customer_id = t.customer_id and d.id = t.debit_account_id"
        " join ledger_accounts as c on c.customer_id = t.customer_id and c.id = t.credit_account_id order by t.sequence"
    )
    return await cursor.fetchall()


# Money comes in, money goes out


async def test_a_wallet_from_grant_to_bill(conn: Connection, wallets: Wallets) -> None:
    assert await wallets.grant(conn, [moves(1, 200)], TransferCode.GRANT) == [Result(Status.CREATED, 200)]
    assert await wallets.grant(conn, [moves(2, 50)], TransferCode.TOP_UP) == [Result(Status.CREATED, 50)]
    assert await wallets.bill(conn, [moves(3, 30)]) == [Result(Status.CREATED, 30)]
    await wallets.charge(conn, [moves(4, 5)])
    standing = await balance(wallets, conn)
    assert standing == Balance(CREDITS, wallet=215, arrears=0, used=35, granted=250)
    assert (standing.balance, standing.available) == (215, 215)
    assert await transfers_of(conn) == [
        (AccountCode.GRANTED, AccountCode.WALLET, 200, TransferCode.GRANT, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 0, TransferCode.REPAYMENT, UUID(int=1)),
        (AccountCode.GRANTED, AccountCode.WALLET, 50, TransferCode.TOP_UP, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 0, TransferCode.REPAYMENT, UUID(int=2)),
        (AccountCode.WALLET, AccountCode.USED, 30, TransferCode.BILL, None),
        (AccountCode.ARREARS, AccountCode.USED, 5, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 5, TransferCode.REPAYMENT, UUID(int=4)),
    ]


async def test_a_prepaid_wallet_is_billed_to_the_last_microcredit_and_no_further(
    conn: Connection, wallets: Wallets
) -> None:
    await wallets.grant(conn, [moves(1, 10)], TransferCode.TOP_UP)
    results = await wallets.bill(conn, [moves(2, 6), moves(3, 5), moves(4, 4), moves(5, 1)])
    assert [result.status for result in results] == [
        Status.CREATED,
        Status.EXCEEDS_CREDITS,
        Status.CREATED,
        Status.EXCEEDS_CREDITS,
    ]
    assert await balance(wallets, conn) == Balance(CREDITS, wallet=0, arrears=0, used=10, granted=10)


async def test_a_postpaid_wallet_may_go_below_zero(conn: Connection, wallets: Wallets) -> None:
    assert await wallets.bill(conn, [moves(1, 7, POSTPAID)]) == [Result(Status.CREATED, 7)]
    await wallets.charge(conn, [moves(2, 5, POSTPAID)])
    assert await balance(wallets, conn, POSTPAID) == Balance(CREDITS, wallet=-12, arrears=0, used=12, granted=0)
    await wallets.grant(conn, [moves(3, 20, POSTPAID)], TransferCode.GRANT)
    assert await balance(wallets, conn, POSTPAID) == Balance(CREDITS, wallet=8, arrears=0, used=12, granted=20)


async def test_an_empty_wallet_refuses_its_first_bill(conn: Connection, wallets: Wallets) -> None:
    assert await wallets.bill(conn, [moves(1, 1)]) == [Result(Status.EXCEEDS_CREDITS)]
    assert await balance(wallets, conn) == Balance(CREDITS, wallet=0, arrears=0, used=0, granted=0)


async def test_assets_and_payers_are_kept_apart(conn: Connection, wallets: Wallets) -> None:
    await wallets.grant(
        conn, [moves(1, 10), moves(2, 20, ledger=DOLLARS), moves(3, 40, POSTPAID), moves(4, 5)], TransferCode.GRANT
    )
    standings = await wallets.balances(conn, PREPAID.id, [CREDITS, 978, DOLLARS])
    assert [(standing.ledger, standing.wallet) for standing in standings] == [(CREDITS, 15), (DOLLARS, 20)]
    nobody = UUID(int=3)
    assert await wallets.balances(conn, nobody, [CREDITS]) == []
    left = await wallets.left(conn, [PREPAID.id, nobody, POSTPAID.id, PREPAID.id], CREDITS)
    assert left == {PREPAID.id: Left(15, 0), POSTPAID.id: Left(40, 0), nobody: Left(0, 0)}


# Arrears


async def test_usage_that_the_wallet_cannot_pay_goes_to_arrears(conn: Connection, wallets: Wallets) -> None:
    await wallets.grant(conn, [moves(1, 10)], TransferCode.GRANT)
    await wallets.charge(conn, [moves(2, 4), moves(3, 9), moves(4, 2)])
    standing = await balance(wallets, conn)
    assert standing == Balance(CREDITS, wallet=0, arrears=5, used=15, granted=10)
    assert standing.balance == standing.available == -5
    assert await wallets.left(conn, [PREPAID.id], CREDITS) == {PREPAID.id: Left(-5, 0)}
    assert (await transfers_of(conn))[2:] == [
        (AccountCode.ARREARS, AccountCode.USED, 4, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 4, TransferCode.REPAYMENT, UUID(int=2)),
        (AccountCode.ARREARS, AccountCode.USED, 9, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 6, TransferCode.REPAYMENT, UUID(int=3)),
        (AccountCode.ARREARS, AccountCode.USED, 2, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 0, TransferCode.REPAYMENT, UUID(int=4)),
    ]


@pytest.mark.parametrize(
    ("incomes", "left"),
    [
        ([3], Balance(CREDITS, wallet=0, arrears=2, used=5, granted=3)),
        ([5], Balance(CREDITS, wallet=0, arrears=0, used=5, granted=5)),
        ([8], Balance(CREDITS, wallet=3, arrears=0, used=5, granted=8)),
        ([2, 2, 2], Balance(CREDITS, wallet=1, arrears=0, used=5, granted=6)),
    ],
)
async def test_money_that_comes_in_repays_arrears_first(
    conn: Connection, wallets: Wallets, incomes: list[int], left: Balance
) -> None:
    await wallets.charge(conn, [moves(1, 5)])
    assert await wallets.bill(conn, [moves(2, 1)]) == [Result(Status.EXCEEDS_CREDITS)]
    movements = [moves(number, income) for number, income in enumerate(incomes, start=10)]
    results = await wallets.grant(conn, movements, TransferCode.TOP_UP)
    assert results == [Result(Status.CREATED, income) for income in incomes]
    assert await balance(wallets, conn) == left
    repayments = [row for row in await transfers_of(conn) if row[3] == TransferCode.REPAYMENT]
    assert sum(row[2] for row in repayments) == 5 - left.arrears
    assert {row[:2] for row in repayments} == {(AccountCode.WALLET, AccountCode.ARREARS)}
    assert [row[4] for row in repayments] == [UUID(int=1), *(movement.id for movement in movements)]


# Money goes back


async def test_a_negative_charge_gives_money_back(conn: Connection, wallets: Wallets) -> None:
    await wallets.grant(conn, [moves(1, 10), moves(2, 10, POSTPAID)], TransferCode.GRANT)
    await wallets.charge(conn, [moves(3, 6), moves(4, 6, POSTPAID)])
    await wallets.charge(conn, [moves(5, -2), moves(6, -2, POSTPAID)])
    for payer in (PREPAID, POSTPAID):
        assert await balance(wallets, conn, payer) == Balance(CREDITS, wallet=6, arrears=0, used=4, granted=10)


async def test_money_given_back_repays_arrears_first(conn: Connection, wallets: Wallets) -> None:
    await wallets.charge(conn, [moves(1, 5)])
    await wallets.charge(conn, [moves(2, -3)])
    assert await balance(wallets, conn) == Balance(CREDITS, wallet=0, arrears=2, used=2, granted=0)
    await wallets.charge(conn, [moves(3, -4)])
    assert await balance(wallets, conn) == Balance(CREDITS, wallet=2, arrears=0, used=-2, granted=0)


async def test_charges_of_one_batch_give_and_take_in_their_order(conn: Connection, wallets: Wallets) -> None:
    await wallets.charge(conn, [moves(1, -3), moves(2, 5), moves(3, 0), moves(4, 7, POSTPAID)])
    assert await transfers_of(conn) == [
        (AccountCode.USED, AccountCode.WALLET, 3, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 0, TransferCode.REPAYMENT, UUID(int=1)),
        (AccountCode.ARREARS, AccountCode.USED, 5, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 3, TransferCode.REPAYMENT, UUID(int=2)),
        (AccountCode.ARREARS, AccountCode.USED, 0, TransferCode.USAGE, None),
        (AccountCode.WALLET, AccountCode.ARREARS, 0, TransferCode.REPAYMENT, UUID(int=3)),
        (AccountCode.WALLET, AccountCode.USED, 7, TransferCode.USAGE, None),
    ]
    assert await balance(wallets, conn) == Balance(CREDITS, wallet=0, arrears=2, used=2, granted=0)
    assert await balance(wallets, conn, POSTPAID) == Balance(CREDITS, wallet=-7, arrears=0, used=7, granted=0)


# Doing a thing twice does it once


@pytest.mark.parametrize("payer", [PREPAID, POSTPAID], ids=lambda payer: payer.credit_policy)
async def test_every_movement_repeated_moves_nothing(conn: Connection, wallets: Wallets, payer: Payer) -> None:
    """Repayments are repeated by the movement that caused them, whatever the wallet holds by then."""
    debt, grant, bill = moves(1, 8, payer), moves(2, 20, payer), moves(3, 5, payer)
    back, usage = moves(4, -4, payer), moves(5, 30, payer)
    await wallets.charge(conn, [debt])
    await wallets.grant(conn, [grant], TransferCode.GRANT)
    await wallets.bill(conn, [bill])
    await wallets.charge(conn, [back, usage])
    await wallets.grant(conn, [moves(6, 100, payer)], TransferCode.TOP_UP)
    before = await books(conn)
    await wallets.charge(conn, [debt])
    assert await wallets.grant(conn, [grant, grant], TransferCode.GRANT) == [Result(Status.EXISTS, 20)] * 2
    assert await wallets.bill(conn, [bill]) == [Result(Status.EXISTS, 5)]
    await wallets.charge(conn, [back, usage])
    assert await books(conn) == before


async def test_a_movement_twice_in_one_batch_moves_once(conn: Connection, wallets: Wallets) -> None:
    income, bill = moves(1, 10), moves(2, 6)
    results = await wallets.grant(conn, [income, income], TransferCode.TOP_UP)
    assert [result.status for result in results] == [Status.CREATED, Status.EXISTS]
    results = await wallets.bill(conn, [bill, bill])
    assert [result.status for result in results] == [Status.CREATED, Status.EXISTS]
    usage = moves(3, 7)
    await wallets.charge(conn, [usage, usage])
    assert await balance(wallets, conn) == Balance(CREDITS, wallet=0, arrears=3, used=13, granted=10)


async def test_an_id_that_stands_for_something_else_is_loud_and_without_effect(
    conn: Connection, wallets: Wallets
) -> None:
    await wallets.charge(conn, [moves(1, 8), moves(2, 8, POSTPAID)])
    before = await books(conn)
    for other, name in (
        (moves(1, 9), "amount"),
        (moves(1, -8), "debit_account_id"),
        (moves(2, 9, POSTPAID), "amount"),
        (moves(2, -8, POSTPAID), "debit_account_id"),
    ):
        with pytest.raises(LedgerRefusal, match=f"exists_with_different_{name}$"):
            async with conn.transaction():
                await wallets.charge(conn, [other])
    different = [Result(Status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID)]
    assert await wallets.grant(conn, [moves(1, 8)], TransferCode.GRANT) == different
    assert await wallets.bill(conn, [moves(1, 8)]) == different
    assert await books(conn) == before


def test_the_ids_of_what_a_movement_entails_are_derived_from_its_own() -> None:
    one, other = UUID(int=1), UUID(int=2)
    derived = [
        repayment_id(one),
        repayment_id(other),
        *(usage_id(*places, one) for places in ((one, 1, one), (other, 1, one), (one, 840, one), (one, 1, other))),
        usage_id(one, 1, one, other),
    ]
    accounts = [
        account_id(customer, ledger, code) for customer in (one, other) for ledger in (1, 840) for code in AccountCode
    ]
    assert len({*derived, *accounts}) == len(derived) + len(accounts)
    assert repayment_id(one) == repayment_id(one)


# Any sequence of movements, against sums that can be done on paper


@dataclass
class Paper:
    """What a wallet must hold, by the words of the design."""

    prepaid: bool
    wallet: int = 0
    arrears: int = 0
    used: int = 0
    granted: int = 0

    def income(self, amount: int) -> None:
        repaid = min(amount, self.arrears)
        self.arrears -= repaid
        self.wallet += amount - repaid

    def grant(self, amount: int) -> None:
        self.granted += amount
        self.income(amount)

    def bill(self, amount: int) -> Status:
        if self.prepaid and amount > self.wallet:
            return Status.EXCEEDS_CREDITS
        self.wallet -= amount
        self.used += amount
        return Status.CREATED

    def charge(self, amount: int) -> None:
        self.used += amount
        if amount < 0:
            self.income(-amount)
        else:
            paid = min(amount, self.wallet) if self.prepaid else amount
            self.wallet -= paid
            self.arrears += amount - paid


@dataclass
class Workday:
    """Random movements of several payers and assets, carried out by ``wallets`` and on paper."""

    wallets: Wallets
    random: Random
    paper: dict[tuple[Payer, int], Paper] = field(default_factory=dict)
    made: list[tuple[str, Movement]] = field(default_factory=list)

    def movements(self, low: int) -> list[Movement]:
        places = [
            (payer, ledger)
            for payer in (PREPAID, POSTPAID, Payer(UUID(int=3), "prepaid"))
            for ledger in (CREDITS, DOLLARS)
        ]
        return [
            Movement(UUID(int=self.random.getrandbits(128)), *self.random.choice(places), self.random.randint(low, 100))
            for _ in range(self.random.randint(1, 8))
        ]

    def page(self, movement: Movement) -> Paper:
        return self.paper.setdefault(
            (movement.payer, movement.ledger), Paper(movement.payer.credit_policy == "prepaid")
        )

    async def grant(self, conn: Connection) -> None:
        movements = self.movements(0)
        results = await self.wallets.grant(conn, movements, TransferCode.GRANT)
        assert results == [Result(Status.CREATED, movement.amount) for movement in movements]
        for movement in movements:
            self.page(movement).grant(movement.amount)
        self.made += [("grant", movement) for movement in movements]

    async def bill(self, conn: Connection) -> None:
        movements = self.movements(0)
        statuses = [result.status for result in await self.wallets.bill(conn, movements)]
        assert statuses == [self.page(movement).bill(movement.amount) for movement in movements]
        self.made += [("bill", m) for m, status in zip(movements, statuses, strict=True) if status is Status.CREATED]

    async def charge(self, conn: Connection) -> None:
        movements = self.movements(-60)
        await self.wallets.charge(conn, movements)
        for movement in movements:
            self.page(movement).charge(movement.amount)
        self.made += [("charge", movement) for movement in movements]

    async def repeat(self, conn: Connection, kind: str) -> None:
        movements = [movement for made, movement in self.made if made == kind]
        self.random.shuffle(movements)
        match kind:
            case "grant":
                results = await self.wallets.grant(conn, movements, TransferCode.GRANT)
            case "bill":
                results = await self.wallets.bill(conn, movements)
            case _:
                await self.wallets.charge(conn, movements)
                return
        assert results == [Result(Status.EXISTS, movement.amount) for movement in movements]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_any_sequence_of_movements(conn: Connection, ledger: PostgresLedger, seed: int) -> None:
    day = Workday(Wallets(ledger), Random(seed))
    for _ in range(60):
        await day.random.choice((day.grant, day.bill, day.charge, day.charge))(conn)
    for (payer, asset), paper in day.paper.items():
        standing = await balance(day.wallets, conn, payer, asset)
        assert standing == Balance(asset, paper.wallet, paper.arrears, paper.used, paper.granted)
        assert standing.balance == paper.granted - paper.used
        assert not paper.prepaid or (standing.wallet >= 0 and not (standing.wallet and standing.arrears))
    before = await books(conn)
    for kind in ("charge", "grant", "bill"):
        await day.repeat(conn, kind)
    assert await books(conn) == before
