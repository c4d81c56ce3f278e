"""The rules of posting as a pure state machine: accounts and known transfers in, results and changed accounts out.

It follows TigerBeetle's ``create_transfers`` (src/state_machine.zig) check by check, in its order, because where
several things are wrong with a transfer the first one found is the answer. The PostgreSQL engine evaluates batches with
it, and all engines are tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tallystick.ledger.contract import (
    AMOUNT_MAX,
    TRANSIENT,
    Account,
    AccountFlags,
    Result,
    Status,
    Transfer,
    TransferFlags,
)

# Plain integers: an operation on an IntFlag costs as much as posting the transfer.
_LINKED = int(TransferFlags.LINKED)
_PENDING = int(TransferFlags.PENDING)
_POST = int(TransferFlags.POST_PENDING)
_VOID = int(TransferFlags.VOID_PENDING)
_RESOLVING = _POST | _VOID
_BALANCING_DEBIT = int(TransferFlags.BALANCING_DEBIT)
_BALANCING_CREDIT = int(TransferFlags.BALANCING_CREDIT)
_BALANCING = _BALANCING_DEBIT | _BALANCING_CREDIT
_CLOSING_DEBIT = int(TransferFlags.CLOSING_DEBIT)
_CLOSING_CREDIT = int(TransferFlags.CLOSING_CREDIT)
_CLOSING = _CLOSING_DEBIT | _CLOSING_CREDIT
_DEBITS_LIMITED = int(AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS)
_CREDITS_LIMITED = int(AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS)
_CLOSED = int(AccountFlags.CLOSED)

_ID_MAX = 2**128 - 1
_CREATED = Status.CREATED
_new = tuple.__new__  # what a named tuple's own constructor calls, at half the price
_REFUSALS = {status: Result(status) for status in Status}


@dataclass(slots=True)
class Books:
    """The part of a ledger that a batch touches, by the integers of ids (faster to look up than UUIDs).

    ``transfers`` holds the known ones among those posted and those they post or void; ``failed`` the ids that failed
    for good; ``resolved`` what became of pending transfers. ``posted``, ``changed`` and ``newly_failed`` collect what
    must be written, in order.
    """

    accounts: dict[int, Account] = field(default_factory=dict)
    transfers: dict[int, Transfer] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    resolved: dict[int, Status] = field(default_factory=dict)
    posted: list[Transfer] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)
    newly_failed: list[tuple[Transfer, Status]] = field(default_factory=list)
    reserves: bool = False
    """Whether anything but posted sums may have changed."""
    _undo: list[tuple[Account, Account, Transfer]] | None = None

    def post(self, transfers: Sequence[Transfer]) -> list[Result]:
        """Applies transfers one after the other; a chain of linked ones as a whole or not at all."""
        results: list[Result] = []
        chain: int | None = None
        broken = False
        last = len(transfers) - 1
        for index, transfer in enumerate(transfers):
            linked = int(transfer.flags) & _LINKED
            if linked and chain is None:
                chain, self._undo = index, []
            if linked and index == last:
                result = _REFUSALS[Status.LINKED_EVENT_CHAIN_OPEN]
            elif broken:
                result = _REFUSALS[Status.LINKED_EVENT_FAILED]
            else:
                result = self._create(transfer)
            if result.status is not _CREATED:
                if chain is not None and not broken:
                    broken = True
                    self._roll_back()
                    results[chain:] = [_REFUSALS[Status.LINKED_EVENT_FAILED]] * (index - chain)
                if result.status in TRANSIENT:
                    self.failed.add(transfer.id.int)
                    self.newly_failed.append((transfer, result.status))
            results.append(result)
            if chain is not None and (not linked or index == last):
                chain, broken, self._undo = None, False, None
        return results

    def collect(self) -> tuple[list[Transfer], list[tuple[Transfer, Status]]]:
        """What was posted, and what failed for good, since this was last asked."""
        collected = self.posted, self.newly_failed
        self.posted, self.newly_failed = [], []
        return collected

    def _create(self, transfer: Transfer) -> Result:
        transfer_id, flags = transfer.id.int, int(transfer.flags)
        if transfer_id == 0:
            return _REFUSALS[Status.ID_MUST_NOT_BE_ZERO]
        if transfer_id == _ID_MAX:
            return _REFUSALS[Status.ID_MUST_NOT_BE_INT_MAX]
        if (known := self.transfers.get(transfer_id)) is not None:
            return self._repeated(known, transfer)
        if transfer_id in self.failed:
            return _REFUSALS[Status.ID_ALREADY_FAILED]
        if flags & _RESOLVING:
            return self._resolve(transfer, flags)
        if (wrong := _malformed(transfer, flags)) is not None:
            return _REFUSALS[wrong]

        debit = self.accounts.get(transfer.debit_account_id.int)
        credit = self.accounts.get(transfer.credit_account_id.int)
        if debit is None or debit.customer_id.int != transfer.customer_id.int:  # whatever else the batch brought along
            return _REFUSALS[Status.DEBIT_ACCOUNT_NOT_FOUND]
        if credit is None or credit.customer_id.int != transfer.customer_id.int:
            return _REFUSALS[Status.CREDIT_ACCOUNT_NOT_FOUND]
        if debit.ledger != credit.ledger:
            return _REFUSALS[Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER]
        if transfer.ledger != debit.ledger:
            return _REFUSALS[Status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS]

        debit_flags, credit_flags = int(debit.flags), int(credit.flags)
        if debit_flags & _CLOSED:
            return _REFUSALS[Status.DEBIT_ACCOUNT_ALREADY_CLOSED]
        if credit_flags & _CLOSED:
            return _REFUSALS[Status.CREDIT_ACCOUNT_ALREADY_CLOSED]

        amount = transfer.amount
        debits = debit.debits_posted + debit.debits_pending
        credits_ = credit.credits_posted + credit.credits_pending
        if flags & _BALANCING_DEBIT:
            amount = min(amount, max(0, debit.credits_posted - debits))
        if flags & _BALANCING_CREDIT:
            amount = min(amount, max(0, credit.debits_posted - credits_))
        if debits + amount > AMOUNT_MAX or credits_ + amount > AMOUNT_MAX:
            return _REFUSALS[_overflow(debit, credit, amount, flags)]
        if debit_flags & _DEBITS_LIMITED and debits + amount > debit.credits_posted:
            return _REFUSALS[Status.EXCEEDS_CREDITS]
        if credit_flags & _CREDITS_LIMITED and credits_ + amount > credit.debits_posted:
            return _REFUSALS[Status.EXCEEDS_DEBITS]

        stands = transfer
        if amount != transfer.amount or transfer.pending_id is not None:  # a nil one
            stands = transfer._replace(amount=amount, pending_id=None)
        if flags & _PENDING:
            self.reserves = True
            debit_after = debit._replace(
                debits_pending=debit.debits_pending + amount,
                flags=AccountFlags(debit_flags | _CLOSED) if flags & _CLOSING_DEBIT else debit.flags,
            )
            credit_after = credit._replace(
                credits_pending=credit.credits_pending + amount,
                flags=AccountFlags(credit_flags | _CLOSED) if flags & _CLOSING_CREDIT else credit.flags,
            )
        else:
            debit_after = _new(Account, (*debit[:6], debit[6] + amount, debit[7], debit[8]))
            credit_after = _new(Account, (*credit[:8], credit[8] + amount))
        self._write(debit, credit, debit_after, credit_after, stands)
        return _new(Result, (_CREATED, amount))

    def _resolve(self, transfer: Transfer, flags: int) -> Result:
        """Posts or voids a pending transfer."""
        if flags & _RESOLVING == _RESOLVING or flags & (_PENDING | _BALANCING | _CLOSING):
            return _REFUSALS[Status.FLAGS_ARE_MUTUALLY_EXCLUSIVE]
        pending_id = transfer.pending_id.int if transfer.pending_id else 0
        if pending_id == 0:
            return _REFUSALS[Status.PENDING_ID_MUST_NOT_BE_ZERO]
        if pending_id == _ID_MAX:
            return _REFUSALS[Status.PENDING_ID_MUST_NOT_BE_INT_MAX]
        if pending_id == transfer.id.int:
            return _REFUSALS[Status.PENDING_ID_MUST_BE_DIFFERENT]
        pending = self.transfers.get(pending_id)
        if pending is None or pending.customer_id.int != transfer.customer_id.int:
            return _REFUSALS[Status.PENDING_TRANSFER_NOT_FOUND]
        if not int(pending.flags) & _PENDING:
            return _REFUSALS[Status.PENDING_TRANSFER_NOT_PENDING]

        if transfer.debit_account_id.int not in (0, pending.debit_account_id.int):
            return _REFUSALS[Status.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID]
        if transfer.credit_account_id.int not in (0, pending.credit_account_id.int):
            return _REFUSALS[Status.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID]
        if transfer.ledger not in (0, pending.ledger):
            return _REFUSALS[Status.PENDING_TRANSFER_HAS_DIFFERENT_LEDGER]
        if transfer.code not in (0, pending.code):
            return _REFUSALS[Status.PENDING_TRANSFER_HAS_DIFFERENT_CODE]

        whole = transfer.amount == (0 if flags & _VOID else AMOUNT_MAX)
        amount = pending.amount if whole else transfer.amount
        if amount > pending.amount:
            return _REFUSALS[Status.EXCEEDS_PENDING_TRANSFER_AMOUNT]
        if flags & _VOID and amount < pending.amount:
            return _REFUSALS[Status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT]
        if (fate := self.resolved.get(pending_id)) is not None:
            return _REFUSALS[fate]

        debit = self.accounts[pending.debit_account_id.int]
        credit = self.accounts[pending.credit_account_id.int]
        if int(debit.flags) & _CLOSED and not flags & _VOID:
            return _REFUSALS[Status.DEBIT_ACCOUNT_ALREADY_CLOSED]
        if int(credit.flags) & _CLOSED and not flags & _VOID:
            return _REFUSALS[Status.CREDIT_ACCOUNT_ALREADY_CLOSED]

        self.reserves = True
        moved = 0 if flags & _VOID else amount
        reopened = int(pending.flags) if flags & _VOID else 0
        debit_after = debit._replace(
            debits_pending=debit.debits_pending - pending.amount,
            debits_posted=debit.debits_posted + moved,
            flags=AccountFlags(int(debit.flags) & ~_CLOSED) if reopened & _CLOSING_DEBIT else debit.flags,
        )
        credit_after = credit._replace(
            credits_pending=credit.credits_pending - pending.amount,
            credits_posted=credit.credits_posted + moved,
            flags=AccountFlags(int(credit.flags) & ~_CLOSED) if reopened & _CLOSING_CREDIT else credit.flags,
        )
        self.resolved[pending_id] = (
            Status.PENDING_TRANSFER_ALREADY_VOIDED if flags & _VOID else Status.PENDING_TRANSFER_ALREADY_POSTED
        )
        stands = pending._replace(
            id=transfer.id,
            amount=amount,
            flags=transfer.flags,
            cause_id=_given(transfer.cause_id) or pending.cause_id,
            pending_id=pending.id,
        )
        self._write(debit, credit, debit_after, credit_after, stands)
        return _new(Result, (_CREATED, amount))

    def _repeated(self, known: Transfer, transfer: Transfer) -> Result:
        """The answer to a transfer whose id is in the books: what it leaves open, it takes from what it posts or
        voids.
        """
        if known.flags != transfer.flags:
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_FLAGS]
        if (known.pending_id or _NIL) != (transfer.pending_id or _NIL):
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_PENDING_ID]
        flags = int(transfer.flags)
        if flags & _RESOLVING and known.pending_id:
            pending = self.transfers[known.pending_id.int]
            whole = transfer.amount == (0 if flags & _VOID else AMOUNT_MAX)
            transfer = transfer._replace(
                debit_account_id=transfer.debit_account_id if transfer.debit_account_id.int else known.debit_account_id,
                credit_account_id=(
                    transfer.credit_account_id if transfer.credit_account_id.int else known.credit_account_id
                ),
                amount=pending.amount if whole else transfer.amount,
                cause_id=_given(transfer.cause_id) or pending.cause_id,
                ledger=transfer.ledger or known.ledger,
                code=transfer.code or known.code,
            )
        if known.debit_account_id != transfer.debit_account_id:
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID]
        if known.credit_account_id != transfer.credit_account_id:
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID]
        if transfer.amount < known.amount if flags & _BALANCING else transfer.amount != known.amount:
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_AMOUNT]
        if (known.cause_id or _NIL) != (transfer.cause_id or _NIL):
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_USER_DATA]
        if known.ledger != transfer.ledger:
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_LEDGER]
        if known.code != transfer.code:
            return _REFUSALS[Status.EXISTS_WITH_DIFFERENT_CODE]
        if self._undo and any(made.id.int == known.id.int for _, _, made in self._undo):
            return _REFUSALS[Status.EXISTS]  # made by the chain that it breaks, and gone with it: nothing stands
        return Result(Status.EXISTS, known.amount)

    def _write(
        self, debit: Account, credit: Account, debit_after: Account, credit_after: Account, transfer: Transfer
    ) -> None:
        debit_id, credit_id = debit.id.int, credit.id.int
        self.accounts[debit_id] = debit_after
        self.accounts[credit_id] = credit_after
        self.changed.add(debit_id)
        self.changed.add(credit_id)
        self.transfers[transfer.id.int] = transfer
        self.posted.append(transfer)
        if self._undo is not None:
            self._undo.append((debit, credit, transfer))

    def _roll_back(self) -> None:
        for debit, credit, transfer in reversed(self._undo or []):
            self.accounts[debit.id.int] = debit
            self.accounts[credit.id.int] = credit
            del self.transfers[transfer.id.int]
            self.posted.pop()
            if transfer.pending_id:
                del self.resolved[transfer.pending_id.int]
        self._undo = None


_NIL = UUID(int=0)


def _given(id_or_nil: UUID | None) -> UUID | None:
    """An id that may be left out; a nil one is left out as well."""
    return id_or_nil if id_or_nil is not None and id_or_nil.int else None


def _malformed(transfer: Transfer, flags: int) -> Status | None:
    """What is wrong with a transfer whatever the books say."""
    debit_id, credit_id = transfer.debit_account_id.int, transfer.credit_account_id.int
    if (
        0 < debit_id < _ID_MAX
        and 0 < credit_id < _ID_MAX
        and debit_id != credit_id
        and transfer.pending_id is None
        and not flags & _CLOSING
        and transfer.ledger
        and transfer.code
    ):
        return None  # as nearly always
    if debit_id == 0:
        return Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
    if debit_id == _ID_MAX:
        return Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
    if credit_id == 0:
        return Status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
    if credit_id == _ID_MAX:
        return Status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
    if debit_id == credit_id:
        return Status.ACCOUNTS_MUST_BE_DIFFERENT
    if transfer.pending_id is not None and transfer.pending_id.int:
        return Status.PENDING_ID_MUST_BE_ZERO
    if flags & _CLOSING and not flags & _PENDING:
        return Status.CLOSING_TRANSFER_MUST_BE_PENDING
    if transfer.ledger == 0:
        return Status.LEDGER_MUST_NOT_BE_ZERO
    if transfer.code == 0:
        return Status.CODE_MUST_NOT_BE_ZERO
    return None


def _overflow(debit: Account, credit: Account, amount: int, flags: int) -> Status:
    if flags & _PENDING and debit.debits_pending + amount > AMOUNT_MAX:
        return Status.OVERFLOWS_DEBITS_PENDING
    if flags & _PENDING and credit.credits_pending + amount > AMOUNT_MAX:
        return Status.OVERFLOWS_CREDITS_PENDING
    if debit.debits_posted + amount > AMOUNT_MAX:
        return Status.OVERFLOWS_DEBITS_POSTED
    if credit.credits_posted + amount > AMOUNT_MAX:
        return Status.OVERFLOWS_CREDITS_POSTED
    if debit.debits_posted + debit.debits_pending + amount > AMOUNT_MAX:
        return Status.OVERFLOWS_DEBITS
    return Status.OVERFLOWS_CREDITS
