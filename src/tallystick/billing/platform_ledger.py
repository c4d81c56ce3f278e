"""A customer's credits as the government platform's billing books them: transactions of two entries each.

That system knows four types of account (``ACCOUNT_TYPES``); ours are among them by what they are for:

    granted, exchanged -> liabilities      wallet, arrears -> credit pool
    expired            -> expenses         used            -> credits used

A transfer's debit side is an entry of direction -1, its credit side one of +1, so entries always add up to zero. What
stays within one type (arrears that are repaid from the wallet) is no transaction there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection

from tallystick.billing.agreements import is_agreed
from tallystick.billing.transactions import Transaction, Transactions, TransactionType, Wanted
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.calendar import Month, month_starting
from tallystick.kernel.paging import Page

_SQL = Queries(Path(__file__).with_suffix(".sql"))

CREDITS: Final = 1
"""The ledger of CREDIT, the one asset that this system knows."""

POP_START: Final = "iaa_pop_start"
POP_END: Final = "iaa_pop_end"
USAGE_POST: Final = "usage_post"
"""Types of transactions: an agreement's period of performance begins or ends, a month's usage is posted.

Others have the names that they have with us.
"""


@dataclass(frozen=True, slots=True)
class AccountType:
    """``normal`` is the direction of the entries that raise such an account."""

    id: int
    name: str
    normal: int


LIABILITIES: Final = AccountType(200, "liabilities", -1)
CREDIT_POOL: Final = AccountType(201, "credit_pool", -1)
EXPENSES: Final = AccountType(400, "expenses", 1)
CREDITS_USED: Final = AccountType(401, "credits_used", 1)
ACCOUNT_TYPES: Final = (LIABILITIES, CREDIT_POOL, EXPENSES, CREDITS_USED)

_COUNTERPARTS: Final = {
    TransactionType.GRANT: LIABILITIES,
    TransactionType.TOP_UP: LIABILITIES,
    TransactionType.GRANT_VOIDED: LIABILITIES,
    TransactionType.EXCHANGE: LIABILITIES,
    TransactionType.EXPIRY: EXPENSES,
    TransactionType.BILL: CREDITS_USED,
    TransactionType.USAGE: CREDITS_USED,
    TransactionType.USAGE_RETURNED: CREDITS_USED,
    TransactionType.HOLD: CREDITS_USED,
    TransactionType.TAKEOVER: CREDITS_USED,
}
"""Where credits that move in or out of the pool come from or go to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transaction: ``amount`` microcredits, not negative, in ``direction`` -1 (debit) or 1 (credit)."""

    account_type: int
    direction: int
    amount: int


@dataclass(frozen=True, slots=True)
class Booking:
    """A transaction as that system has it. The sum of direction times amount over its entries is 0."""

    id: UUID
    occurred_at: datetime
    type: str
    description: str | None
    entries: tuple[Entry, Entry]


@dataclass(frozen=True, slots=True)
class Agreed:
    """A transaction begins or ends an agreement's period of performance: it is about the grant of one."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Posted:
    """A transaction posts the usage of ``month``."""

    month: Month


About = Agreed | Posted | None
"""What that system knows a transaction as; most of them it does not know."""


def booking_of(transaction: Transaction, about: About) -> Booking:
    """A transaction of ours in that system's terms."""
    occurred_at, type_, description = transaction.created_at, transaction.type.value, transaction.description
    match about:
        case Agreed(reason) if transaction.type is TransactionType.GRANT:
            type_, description = POP_START, reason
        case Agreed(reason) if transaction.type is TransactionType.EXPIRY:
            type_, description = POP_END, reason
        case Posted(month):  # what is posted before its month is over did not happen at its end
            type_, occurred_at = USAGE_POST, min(month.end, occurred_at)
    entries = _entries(_COUNTERPARTS[transaction.type], transaction.amount)
    return Booking(transaction.id, occurred_at, type_, description, entries)


def _entries(counterpart: AccountType, amount: int) -> tuple[Entry, Entry]:
    """Debit and credit of what came into the pool, or went out of it if ``amount`` is negative."""
    debit, credit = (counterpart, CREDIT_POOL) if amount > 0 else (CREDIT_POOL, counterpart)
    return Entry(debit.id, -1, abs(amount)), Entry(credit.id, 1, abs(amount))


class PlatformLedger:
    """Read only but for milestones, as ``Transactions``. Works on the caller's connection."""

    def __init__(self, transactions: Transactions, zone: ZoneInfo) -> None:
        self._transactions = transactions
        self._zone = zone

    async def page(self, conn: AsyncConnection, customer_id: UUID, cursor: str | None, limit: int) -> Page[Booking]:
        """What moved the credits of a customer's own wallet, newest first. Raises ``InvalidInput`` for a bad cursor."""
        page = await self._transactions.page(conn, customer_id, [CREDITS], Wanted(), cursor, limit)
        causes = [_cause(transaction) for transaction in page.items]
        known = await self._known(conn, customer_id, causes)
        bookings = [
            booking_of(transaction, known.get(cause)) for transaction, cause in zip(page.items, causes, strict=True)
        ]
        return Page(bookings, page.next)

    async def _known(self, conn: AsyncConnection, customer_id: UUID, causes: Collection[UUID]) -> dict[UUID, About]:
        """Those of the causes that are grants of agreements, or postings."""
        parameters = {"customer_id": customer_id, "ids": UuidArray(causes)}
        grants = await (await conn.execute(_SQL.grants, parameters)).fetchall()
        postings = await (await conn.execute(_SQL.postings, parameters)).fetchall()
        return {
            **{grant_id: Agreed(reason) for grant_id, source, reason in grants if is_agreed(grant_id, source)},
            **{posting_id: Posted(month_starting(period, self._zone)) for posting_id, period in postings},
        }


def _cause(transaction: Transaction) -> UUID:
    """What a transaction is about: what takes back a grant names it; a grant, or a posting, has its own id."""
    return transaction.cause_id or transaction.id
