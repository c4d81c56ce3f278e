from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.ledger.contract import Account, AccountFlags, Result, Status, Transfer, TransferFlags
from tallystick.ledger.model import Books
from tests.ledger.workload import ACCOUNT_FLAGS, TRANSFER_FLAGS, Workload, workload

CUSTOMER = UUID(int=1)
FREE, DEBIT_LIMITED, CREDIT_LIMITED, DOLLARS, FOREIGN, NOBODY = (UUID(int=number) for number in range(10, 16))
TRANSFER = Transfer(UUID(int=100), CUSTOMER, FREE, DEBIT_LIMITED, 5, ledger=1, code=7)

BOTH_BALANCING = TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT


def books(**balances: int) -> Books:
    """Accounts of every kind; ``limited`` and ``owed`` say how far the limited ones are from their limits."""
    limited, owed = balances.get("limited", 0), balances.get("owed", 0)
    accounts = [
        Account(FREE, CUSTOMER, 1, 1, debits_posted=limited, credits_posted=owed),
        Account(DEBIT_LIMITED, CUSTOMER, 1, 1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS, credits_posted=limited),
        Account(CREDIT_LIMITED, CUSTOMER, 1, 1, AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS, debits_posted=owed),
        Account(DOLLARS, CUSTOMER, 840, 1),
        Account(FOREIGN, UUID(int=2), 1, 1),
    ]
    return Books({account.id: account for account in accounts}, {})


def move(debit: UUID, credit: UUID, amount: int, flags: TransferFlags = TransferFlags.NONE) -> Transfer:
    return replace(TRANSFER, debit_account_id=debit, credit_account_id=credit, amount=amount, flags=flags)


# One transfer


def test_a_transfer_raises_the_debits_of_one_account_and_the_credits_of_the_other() -> None:
    ledger = books()
    assert ledger.post(TRANSFER) == Result(Status.CREATED, 5)
    assert (ledger.accounts[FREE].debits_posted, ledger.accounts[FREE].credits_posted) == (5, 0)
    assert (ledger.accounts[DEBIT_LIMITED].debits_posted, ledger.accounts[DEBIT_LIMITED].credits_posted) == (0, 5)
    assert ledger.posted == [TRANSFER]
    assert ledger.changed == {FREE, DEBIT_LIMITED}


@pytest.mark.parametrize(
    ("transfer", "moved"),
    [
        (move(DEBIT_LIMITED, FREE, 10), 10),
        (move(DEBIT_LIMITED, FREE, 11), Status.EXCEEDS_CREDITS),
        (move(DEBIT_LIMITED, FREE, 11, TransferFlags.BALANCING_DEBIT), 10),
        (move(DEBIT_LIMITED, FREE, 9, TransferFlags.BALANCING_DEBIT), 9),
        (
            move(DEBIT_LIMITED, FREE, 11, TransferFlags.BALANCING_CREDIT),
            6,
        ),  # the free account: 10 debits less 4 credits
        (move(FREE, CREDIT_LIMITED, 4), 4),
        (move(FREE, CREDIT_LIMITED, 5), Status.EXCEEDS_DEBITS),
        (move(FREE, CREDIT_LIMITED, 5, TransferFlags.BALANCING_CREDIT), 4),
        (move(FREE, CREDIT_LIMITED, 3, TransferFlags.BALANCING_CREDIT), 3),
        (move(FREE, CREDIT_LIMITED, 5, TransferFlags.BALANCING_DEBIT), 0),  # its debits exceed its credits already
        (move(DEBIT_LIMITED, CREDIT_LIMITED, 20, BOTH_BALANCING), 4),
        (move(DEBIT_LIMITED, CREDIT_LIMITED, 20, TransferFlags.BALANCING_DEBIT), Status.EXCEEDS_DEBITS),
        (move(DEBIT_LIMITED, CREDIT_LIMITED, 20, TransferFlags.BALANCING_CREDIT), 4),
        (move(FREE, DEBIT_LIMITED, 10**30), 10**30),
        (move(CREDIT_LIMITED, FREE, 10**30), 10**30),
        (move(DEBIT_LIMITED, FREE, 0), 0),
    ],
)
def test_limits_and_balancing(transfer: Transfer, moved: int | Status) -> None:
    """Of 10 credits the limited account may spend 10; of 4 debits the owed one may be given back 4."""
    expected = Result(moved) if isinstance(moved, Status) else Result(Status.CREATED, moved)
    ledger = books(limited=10, owed=4)
    assert ledger.post(transfer) == expected
    assert [posted.amount for posted in ledger.posted] == ([] if isinstance(moved, Status) else [moved])


# Precedence: each transfer is wrong in the named way and in every way that may come after it


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (Status.ACCOUNTS_MUST_BE_DIFFERENT, {"debit_account_id": NOBODY, "credit_account_id": NOBODY, "ledger": 840}),
        (Status.ACCOUNTS_MUST_BE_DIFFERENT, {"debit_account_id": DEBIT_LIMITED, "credit_account_id": DEBIT_LIMITED}),
        (Status.DEBIT_ACCOUNT_NOT_FOUND, {"debit_account_id": NOBODY, "credit_account_id": FOREIGN, "ledger": 840}),
        (Status.DEBIT_ACCOUNT_NOT_FOUND, {"debit_account_id": FOREIGN, "credit_account_id": NOBODY, "ledger": 840}),
        (
            Status.CREDIT_ACCOUNT_NOT_FOUND,
            {"debit_account_id": DEBIT_LIMITED, "credit_account_id": NOBODY, "ledger": 840},
        ),
        (Status.CREDIT_ACCOUNT_NOT_FOUND, {"debit_account_id": DEBIT_LIMITED, "credit_account_id": FOREIGN}),
        (
            Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER,
            {"debit_account_id": DEBIT_LIMITED, "credit_account_id": DOLLARS, "ledger": 978},
        ),
        (
            Status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS,
            {"debit_account_id": DEBIT_LIMITED, "credit_account_id": CREDIT_LIMITED, "ledger": 840},
        ),
        (Status.EXCEEDS_CREDITS, {"debit_account_id": DEBIT_LIMITED, "credit_account_id": CREDIT_LIMITED}),
        (Status.EXCEEDS_DEBITS, {"debit_account_id": FREE, "credit_account_id": CREDIT_LIMITED}),
    ],
)
def test_the_first_reason_is_given_and_nothing_changes(status: Status, changes: dict[str, Any]) -> None:
    ledger = books()
    before = dict(ledger.accounts)
    assert ledger.post(replace(TRANSFER, **changes)) == Result(status)
    assert (ledger.accounts, ledger.transfers, ledger.posted, ledger.changed) == (before, {}, [], set())


