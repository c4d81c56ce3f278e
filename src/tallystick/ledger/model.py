"""The rules of posting as a pure state machine: accounts and known transfers in, results and changed accounts out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from uuid import UUID

from tallystick.ledger.contract import Account, AccountFlags, Result, Status, Transfer, TransferFlags


@dataclass(slots=True)
class Books:
    """The part of a ledger that a batch touches. ``posted`` collects what must be written, in order."""

    accounts: dict[UUID, Account]
    transfers: dict[UUID, Transfer]
    posted: list[Transfer] = field(default_factory=list)
    changed: set[UUID] = field(default_factory=set)

    def post(self, transfer: Transfer) -> Result:
        """Applies one transfer if the rules allow it; the state changes only if the status is ``CREATED``."""
        if (known := self.transfers.get(transfer.id)) is not None:
            return _repeated(known, transfer)
        if transfer.debit_account_id == transfer.credit_account_id:
            return Result(Status.ACCOUNTS_MUST_BE_DIFFERENT)
        debit, credit = self.accounts.get(transfer.debit_account_id), self.accounts.get(transfer.credit_account_id)
        if debit is None or debit.customer_id != transfer.customer_id:
            return Result(Status.DEBIT_ACCOUNT_NOT_FOUND)
        if credit is None or credit.customer_id != transfer.customer_id:
            return Result(Status.CREDIT_ACCOUNT_NOT_FOUND)
        if debit.ledger != credit.ledger:
            return Result(Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER)
        if transfer.ledger != debit.ledger:
            return Result(Status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS)

        amount = transfer.amount
        if transfer.flags & TransferFlags.BALANCING_DEBIT:
            amount = min(amount, max(0, debit.credit_balance))
        if transfer.flags & TransferFlags.BALANCING_CREDIT:
            amount = min(amount, max(0, -credit.credit_balance))
        if debit.flags & AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS and amount > debit.credit_balance:
            return Result(Status.EXCEEDS_CREDITS)
        if credit.flags & AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS and amount > -credit.credit_balance:
            return Result(Status.EXCEEDS_DEBITS)

        self.accounts[debit.id] = debit.moved(debited=amount)
        self.accounts[credit.id] = credit.moved(credited=amount)
        self.changed.update((debit.id, credit.id))
        stands = transfer if amount == transfer.amount else replace(transfer, amount=amount)
        self.transfers[transfer.id] = stands
        self.posted.append(stands)
        return Result(Status.CREATED, amount)


def _repeated(known: Transfer, transfer: Transfer) -> Result:
    balancing = transfer.flags & (TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT)
    same_amount = known.amount <= transfer.amount if balancing else known.amount == transfer.amount
    if same_amount and replace(known, amount=transfer.amount) == transfer:
        return Result(Status.EXISTS, known.amount)
    return Result(Status.EXISTS_WITH_DIFFERENT_FIELDS)
