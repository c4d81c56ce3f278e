"""A random but repeatable workload for a ledger engine: every flag, every status, every precedence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from uuid import UUID

from tallystick.ledger.contract import Account, AccountFlags, Transfer, TransferFlags

LEDGERS = (1, 840)
CUSTOMERS = 3
ACCOUNT_FLAGS = (
    AccountFlags.NONE,
    AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS,
    AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS,
    AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS | AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS,
)
TRANSFER_FLAGS = (
    TransferFlags.NONE,
    TransferFlags.BALANCING_DEBIT,
    TransferFlags.BALANCING_CREDIT,
    TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT,
)
MAX_BATCH = 120


@dataclass(frozen=True)
class Workload:
    """Accounts to open first, and batches of transfers to post one after the other."""

    accounts: list[Account]
    batches: list[list[Transfer]]


def workload(seed: int, transfers: int) -> Workload:
    """The same for the same arguments, on every machine."""
    random = Random(seed)
    accounts = [
        Account(_id(random), customer, ledger, code, flags)
        for customer in [_id(random) for _ in range(CUSTOMERS)]
        for ledger, flags, code in product(LEDGERS, ACCOUNT_FLAGS, (1, 2))
    ]
    stream = list(_transfers(random, accounts, transfers))
    batches = []
    while stream:
        size = random.choice((1, 2, random.randint(1, MAX_BATCH)))
        batches.append(stream[:size])
        del stream[:size]
    return Workload(accounts, batches)


def _transfers(random: Random, accounts: list[Account], number: int) -> Iterator[Transfer]:
    sent: list[Transfer] = []
    for _ in range(number):
        if sent and random.random() < 0.2:
            yield _again(random, accounts, random.choice(sent))
        else:
            sent.append(_new(random, accounts))
            yield sent[-1]


def _new(random: Random, accounts: list[Account]) -> Transfer:
    debit = random.choice(accounts)
    related = [
        account for account in accounts if account.customer_id == debit.customer_id and account.ledger == debit.ledger
    ]
    transfer = Transfer(
        id=_id(random),
        customer_id=debit.customer_id,
        debit_account_id=debit.id,
        credit_account_id=random.choice(related).id,
        amount=random.choice((0, 1, random.randint(0, 1_000), random.randint(0, 10**30))),
        ledger=debit.ledger,
        code=random.randint(1, 5),
        flags=random.choice(TRANSFER_FLAGS),
        cause_id=random.choice((None, _id(random))),
    )
    while random.random() < 0.15:  # sometimes twice, so that one mistake must take precedence over another
        transfer = _mistaken(random, accounts, transfer)
    return transfer


def _mistaken(random: Random, accounts: list[Account], transfer: Transfer) -> Transfer:
    foreign = random.choice([account for account in accounts if account.customer_id != transfer.customer_id])
    other_ledger = random.choice([account for account in accounts if account.ledger != transfer.ledger])
    return random.choice(
        (
            replace(transfer, credit_account_id=transfer.debit_account_id),
            replace(transfer, debit_account_id=_id(random)),
            replace(transfer, credit_account_id=_id(random)),
            replace(transfer, debit_account_id=foreign.id),
            replace(transfer, credit_account_id=foreign.id),
            replace(transfer, credit_account_id=other_ledger.id),
            replace(transfer, ledger=sum(LEDGERS) - transfer.ledger),
        )
    )


def _again(random: Random, accounts: list[Account], transfer: Transfer) -> Transfer:
    """The same transfer, mostly unchanged, else with one field that differs."""
    if random.random() < 0.5:
        return transfer
    account = random.choice([account for account in accounts if account.customer_id == transfer.customer_id])
    return random.choice(
        (
            replace(transfer, amount=transfer.amount + 1),
            replace(transfer, amount=transfer.amount // 2),
            replace(transfer, flags=random.choice(TRANSFER_FLAGS)),
            replace(transfer, code=transfer.code + 1),
            replace(transfer, cause_id=_id(random)),
            replace(transfer, ledger=sum(LEDGERS) - transfer.ledger),
            replace(transfer, debit_account_id=account.id),
            replace(transfer, credit_account_id=account.id),
        )
    )


def _id(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128))
