"""A customer's wallet, made of ledger accounts per asset, and what may happen to it.

    granted --(grant, top-up)--> wallet --(bill, hold, usage of postpaid)--> used
                                 wallet --(repayment)--> arrears --(usage of prepaid)--> used
                                 wallet --(expiry)--> expired
                                 wallet <--(exchange)--> exchanged

Balance is wallet minus arrears. The wallet of a prepaid customer cannot go below zero. Usage that has already happened
is taken to arrears, and arrears are repaid from the wallet as far as it reaches, at once and whenever money comes in.
No step depends on what another one moved, so a whole batch is fixed before it is posted, on whatever engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import derived_id
from tallystick.ledger.contract import (
    AMOUNT_MAX,
    Account,
    AccountFlags,
    Ledger,
    Opening,
    Result,
    Transfer,
    TransferFlags,
)

CreditPolicy = Literal["postpaid", "prepaid"]
"""``prepaid``: what can be refused is refused when the wallet is empty. ``postpaid``: nothing is, and debt may grow."""


PostingPolicy = Literal["immediate", "monthly"]
"""``immediate``: usage moves money in the transaction that measures it. ``monthly``: its month does when it is over."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose wallet pays, and under which policies."""

    id: UUID
    credit_policy: CreditPolicy
    posting_policy: PostingPolicy = "immediate"


FindPayers = Callable[[AsyncConnection, list[str]], Awaitable[dict[str, tuple[UUID, Payer]]]]
"""Finds, of the customers with these keys, those that exist: the id of each, and who pays for it."""


class AccountCode(IntEnum):
    """The roles of a customer's accounts."""

    WALLET = 1
    ARREARS = 2
    USED = 3
    GRANTED = 4
    EXPIRED = 5
    EXCHANGED = 6
    """What went to (or came from) wallets in other assets."""


class TransferCode(IntEnum):
    """Why money moved."""

    GRANT = 1
    TOP_UP = 2
    BILL = 3
    USAGE = 4
    REPAYMENT = 5
    HOLD = 6
    EXPIRY = 7
    GRANT_VOIDED = 8
    EXCHANGE = 9
    TAKEOVER = 10
    """What a customer owed when somebody else began to pay for it."""


class InsufficientCredits(TallyError):
    """A prepaid wallet holds less than what is to be taken from it; nothing was moved."""

    code = "insufficient_credits"
    status = 402


class Movement(NamedTuple):
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
    expired: int = 0
    exchanged: int = 0
    """Came in from wallets in other assets; negative if more went out."""
    held: int = 0

    @property
    def balance(self) -> int:
        """What is left: negative if more was used than given."""
        return self.wallet - self.arrears

    @property
    def available(self) -> int:
        """What can be spent: holds have reserved the rest."""
        return self.balance - self.held


class Left(NamedTuple):
    """Wallet minus arrears, and how much of it holds have reserved, in microunits."""

    balance: int
    held: int


def account_id(customer_id: UUID, ledger: int, code: AccountCode) -> UUID:
    """The id of a customer's account of one role in one asset."""
    return _account_ids(customer_id.int, ledger)[code]


@lru_cache(maxsize=20_000)
def _account_ids(customer: int, ledger: int) -> dict[int, UUID]:
    """By role. The customer is the integer of its id, which is found ten times as fast as the id itself."""
    customer_id = UUID(int=customer)
    return {code: derived_id("account", customer_id, str(ledger), str(code)) for code in map(int, AccountCode)}


def usage_id(payer_id: UUID, ledger: int, customer: UUID, measurement: UUID) -> UUID:
    """The id of a transfer of usage, named by the first measurement that it charges: none is ever charged by two."""
    return derived_id("usage", payer_id, str(ledger), customer, measurement)


def repayment_id(cause_id: UUID) -> UUID:
    """The id of the transfer by which arrears are repaid after another one."""
    return derived_id("repayment", cause_id)


def transfer_of(
    movement: Movement,
    debit: AccountCode,
    credit: AccountCode,
    code: TransferCode,
    flags: TransferFlags = TransferFlags.NONE,
    *,
    pending_id: UUID | None = None,
) -> Transfer:
    """A movement from one of its payer's accounts to another."""
    payer_id, ledger = movement.payer.id, movement.ledger
    accounts = _account_ids(payer_id.int, ledger)
    return Transfer(
        movement.id,
        payer_id,
        accounts[debit],
        accounts[credit],
        movement.amount,
        ledger,
        code,
        flags,
        movement.cause_id,
        pending_id,
    )


_AS_FAR_AS_IT_REACHES = TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT


def repayments(movement: Movement) -> list[Transfer]:
    """What follows a movement after which a prepaid wallet may hold something while there are arrears."""
    if movement.payer.credit_policy == "postpaid":
        return []
    repayment = Movement(repayment_id(movement.id), movement.payer, movement.ledger, AMOUNT_MAX, movement.id)
    return [
        transfer_of(repayment, AccountCode.WALLET, AccountCode.ARREARS, TransferCode.REPAYMENT, _AS_FAR_AS_IT_REACHES)
    ]


