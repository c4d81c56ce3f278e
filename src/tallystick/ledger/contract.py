"""What every ledger engine does, in the vocabulary of TigerBeetle (docs.tigerbeetle.com, "Data Modeling").

A ledger knows accounts and transfers. A transfer moves an amount of one asset from its debit account to its credit
account, under an id that its cause fixes; posting the same transfer again answers ``EXISTS`` and changes nothing.
Amounts are microunits, from 0 to ``AMOUNT_MAX``.

What is left out of TigerBeetle's contract: timeouts (our own worker voids what has expired, so that both engines keep
the same history), imported events, and the second and third field of user data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum, IntFlag
from typing import NamedTuple, Protocol
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.kernel.errors import TallyError

AMOUNT_MAX = 2**128 - 1
"""The greatest amount and the greatest sum of an account. As the amount of a posting: the whole pending amount."""

BATCH_MAX = 8_189
"""The most transfers that one call may post (TigerBeetle's message of 1 MiB holds no more)."""


class AccountFlags(IntFlag):
    """Limits of an account; the bits are TigerBeetle's."""

    NONE = 0
    DEBITS_MUST_NOT_EXCEED_CREDITS = 1 << 1
    CREDITS_MUST_NOT_EXCEED_DEBITS = 1 << 2
    CLOSED = 1 << 5
    """Nothing moves but the voiding of pending transfers. Set and lifted by closing transfers."""


class TransferFlags(IntFlag):
    """How a transfer is read; the bits are TigerBeetle's."""

    NONE = 0
    LINKED = 1 << 0
    """Succeeds or fails together with the next transfer of the batch; the last one of a chain is not linked."""
    PENDING = 1 << 1
    """Reserves the amount until a later transfer posts or voids it."""
    POST_PENDING = 1 << 2
    """Moves what ``pending_id`` reserves, or less of it; what is not moved is free again."""
    VOID_PENDING = 1 << 3
    """Frees what ``pending_id`` reserves."""
    BALANCING_DEBIT = 1 << 4
    """Move at most ``amount``, and no more than keeps the debit account's debits within its credits."""
    BALANCING_CREDIT = 1 << 5
    """Move at most ``amount``, and no more than keeps the credit account's credits within its debits."""
    CLOSING_DEBIT = 1 << 6
    """With ``PENDING``: closes the debit account, until this transfer is voided."""
    CLOSING_CREDIT = 1 << 7
    """With ``PENDING``: closes the credit account, until this transfer is voided."""


class Status(Enum):
    """What became of a transfer; the names are TigerBeetle's. Where several apply, the first of this list is given.

    The exceptions are the two of linked chains: they stand for whatever else is wrong with the members of the chain.
    """

    CREATED = "created"
    LINKED_EVENT_FAILED = "linked_event_failed"
    LINKED_EVENT_CHAIN_OPEN = "linked_event_chain_open"
    ID_MUST_NOT_BE_ZERO = "id_must_not_be_zero"
    ID_MUST_NOT_BE_INT_MAX = "id_must_not_be_int_max"
    EXISTS_WITH_DIFFERENT_FLAGS = "exists_with_different_flags"
    EXISTS_WITH_DIFFERENT_PENDING_ID = "exists_with_different_pending_id"
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID = "exists_with_different_debit_account_id"
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID = "exists_with_different_credit_account_id"
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    EXISTS_WITH_DIFFERENT_USER_DATA = "exists_with_different_user_data_128"
    EXISTS_WITH_DIFFERENT_LEDGER = "exists_with_different_ledger"
    EXISTS_WITH_DIFFERENT_CODE = "exists_with_different_code"
    EXISTS = "exists"
    ID_ALREADY_FAILED = "id_already_failed"
    FLAGS_ARE_MUTUALLY_EXCLUSIVE = "flags_are_mutually_exclusive"
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = "debit_account_id_must_not_be_zero"
    DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = "debit_account_id_must_not_be_int_max"
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO = "credit_account_id_must_not_be_zero"
    CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX = "credit_account_id_must_not_be_int_max"
    ACCOUNTS_MUST_BE_DIFFERENT = "accounts_must_be_different"
    PENDING_ID_MUST_BE_ZERO = "pending_id_must_be_zero"
    PENDING_ID_MUST_NOT_BE_ZERO = "pending_id_must_not_be_zero"
    PENDING_ID_MUST_NOT_BE_INT_MAX = "pending_id_must_not_be_int_max"
    PENDING_ID_MUST_BE_DIFFERENT = "pending_id_must_be_different"
    CLOSING_TRANSFER_MUST_BE_PENDING = "closing_transfer_must_be_pending"
    LEDGER_MUST_NOT_BE_ZERO = "ledger_must_not_be_zero"
    CODE_MUST_NOT_BE_ZERO = "code_must_not_be_zero"
    DEBIT_ACCOUNT_NOT_FOUND = "debit_account_not_found"
    CREDIT_ACCOUNT_NOT_FOUND = "credit_account_not_found"
    ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER = "accounts_must_have_the_same_ledger"
    TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS = "transfer_must_have_the_same_ledger_as_accounts"
    PENDING_TRANSFER_NOT_FOUND = "pending_transfer_not_found"
    PENDING_TRANSFER_NOT_PENDING = "pending_transfer_not_pending"
    PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID = "pending_transfer_has_different_debit_account_id"
    PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID = "pending_transfer_has_different_credit_account_id"
    PENDING_TRANSFER_HAS_DIFFERENT_LEDGER = "pending_transfer_has_different_ledger"
    PENDING_TRANSFER_HAS_DIFFERENT_CODE = "pending_transfer_has_different_code"
    EXCEEDS_PENDING_TRANSFER_AMOUNT = "exceeds_pending_transfer_amount"
    PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT = "pending_transfer_has_different_amount"
    PENDING_TRANSFER_ALREADY_POSTED = "pending_transfer_already_posted"
    PENDING_TRANSFER_ALREADY_VOIDED = "pending_transfer_already_voided"
    DEBIT_ACCOUNT_ALREADY_CLOSED = "debit_account_already_closed"
    CREDIT_ACCOUNT_ALREADY_CLOSED = "credit_account_already_closed"
    OVERFLOWS_DEBITS_PENDING = "overflows_debits_pending"
    OVERFLOWS_CREDITS_PENDING = "overflows_credits_pending"
    OVERFLOWS_DEBITS_POSTED = "overflows_debits_posted"
    OVERFLOWS_CREDITS_POSTED = "overflows_credits_posted"
    OVERFLOWS_DEBITS = "overflows_debits"
    OVERFLOWS_CREDITS = "overflows_credits"
    EXCEEDS_CREDITS = "exceeds_credits"
    EXCEEDS_DEBITS = "exceeds_debits"


TRANSIENT = frozenset(
    {
        Status.DEBIT_ACCOUNT_NOT_FOUND,
        Status.CREDIT_ACCOUNT_NOT_FOUND,
        Status.PENDING_TRANSFER_NOT_FOUND,
        Status.DEBIT_ACCOUNT_ALREADY_CLOSED,
        Status.CREDIT_ACCOUNT_ALREADY_CLOSED,
        Status.EXCEEDS_CREDITS,
        Status.EXCEEDS_DEBITS,
    }
)
"""Failures that might not recur. The id stays failed for good, so that a retry cannot succeed after its caller gave
up.
"""


class Account(NamedTuple):
    """A ledger account of a customer, with its running sums.

    A named tuple rather than a dataclass because an engine makes two of them for every transfer.
    """

    id: UUID
    customer_id: UUID
    ledger: int
    code: int
    flags: AccountFlags = AccountFlags.NONE
    debits_pending: int = 0
    debits_posted: int = 0
    credits_pending: int = 0
    credits_posted: int = 0

    @property
    def credit_balance(self) -> int:
        """Credits minus debits, of what has been posted."""
        return self.credits_posted - self.debits_posted

    @property
    def available(self) -> int:
        """What may still be debited within the credits: pending debits are gone, pending credits have not come."""
        return self.credits_posted - self.debits_posted - self.debits_pending


class Transfer(NamedTuple):
    """One balanced movement, in the books of the customer ``customer_id``, to whom both accounts must belong.

    ``id`` is derived from the cause, so it names one transfer in the whole ledger. A transfer that posts or voids
    another may leave out (as nil or 0) whatever it takes over from that one; what stands in the books has it filled in.
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
    pending_id: UUID | None = None
    """The pending transfer that this one posts or voids."""


class Result(NamedTuple):
    """The status of one transfer, and the amount that stands in the books for it; a balancing one may move less.

    ``EXISTS`` for a transfer made earlier in the very chain that it breaks has the amount 0: nothing stands.
    """

    status: Status
    amount: int = 0

    @property
    def stands(self) -> bool:
        """Whether the transfer is in the books, from now or from before."""
        return self.status in (Status.CREATED, Status.EXISTS)


class LedgerUnavailable(TallyError):
    """The ledger cannot be reached in time. What was asked may or may not happen; asking again is safe."""

    code = "ledger_unavailable"
    status = 503


class LedgerRefusal(TallyError):
    """The ledger refused a transfer that the rules of wallets never produce: a defect, loud and without effect."""

    code = "ledger_refusal"
    status = 500


Opening = Callable[[Collection[UUID]], Sequence[Account]]
"""Says which accounts to open when transfers name accounts (by id) that do not exist; those it does not know stay
unknown.
"""


def no_accounts(_missing: Collection[UUID]) -> Sequence[Account]:
    """The ``Opening`` of callers whose accounts must be there."""
    return ()


class Ledger(Protocol):
    """An engine. Every method works in the caller's transaction; none commits it."""

    async def serialise(self, conn: AsyncConnection) -> None:
        """Makes this transaction the only one that reads balances in order to move money, until it ends."""

    async def create_accounts(self, conn: AsyncConnection, accounts: Sequence[Account]) -> None:
        """Opens accounts; one that is open already stays as it is."""

    async def post(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> list[Result]:
        """Posts transfers one after the other, in order, and answers for each.

        Accounts that do not exist are opened first as ``opening`` says. Raises ``LedgerUnavailable``.
        """

    async def promise(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> None:
        """Posts transfers that cannot be refused, at the latest soon after the caller's transaction has committed.

        Transfers of different calls are posted in the order of commits. Raises ``LedgerRefusal`` if it knows already
        that one of them is refused.
        """

    async def accounts(
        self, conn: AsyncConnection, ids: Collection[tuple[UUID, UUID]], *, serialised: bool = False
    ) -> dict[UUID, Account]:
        """The accounts that exist among ``(customer_id, account_id)``, by account id. Raises ``LedgerUnavailable``.

        ``serialised`` says that this transaction has called ``serialise``: an engine may then answer from memory.
        """


class Watch(Protocol):
    """Whoever wants to know when an account has come to its alarm (``ledger_accounts.alarm_at``)."""

    async def look(self, conn: AsyncConnection, ledger: Ledger, wallets: Collection[tuple[UUID, int]]) -> None:
        """Looks at these customers' accounts of one asset, in the transaction that has moved something in them."""
