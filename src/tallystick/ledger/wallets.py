"""A customer's wallet, made of ledger accounts per asset, and what may happen to it.

    granted --(grant, top-up)--> wallet --(bill, usage)--> used
                                 wallet --(repayment)----> arrears --(usage)--> used

Balance is wallet minus arrears. The wallet of a prepaid customer cannot go below zero: usage that has already happened
then goes to arrears, and money that comes in repays arrears first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Literal
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import derived_id
from tallystick.ledger.contract import Account, AccountFlags, Ledger, Result, Status, Transfer, TransferFlags

CreditPolicy = Literal["postpaid", "prepaid"]
"""``prepaid``: what can be refused is refused when the wallet is empty. ``postpaid``: nothing is, and debt may grow."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose wallet pays, and under which policy."""

    id: UUID
    credit_policy: CreditPolicy


class AccountCode(IntEnum):
    """The roles of a customer's accounts."""

    WALLET = 1
    ARREARS = 2
    USED = 3
    GRANTED = 4
    EXPIRED = 5


class TransferCode(IntEnum):
    """Why money moved."""

    GRANT = 1
    TOP_UP = 2
    BILL = 3
    USAGE = 4
    REPAYMENT = 5


class InsufficientCredits(TallyError):
    """A prepaid wallet holds less than what is to be billed; nothing was moved."""

    code = "insufficient_credits"
    status = 402


class LedgerRefusal(TallyError):
    """The ledger refused a transfer that the rules above never produce: a defect, loud and without effect."""

    code = "ledger_refusal"
    status = 500


@dataclass(frozen=True, slots=True)
class Movement:
    """An amount (microunits, signed where money may go back) that a cause moves in a payer's books.

    ``id`` is derived from the cause; ``cause_id`` names the movement that this one completes.
    """

    id: UUID
    payer: Payer
    ledger: int
    amount: int
    cause_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """A customer's standing in one asset, in microunits."""

    ledger: int
    wallet: int
    arrears: int
    used: int
    granted: int

    @property
    def balance(self) -> int:
        """What is left: negative if more was used than given."""
        return self.wallet - self.arrears

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.balance


@lru_cache(maxsize=100_000)
def account_id(customer_id: UUID, ledger: int, code: AccountCode) -> UUID:
    """The id of a customer's account of one role in one asset."""
    return derived_id("account", customer_id, str(ledger), str(int(code)))


def usage_id(payer_id: UUID, ledger: int, customer: UUID, measurement: UUID) -> UUID:
    """The id of a transfer of usage, named by the first measurement that it charges: none is ever charged by two."""
    return derived_id("usage", payer_id, str(ledger), customer, measurement)


def arrears_id(usage_id: UUID) -> UUID:
    """The id of the transfer that takes to arrears what the wallet could not pay of a usage transfer."""
    return derived_id("arrears", usage_id)


def repayment_id(income_id: UUID) -> UUID:
    """The id of the transfer by which money that came in repays arrears."""
    return derived_id("repayment", income_id)