def usage_transfers(movement: Movement, code: TransferCode = TransferCode.USAGE) -> list[Transfer]:
    """How usage that has already happened is charged: never refused. A negative amount gives money back."""
    if movement.amount < 0:
        returned = Movement(movement.id, movement.payer, movement.ledger, -movement.amount, movement.cause_id)
        return [transfer_of(returned, AccountCode.USED, AccountCode.WALLET, code), *repayments(returned)]
    source = AccountCode.ARREARS if movement.payer.credit_policy == "prepaid" else AccountCode.WALLET
    return [transfer_of(movement, source, AccountCode.USED, code), *repayments(movement)]


class Wallets:
    """Moves money on the ledger by the rules of wallets. Works in the caller's transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def grant(self, conn: AsyncConnection, movements: Sequence[Movement], code: TransferCode) -> list[Result]:
        """Credits come in, and repay arrears first. A repetition answers ``EXISTS`` and moves nothing."""
        return await self.post(
            conn,
            [[transfer_of(m, AccountCode.GRANTED, AccountCode.WALLET, code), *repayments(m)] for m in movements],
            movements,
        )

    async def bill(self, conn: AsyncConnection, movements: Sequence[Movement]) -> list[Result]:
        """Takes amounts from wallets, one after the other; ``EXCEEDS_CREDITS`` where a prepaid wallet has less."""
        return await self.post(
            conn,
            [[transfer_of(m, AccountCode.WALLET, AccountCode.USED, TransferCode.BILL)] for m in movements],
            movements,
        )

    async def charge(
        self, conn: AsyncConnection, movements: Sequence[Movement], code: TransferCode = TransferCode.USAGE
    ) -> None:
        """Charges usage that has already happened. The money has moved at the latest soon after the commit."""
        transfers = [transfer for movement in movements for transfer in usage_transfers(movement, code)]
        await self._ledger.promise(conn, transfers, _opening(movements))

    async def post(
        self, conn: AsyncConnection, transfers: Sequence[Sequence[Transfer]], movements: Sequence[Movement]
    ) -> list[Result]:
        """Posts the transfers of each movement, in order, and answers with the result of the first one of each.

        Whatever accounts their payers lack are opened.
        """
        flat = [transfer for group in transfers for transfer in group]
        results = await self._ledger.post(conn, flat, _opening(movements))
        firsts = accumulate((len(group) for group in transfers[:-1]), initial=0)
        return [results[first] for first in firsts] if transfers else []

    async def balances(self, conn: AsyncConnection, customer_id: UUID, ledgers: Iterable[int]) -> list[Balance]:
        """A customer's standing in each of these assets in which it has accounts."""
        return (await self.standings(conn, [customer_id], ledgers))[customer_id]

    async def standings(
        self, conn: AsyncConnection, customers: Collection[UUID], ledgers: Iterable[int]
    ) -> dict[UUID, list[Balance]]:
        """The standing of many customers in each of these assets in which they have accounts."""
        wanted = [
            (customer_id, account_id(customer_id, ledger, code))
            for customer_id in customers
            for ledger in ledgers
            for code in AccountCode
        ]
        found = await self._ledger.accounts(conn, wanted)
        accounts = {(account.customer_id, account.ledger, account.code): account for account in found.values()}
        places = sorted({(account.customer_id, account.ledger) for account in found.values()})
        standings: dict[UUID, list[Balance]] = {customer_id: [] for customer_id in customers}
        for customer_id, ledger in places:
            standings[customer_id].append(
                _balance(ledger, {code: accounts.get((customer_id, ledger, code)) for code in AccountCode})
            )
        return standings

    async def left(
        self, conn: AsyncConnection, customers: Iterable[UUID], ledger: int, *, serialised: bool = False
    ) -> dict[UUID, Left]:
        """What is left to many customers in one asset; nothing without accounts."""
        ids = {customer_id: _account_ids(customer_id.int, ledger) for customer_id in customers}
        wanted = [(customer_id, owned[code]) for customer_id, owned in ids.items() for code in _LEFT]
        found = await self._ledger.accounts(conn, wanted, serialised=serialised)
        return {customer_id: _left([found.get(owned[code]) for code in _LEFT]) for customer_id, owned in ids.items()}


_LEFT = (AccountCode.WALLET, AccountCode.ARREARS)


def _left(accounts: Iterable[Account | None]) -> Left:
    known = [account for account in accounts if account is not None]
    return Left(sum([account.credit_balance for account in known]), sum([account.debits_pending for account in known]))


def _balance(ledger: int, accounts: dict[AccountCode, Account | None]) -> Balance:
    sums = {code: account.credit_balance if account else 0 for code, account in accounts.items()}
    wallet = accounts[AccountCode.WALLET]
    return Balance(
        ledger,
        wallet=sums[AccountCode.WALLET],
        arrears=-sums[AccountCode.ARREARS],
        used=sums[AccountCode.USED],
        granted=-sums[AccountCode.GRANTED],
        expired=sums[AccountCode.EXPIRED],
        exchanged=-sums[AccountCode.EXCHANGED],
        held=wallet.debits_pending if wallet else 0,
    )


def _opening(movements: Sequence[Movement]) -> Opening:
    """Opens all accounts of a payer in an asset as soon as one of them is missing."""

    def opened(missing: Collection[UUID]) -> list[Account]:
        places = {(movement.payer, movement.ledger) for movement in movements}
        accounts = [_accounts(payer, ledger) for payer, ledger in places]
        return [account for owned in accounts if any(account.id in missing for account in owned) for account in owned]

    return opened


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
