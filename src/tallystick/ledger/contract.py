"""What every ledger engine does, in the vocabulary of TigerBeetle (docs.tigerbeetle.com, "Data Modeling").

A ledger knows accounts and transfers. A transfer moves an amount of one asset from its debit account to its credit
account, under an id that its cause fixes; posting the same transfer again answers ``EXISTS`` and changes nothing.
Amounts are microunits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Protocol
from uuid import UUID

from psycopg import AsyncConnection


class AccountFlags(IntFlag):
    """Limits of an account; the bits are TigerBeetle's."""

    NONE = 0
    DEBITS_MUST_NOT_EXCEED_CREDITS = 1 << 1
    CREDITS_MUST_NOT_EXCEED_DEBITS = 1 << 2


class TransferFlags(IntFlag):
    """How a transfer's amount is read; the bits are TigerBeetle's."""

    NONE = 0
    BALANCING_DEBIT = 1 << 4
    """Move at most ``amount``, and no more than keeps the debit account's debits within its credits."""
    BALANCING_CREDIT = 1 << 5
    """Move at most ``amount``, and no more than keeps the credit account's credits within its debits."""


class Status(Enum):
    """What became of a transfer. Where several apply, the first of this list is given."""

    CREATED = "created"
    EXISTS = "exists"
    EXISTS_WITH_DIFFERENT_FIELDS = "exists_with_different_fields"
    ACCOUNTS_MUST_BE_DIFFERENT = "accounts_must_be_different"
    DEBIT_ACCOUNT_NOT_FOUND = "debit_account_not_found"
    CREDIT_ACCOUNT_NOT_FOUND = "credit_account_not_found"
    ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER = "accounts_must_have_the_same_ledger"
    TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS = "transfer_must_have_the_same_ledger_as_accounts"
    EXCEEDS_CREDITS = "exceeds_credits"
    EXCEEDS_DEBITS = "exceeds_debits"


@dataclass(frozen=True, slots=True)
class Account:
    """A ledger account of a customer, with its running sums."""

    id: UUID
    customer_id: UUID
    ledger: int
    code: int
    flags: AccountFlags = AccountFlags.NONE
    debits_posted: int = 0
    credits_posted: int = 0

    @property
    def credit_balance(self) -> int:
        """Credits minus debits."""
        return self.credits_posted - self.debits_posted

    def moved(self, *, debited: int = 0, credited: int = 0) -> Account:
        """This account after such amounts were posted."""
        return Account(
            self.id,
            self.customer_id,
            self.ledger,
            self.code,
            self.flags,
            self.debits_posted + debited,
            self.credits_posted + credited,
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """One balanced movement, in the books of the customer ``customer_id``, to whom both accounts belong.

    An account of another customer is not found. ``id`` is derived from the cause, so it names one transfer in the whole
    ledger.
    """

    id: UUID
    customer_id: UUID
    debit_account_id: UUID
    credit_account_id: UUID
    amount: int
    ledger: int
    code: int
    flags: TransferFlags = TransferFlags.NONE
    cause_id: UUID | None = None
    """What this is a part of: the id of the transfer whose effect it completes (TigerBeetle's ``user_data_128``)."""


@dataclass(frozen=True, slots=True)
class Result:
    """The status of one transfer, and the amount that stands in the books for it; a balancing one may move less."""

    status: Status
    amount: int = 0

    @property
    def stands(self) -> bool:
        """Whether the transfer is in the books, from now or from before."""
        return self.status in (Status.CREATED, Status.EXISTS)


class Ledger(Protocol):
    """An engine. Every method works in the caller's transaction; none commits."""

    async def serialise(self, conn: AsyncConnection) -> None:
        """Makes this transaction the only one that reads balances in order to move money, until it ends."""

    async def create_accounts(self, conn: AsyncConnection, accounts: list[Account]) -> None:
        """Opens accounts; one that is open already stays as it is."""

    async def post(self, conn: AsyncConnection, transfers: list[Transfer]) -> list[Result]:
        """Posts transfers one after the other, in order, and answers for each."""

    async def accounts(self, conn: AsyncConnection, ids: Collection[tuple[UUID, UUID]]) -> dict[UUID, Account]:
        """The accounts that exist among ``(customer_id, account_id)``, by account id."""