class Wallets:
    """Moves money on the ledger by the rules of wallets. Works in the caller's transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def grant(self, conn: AsyncConnection, movements: list[Movement], code: TransferCode) -> list[Result]:
        """Credits come in, and repay arrears first. A repetition answers ``EXISTS`` and moves nothing."""
        return await self._income(conn, [(movement, AccountCode.GRANTED, code) for movement in movements])

    async def bill(self, conn: AsyncConnection, movements: list[Movement]) -> list[Result]:
        """Takes amounts from wallets, one after the other; ``EXCEEDS_CREDITS`` where a prepaid wallet holds less."""
        return await self._post(
            conn,
            [_transfer(movement, AccountCode.WALLET, AccountCode.USED, TransferCode.BILL) for movement in movements],
            movements,
        )

    async def charge(self, conn: AsyncConnection, movements: list[Movement]) -> None:
        """Charges usage that has already happened: never refused. A negative amount gives money back."""
        postpaid = [m for m in movements if m.amount >= 0 and m.payer.credit_policy == "postpaid"]
        prepaid = [m for m in movements if m.amount >= 0 and m.payer.credit_policy == "prepaid"]
        returned = [m for m in movements if m.amount < 0]
        _insist(
            await self._post(
                conn,
                [_transfer(m, AccountCode.WALLET, AccountCode.USED, TransferCode.USAGE) for m in postpaid],
                postpaid,
            )
        )
        await self._charge_prepaid(conn, prepaid)
        _insist(
            await self._income(
                conn,
                [
                    (Movement(m.id, m.payer, m.ledger, -m.amount), AccountCode.USED, TransferCode.USAGE)
                    for m in returned
                ],
            )
        )

    async def balances(self, conn: AsyncConnection, customer_id: UUID, ledgers: Iterable[int]) -> list[Balance]:
        """A customer's standing in each of these assets in which it has accounts."""
        wanted = [(customer_id, account_id(customer_id, ledger, code)) for ledger in ledgers for code in AccountCode]
        sums = {
            (account.ledger, account.code): account.credit_balance
            for account in (await self._ledger.accounts(conn, wanted)).values()
        }
        return [
            Balance(
                ledger,
                wallet=sums.get((ledger, AccountCode.WALLET), 0),
                arrears=-sums.get((ledger, AccountCode.ARREARS), 0),
                used=sums.get((ledger, AccountCode.USED), 0),
                granted=-sums.get((ledger, AccountCode.GRANTED), 0),
            )
            for ledger in sorted({ledger for ledger, _ in sums})
        ]

    async def spendable(self, conn: AsyncConnection, customers: Iterable[UUID], ledger: int) -> dict[UUID, int]:
        """Wallet minus arrears of many customers in one asset, in microunits; 0 without accounts."""
        ids = sorted(set(customers))
        wanted = [
            (customer_id, account_id(customer_id, ledger, code))
            for customer_id in ids
            for code in (AccountCode.WALLET, AccountCode.ARREARS)
        ]
        left = dict.fromkeys(ids, 0)
        for account in (await self._ledger.accounts(conn, wanted)).values():
            left[account.customer_id] += account.credit_balance
        return left

    async def _charge_prepaid(self, conn: AsyncConnection, movements: list[Movement]) -> None:
        paid = await self._post(
            conn,
            [
                _transfer(m, AccountCode.WALLET, AccountCode.USED, TransferCode.USAGE, TransferFlags.BALANCING_DEBIT)
                for m in movements
            ],
            movements,
        )
        _insist(paid)
        owed = [
            Movement(arrears_id(m.id), m.payer, m.ledger, m.amount - result.amount, m.id)
            for m, result in zip(movements, paid, strict=True)
            if result.amount < m.amount
        ]
        _insist(
            await self._post(
                conn, [_transfer(m, AccountCode.ARREARS, AccountCode.USED, TransferCode.USAGE) for m in owed], owed
            )
        )

    async def _income(
        self, conn: AsyncConnection, incomes: list[tuple[Movement, AccountCode, TransferCode]]
    ) -> list[Result]:
        if not incomes:
            return []
        movements = [movement for movement, _, _ in incomes]
        results = await self._post(
            conn,
            [_transfer(movement, source, AccountCode.WALLET, code) for movement, source, code in incomes],
            movements,
        )
        came_in = [
            movement for movement, result in zip(movements, results, strict=True) if result.status is Status.CREATED
        ]
        indebted = await self._indebted(conn, came_in)
        repayments = [
            Movement(repayment_id(m.id), m.payer, m.ledger, m.amount, m.id)
            for m in came_in
            if (m.payer.id, m.ledger) in indebted
        ]
        _insist(
            await self._post(
                conn,
                [
                    _transfer(
                        m,
                        AccountCode.WALLET,
                        AccountCode.ARREARS,
                        TransferCode.REPAYMENT,
                        TransferFlags.BALANCING_CREDIT,
                    )
                    for m in repayments
                ],
                repayments,
            )
        )
        return results

    async def _indebted(self, conn: AsyncConnection, movements: list[Movement]) -> set[tuple[UUID, int]]:
        prepaid = {(m.payer.id, m.ledger) for m in movements if m.payer.credit_policy == "prepaid"}
        if not prepaid:
            return set()
        wanted = [(payer_id, account_id(payer_id, ledger, AccountCode.ARREARS)) for payer_id, ledger in sorted(prepaid)]
        accounts = await self._ledger.accounts(conn, wanted)
        return {(account.customer_id, account.ledger) for account in accounts.values() if account.credit_balance < 0}

    async def _post(self, conn: AsyncConnection, transfers: list[Transfer], movements: list[Movement]) -> list[Result]:
        """Posts; where a payer has no accounts yet, opens them and posts again: known payers cost nothing extra."""
        results = await self._ledger.post(conn, transfers)
        missing = [index for index, result in enumerate(results) if result.status in _WITHOUT_ACCOUNT]
        if missing:
            payers = {(movements[index].payer, movements[index].ledger) for index in missing}
            await self._ledger.create_accounts(
                conn, [account for payer, ledger in payers for account in _accounts(payer, ledger)]
            )
            for index, result in zip(
                missing, await self._ledger.post(conn, [transfers[i] for i in missing]), strict=True
            ):
                results[index] = result
        return results


_WITHOUT_ACCOUNT = (Status.DEBIT_ACCOUNT_NOT_FOUND, Status.CREDIT_ACCOUNT_NOT_FOUND)


def _accounts(payer: Payer, ledger: int) -> list[Account]:
    limit = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS if payer.credit_policy == "prepaid" else AccountFlags.NONE
    return [
        Account(
            account_id(payer.id, ledger, code),
            payer.id,
            ledger,
            code,
            limit if code is AccountCode.WALLET else AccountFlags.NONE,
        )
        for code in AccountCode
    ]


def _transfer(
    movement: Movement,
    debit: AccountCode,
    credit: AccountCode,
    code: TransferCode,
    flags: TransferFlags = TransferFlags.NONE,
) -> Transfer:
    payer_id, ledger = movement.payer.id, movement.ledger
    return Transfer(
        movement.id,
        payer_id,
        account_id(payer_id, ledger, debit),
        account_id(payer_id, ledger, credit),
        movement.amount,
        ledger,
        code,
        flags,
        movement.cause_id,
    )


def _insist(results: list[Result]) -> None:
    if refused := [result.status.value for result in results if not result.stands]:
        raise LedgerRefusal(f"the ledger refused a transfer: {refused[0]}")
