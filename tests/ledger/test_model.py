"""The model by itself: what must hold for any workload. What it answers case by case is in ``conformance.py``."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tallystick.ledger.model import Books
from tests.ledger.workload import Batch, workload

CUSTOMER, STRANGER = UUID(int=1), UUID(int=2)
BANK, SHOP, PURSE, FOREIGN = (UUID(int=number) for number in range(10, 14))
NIL = UUID(int=0)
TRANSFER = Transfer(UUID(int=100), CUSTOMER, BANK, SHOP, 5, ledger=1, code=7)

RESOLVING = TransferFlags.POST_PENDING | TransferFlags.VOID_PENDING


def books() -> Books:
    accounts = [
        Account(BANK, CUSTOMER, 1, 1),
        Account(SHOP, CUSTOMER, 1, 1),
        Account(PURSE, CUSTOMER, 1, 1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
        Account(FOREIGN, STRANGER, 1, 1),
    ]
    return Books({account.id.int: account for account in accounts})


# What the books collect for an engine to write


def test_what_was_posted_changed_and_failed_is_collected_in_order() -> None:
    ledger = books()
    hold = TRANSFER._replace(id=UUID(int=101), flags=TransferFlags.PENDING, cause_id=UUID(int=7))
    refused = TRANSFER._replace(id=UUID(int=102), debit_account_id=PURSE)
    post = Transfer(UUID(int=103), CUSTOMER, NIL, NIL, 3, 0, 0, TransferFlags.POST_PENDING, None, hold.id)
    assert ledger.post([TRANSFER, hold, refused, post]) == [
        Result(Status.CREATED, 5),
        Result(Status.CREATED, 5),
        Result(Status.EXCEEDS_CREDITS),
        Result(Status.CREATED, 3),
    ]
    filled_in = hold._replace(id=post.id, amount=3, flags=TransferFlags.POST_PENDING, pending_id=hold.id)
    assert ledger.posted == [TRANSFER, hold, filled_in]
    assert ledger.changed == {BANK.int, SHOP.int}
    assert ledger.newly_failed == [(refused, Status.EXCEEDS_CREDITS)]
    assert ledger.failed == {refused.id.int}
    assert ledger.resolved == {hold.id.int: Status.PENDING_TRANSFER_ALREADY_POSTED}


def test_a_balancing_transfer_stands_with_what_it_moved() -> None:
    ledger = books()
    ledger.post([TRANSFER])
    asked = TRANSFER._replace(
        id=UUID(int=101), debit_account_id=SHOP, credit_account_id=BANK, amount=AMOUNT_MAX,
        flags=TransferFlags.BALANCING_DEBIT,
    )  # fmt: skip
    assert ledger.post([asked]) == [Result(Status.CREATED, 5)]
    assert ledger.posted == [TRANSFER, asked._replace(amount=5)]


def test_nil_says_as_little_as_nothing() -> None:
    """An engine may keep one for the other; the books keep nothing, as constraints of tables want it."""
    ledger = books()
    assert ledger.post([TRANSFER._replace(pending_id=NIL)]) == [Result(Status.CREATED, 5)]
    assert ledger.posted == [TRANSFER]
    assert ledger.post([TRANSFER._replace(cause_id=NIL)]) == [Result(Status.EXISTS, 5)]
    hold = TRANSFER._replace(id=UUID(int=101), flags=TransferFlags.PENDING, cause_id=UUID(int=7))
    void = Transfer(UUID(int=102), CUSTOMER, NIL, NIL, 0, 0, 0, TransferFlags.VOID_PENDING, NIL, hold.id)
    assert ledger.post([hold, void]) == [Result(Status.CREATED, 5)] * 2
    assert ledger.posted[-1].cause_id == UUID(int=7)
    assert (
        ledger.post([void, void._replace(cause_id=None), void._replace(cause_id=UUID(int=7))])
        == [Result(Status.EXISTS, 5)] * 3
    )


def test_a_broken_chain_is_gone_from_everything_collected_but_the_failure() -> None:
    ledger = books()
    hold = TRANSFER._replace(flags=TransferFlags.PENDING)
    ledger.post([hold])
    before = dict(ledger.accounts), dict(ledger.transfers), list(ledger.posted)
    linked = TransferFlags.LINKED
    chain = [
        TRANSFER._replace(id=UUID(int=101), flags=linked),
        Transfer(UUID(int=102), CUSTOMER, NIL, NIL, 0, 0, 0, TransferFlags.VOID_PENDING | linked, None, hold.id),
        TRANSFER._replace(id=UUID(int=103), flags=linked, pending_id=NIL),
        TRANSFER._replace(id=UUID(int=104), debit_account_id=PURSE),
    ]
    assert [result.status for result in ledger.post(chain)] == [
        *[Status.LINKED_EVENT_FAILED] * 3,
        Status.EXCEEDS_CREDITS,
    ]
    assert (ledger.accounts, ledger.transfers, ledger.posted) == before
    assert ledger.resolved == {}
    assert ledger.newly_failed == [(chain[3], Status.EXCEEDS_CREDITS)]


# Customers: what one batch brings together stays apart


@pytest.mark.parametrize(
    ("customer", "debit", "credit", "status"),
    [
        (CUSTOMER, FOREIGN, BANK, Status.DEBIT_ACCOUNT_NOT_FOUND),
        (CUSTOMER, BANK, FOREIGN, Status.CREDIT_ACCOUNT_NOT_FOUND),
        (STRANGER, BANK, SHOP, Status.DEBIT_ACCOUNT_NOT_FOUND),
        (STRANGER, FOREIGN, SHOP, Status.CREDIT_ACCOUNT_NOT_FOUND),
    ],
)
def test_an_account_of_another_customer_is_not_found(customer: UUID, debit: UUID, credit: UUID, status: Status) -> None:
    ledger = books()
    asked = TRANSFER._replace(customer_id=customer, debit_account_id=debit, credit_account_id=credit)
    assert ledger.post([asked]) == [Result(status)]
    assert ledger.posted == []


def test_a_pending_transfer_of_another_customer_is_not_found() -> None:
    ledger = books()
    post = Transfer(UUID(int=101), STRANGER, NIL, NIL, 5, 0, 0, TransferFlags.POST_PENDING, None, TRANSFER.id)
    assert ledger.post([TRANSFER._replace(flags=TransferFlags.PENDING), post]) == [
        Result(Status.CREATED, 5),
        Result(Status.PENDING_TRANSFER_NOT_FOUND),
    ]


# Any workload

workloads = st.builds(workload, st.integers(0, 2**32), st.integers(1, 300), st.just(60))


def run(batches: Iterator[Batch]) -> tuple[Books, list[tuple[Transfer, Result]]]:
    """All of a workload in the same books."""
    ledger = Books()
    answered: list[tuple[Transfer, Result]] = []
    for batch in batches:
        ledger.accounts |= {account.id.int: account for account in batch.opens}
        answered += zip(batch.transfers, ledger.post(batch.transfers), strict=True)
    return ledger, answered


@given(workloads)
def test_balances_are_the_sums_of_transfers(batches: Iterator[Batch]) -> None:
    """Reserved is what is pending and neither posted nor voided; posted is what was moved at once or by posting."""
    ledger, answered = run(batches)
    created = [result.amount for _, result in answered if result.status is Status.CREATED]
    assert [transfer.amount for transfer in ledger.posted] == created
    resolved = {t.pending_id for t in ledger.posted if t.flags & RESOLVING}
    reserved = [t for t in ledger.posted if TransferFlags.PENDING in t.flags and t.id not in resolved]
    moved = [t for t in ledger.posted if not t.flags & (TransferFlags.PENDING | TransferFlags.VOID_PENDING)]
    for account in ledger.accounts.values():
        assert account.debits_pending == sum(t.amount for t in reserved if t.debit_account_id == account.id)
        assert account.credits_pending == sum(t.amount for t in reserved if t.credit_account_id == account.id)
        assert account.debits_posted == sum(t.amount for t in moved if t.debit_account_id == account.id)
        assert account.credits_posted == sum(t.amount for t in moved if t.credit_account_id == account.id)


@given(workloads)
def test_a_pending_transfer_is_resolved_once_and_never_by_more(batches: Iterator[Batch]) -> None:
    ledger, _ = run(batches)
    pending = {t.id: t for t in ledger.posted if TransferFlags.PENDING in t.flags}
    resolutions = [t for t in ledger.posted if t.flags & RESOLVING]
    assert len({t.pending_id for t in resolutions}) == len(resolutions)
    for resolution in resolutions:
        assert resolution.pending_id is not None
        held = pending[resolution.pending_id]
        assert resolution.amount <= held.amount
        assert (resolution.debit_account_id, resolution.credit_account_id) == (
            held.debit_account_id,
            held.credit_account_id,
        )
        assert (resolution.ledger, resolution.code) == (held.ledger, held.code)


@given(workloads)
def test_no_transfer_leaves_its_customer_or_its_asset(batches: Iterator[Batch]) -> None:
    ledger, _ = run(batches)
    for transfer in ledger.posted:
        for account_id in (transfer.debit_account_id, transfer.credit_account_id):
            account = ledger.accounts[account_id.int]
            assert (account.customer_id, account.ledger) == (transfer.customer_id, transfer.ledger)


@given(workloads)
def test_limits_hold_after_every_batch(batches: Iterator[Batch]) -> None:
    ledger = Books()
    for batch in batches:
        ledger.accounts |= {account.id.int: account for account in batch.opens}
        ledger.post(batch.transfers)
        for account in ledger.accounts.values():
            debits = account.debits_pending + account.debits_posted
            credits_ = account.credits_pending + account.credits_posted
            assert 0 <= min(account.debits_pending, account.debits_posted) <= debits <= AMOUNT_MAX
            assert 0 <= min(account.credits_pending, account.credits_posted) <= credits_ <= AMOUNT_MAX
            if AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS in account.flags:
                assert debits <= account.credits_posted
            if AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS in account.flags:
                assert credits_ <= account.debits_posted


@given(workloads)
def test_chains_stand_as_a_whole_or_not_at_all(batches: Iterator[Batch]) -> None:
    ledger = Books()
    for batch in batches:
        ledger.accounts |= {account.id.int: account for account in batch.opens}
        statuses = [result.status for result in ledger.post(batch.transfers)]
        chain: list[Status] = []
        for transfer, status in zip(batch.transfers, statuses, strict=True):
            chain.append(status)
            if TransferFlags.LINKED not in transfer.flags:
                _assert_whole(chain)
                chain = []
        if chain:
            assert chain[-1] is Status.LINKED_EVENT_CHAIN_OPEN
            _assert_whole(chain[:-1] or chain)


def _assert_whole(chain: list[Status]) -> None:
    if len(chain) > 1 and Status.CREATED in chain:
        assert set(chain) == {Status.CREATED}
    reasons = [status for status in chain if status not in (Status.CREATED, Status.LINKED_EVENT_FAILED)]
    assert len(reasons) <= 1


@given(workloads)
def test_posting_everything_again_changes_nothing(batches: Iterator[Batch]) -> None:
    """What stands, stands for good; what failed for a passing reason stays failed."""
    ledger, answered = run(batches)
    before = dict(ledger.accounts), list(ledger.posted), list(ledger.newly_failed)
    unlinked = [posted for posted in ledger.posted if TransferFlags.LINKED not in posted.flags]
    assert ledger.post(unlinked) == [Result(Status.EXISTS, posted.amount) for posted in unlinked]
    failed = [t._replace(flags=TransferFlags.NONE) for t, result in answered if result.status in TRANSIENT]
    assert ledger.post(failed) == [Result(Status.ID_ALREADY_FAILED)] * len(failed)
    assert (ledger.accounts, ledger.posted, ledger.newly_failed) == before