@pytest.mark.parametrize(
    "changes",
    [
        {"customer_id": UUID(int=2)},
        {"debit_account_id": NOBODY},
        {"credit_account_id": FREE},
        {"amount": 4},
        {"amount": 6},
        {"ledger": 840},
        {"code": 8},
        {"flags": TransferFlags.BALANCING_DEBIT},
        {"cause_id": UUID(int=9)},
    ],
)
def test_an_id_that_is_known_stands_for_one_transfer_before_anything_else_is_looked_at(changes: dict[str, Any]) -> None:
    ledger = books()
    ledger.post(TRANSFER)
    before = dict(ledger.accounts)
    assert ledger.post(replace(TRANSFER, **changes)) == Result(Status.EXISTS_WITH_DIFFERENT_FIELDS)
    assert ledger.post(TRANSFER) == Result(Status.EXISTS, 5)
    assert ledger.accounts == before
    assert ledger.posted == [TRANSFER]


def test_a_balancing_transfer_repeated_answers_what_it_moved_then() -> None:
    ledger = books(limited=10)
    asked = move(DEBIT_LIMITED, FREE, 12, TransferFlags.BALANCING_DEBIT)
    assert ledger.post(asked) == Result(Status.CREATED, 10)
    ledger.post(replace(TRANSFER, id=UUID(int=101), amount=50))
    assert ledger.post(asked) == Result(Status.EXISTS, 10)
    assert ledger.post(replace(asked, amount=10)) == Result(Status.EXISTS, 10)
    assert ledger.post(replace(asked, amount=9)) == Result(Status.EXISTS_WITH_DIFFERENT_FIELDS)


def test_a_refused_transfer_may_come_again() -> None:
    ledger = books()
    asked = replace(move(DEBIT_LIMITED, FREE, 5), id=UUID(int=101))
    assert ledger.post(asked).status is Status.EXCEEDS_CREDITS
    ledger.post(TRANSFER)
    assert ledger.post(asked) == Result(Status.CREATED, 5)


# Any workload

workloads = st.builds(workload, st.integers(0, 2**32), st.integers(1, 300))


def run(load: Workload) -> tuple[Books, list[Result]]:
    ledger = Books({account.id: account for account in load.accounts}, {})
    return ledger, [ledger.post(transfer) for batch in load.batches for transfer in batch]


@given(workloads)
def test_debits_equal_credits_and_balances_are_the_sums_of_transfers(load: Workload) -> None:
    ledger, results = run(load)
    assert sum(account.credit_balance for account in ledger.accounts.values()) == 0
    created = [result.amount for result in results if result.status is Status.CREATED]
    assert [transfer.amount for transfer in ledger.posted] == created
    for account in ledger.accounts.values():
        assert account.debits_posted == sum(t.amount for t in ledger.posted if t.debit_account_id == account.id)
        assert account.credits_posted == sum(t.amount for t in ledger.posted if t.credit_account_id == account.id)


@given(workloads)
def test_no_transfer_leaves_its_customer_or_its_asset(load: Workload) -> None:
    ledger, _ = run(load)
    for transfer in ledger.posted:
        for account in (ledger.accounts[transfer.debit_account_id], ledger.accounts[transfer.credit_account_id]):
            assert (account.customer_id, account.ledger) == (transfer.customer_id, transfer.ledger)


@given(workloads)
def test_limits_hold_after_every_transfer(load: Workload) -> None:
    ledger = Books({account.id: account for account in load.accounts}, {})
    for transfer in (transfer for batch in load.batches for transfer in batch):
        result = ledger.post(transfer)
        assert 0 <= result.amount <= transfer.amount
        for account_id in {transfer.debit_account_id, transfer.credit_account_id} & ledger.accounts.keys():
            account = ledger.accounts[account_id]
            if AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS in account.flags:
                assert account.credit_balance >= 0
            if AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS in account.flags:
                assert account.credit_balance <= 0


@given(workloads)
def test_posting_everything_again_changes_nothing(load: Workload) -> None:
    ledger, _ = run(load)
    before = (dict(ledger.accounts), list(ledger.posted))
    for posted in before[1]:
        assert ledger.post(posted) == Result(Status.EXISTS, posted.amount)
    assert (ledger.accounts, ledger.posted) == before


def test_the_workload_leaves_nothing_out() -> None:
    load = workload(seed=1, transfers=4000)
    ledger, results = run(load)
    assert {result.status for result in results} == set(Status)
    assert {account.flags for account in load.accounts} == set(ACCOUNT_FLAGS)
    assert {transfer.flags for transfer in ledger.posted} == set(TRANSFER_FLAGS)
