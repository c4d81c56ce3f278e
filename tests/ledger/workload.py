"""A random but repeatable workload for ledger engines that keeps finding every flag and every status.

Accounts come in generations, because in old ones everything has happened: sums are near the greatest amount, and what
was closed is forgotten. Transfers name accounts of the newest two generations only. The generator never looks at
results, so a workload is a pure function of its seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from random import Random
from uuid import UUID

from tallystick.ledger.contract import AMOUNT_MAX, Account, AccountFlags, Transfer, TransferFlags

MAX_BATCH = 1_000
GENERATION = 2_000
"""Transfers until new accounts are opened."""
REMEMBERED = 300
"""The transfers that may come again or be posted; fewer than a generation, so that older accounts are at rest."""

LEDGERS = (1, 840)
CUSTOMERS = 2
KINDS = {
    AccountFlags.NONE: 3,
    AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS: 3,
    AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS: 3,
    AccountFlags.CLOSED: 1,
}
"""How many accounts of which flags a customer has in each ledger, besides those on the brim."""
BRIM_CODE, BRIMS = 9, 4
"""Accounts without limits between which amounts move that no account can hold twice."""
CODES = (1, 2, 3)

NIL = UUID(int=0)
ID_MAX = UUID(int=2**128 - 1)

NONE, LINKED, PENDING = TransferFlags.NONE, TransferFlags.LINKED, TransferFlags.PENDING
POST, VOID = TransferFlags.POST_PENDING, TransferFlags.VOID_PENDING
BALANCING = (
    TransferFlags.BALANCING_DEBIT,
    TransferFlags.BALANCING_CREDIT,
    TransferFlags.BALANCING_DEBIT | TransferFlags.BALANCING_CREDIT,
)
CLOSING = (
    TransferFlags.CLOSING_DEBIT,
    TransferFlags.CLOSING_CREDIT,
    TransferFlags.CLOSING_DEBIT | TransferFlags.CLOSING_CREDIT,
)


@dataclass(frozen=True)
class Batch:
    """Accounts to open, then transfers to post; ``live`` are the accounts whose sums may change."""

    opens: list[Account]
    transfers: list[Transfer]
    live: list[Account]


def workload(seed: int, transfers: int, max_batch: int = MAX_BATCH) -> Iterator[Batch]:
    """The same for the same arguments, on every machine."""
    random = Random(seed)
    maker = _Maker(random)
    generations: deque[list[Account]] = deque(maxlen=2)
    made, next_generation = 0, 0
    while made < transfers:
        opens: list[Account] = []
        if made >= next_generation:
            opens = maker.open()
            generations.append(opens)
            next_generation = made + GENERATION
        size = random.choice((1, 2, random.randint(1, 20), random.randint(1, 120), random.randint(1, max_batch)))
        batch = maker.batch(min(size, max_batch, transfers - made))
        made += len(batch)
        yield Batch(opens, batch, [account for generation in generations for account in generation])


class _Maker:
    """Makes transfers, and remembers the last ones for those that refer to them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._accounts: list[Account] = []
        self._sent: deque[Transfer] = deque(maxlen=REMEMBERED)
        self._pending: deque[Transfer] = deque(maxlen=REMEMBERED // 3)
        self._closing: deque[Transfer] = deque(maxlen=REMEMBERED // 10)

    def open(self) -> list[Account]:
        """A new generation of accounts."""
        kinds = [(flags, 1) for flags, count in KINDS.items() for _ in range(count)] + [
            (AccountFlags.NONE, BRIM_CODE) for _ in range(BRIMS)
        ]
        self._accounts = [
            Account(self._id(), customer, ledger, code, flags)
            for customer in [self._id() for _ in range(CUSTOMERS)]
            for ledger, (flags, code) in product(LEDGERS, kinds)
        ]
        return self._accounts

    def batch(self, size: int) -> list[Transfer]:
        """Transfers of which some are linked in chains; the last chain may stay open."""
        batch: list[Transfer] = []
        while len(batch) < size:
            length = self._random.randint(2, 6) if self._chance(0.04) else 1
            links = [self._remember(self._next(linked=n < length - 1)) for n in range(min(length, size - len(batch)))]
            batch += links
        return batch

    def _next(self, *, linked: bool) -> Transfer:
        choice = self._random.random()
        if self._sent and choice < 0.12 and not linked:
            return self._again()  # as linked as it was: chains end where nobody expects it
        if self._pending and choice < 0.32:
            transfer = self._resolution(self._random.choice(self._pending))
        elif self._closing and choice < 0.40:
            transfer = self._resolution(self._closing.popleft())._replace(flags=VOID, amount=0)
        elif choice < 0.46:
            transfer = self._on_the_brim()
        else:
            transfer = self._move()
        while self._chance(0.03 if linked else 0.08):  # sometimes twice: one mistake takes precedence over another
            transfer = self._mistaken(transfer)
        return transfer._replace(flags=transfer.flags | LINKED) if linked else transfer

    def _remember(self, transfer: Transfer) -> Transfer:
        if transfer.id in (NIL, ID_MAX):
            return transfer
        self._sent.append(transfer)
        if PENDING in transfer.flags:
            (self._closing if transfer.flags & CLOSING[2] else self._pending).append(transfer)
        return transfer

    def _move(self) -> Transfer:
        debit = self._random.choice(self._accounts)
        credit = self._random.choice(self._alike(debit))
        flags = self._random.choice((NONE, NONE, PENDING))
        if self._chance(0.3):
            flags |= self._random.choice(BALANCING)
        if self._chance(0.02):
            flags |= PENDING | self._random.choice(CLOSING)
        amounts = [
            0,
            1,
            self._random.randint(0, 1_000),
            self._random.randint(0, 1_000),
            self._random.randint(0, 10**30),
        ]
        if flags & BALANCING[2]:
            amounts.append(AMOUNT_MAX)
        return self._transfer(debit, credit, self._random.choice(amounts), flags)

    def _on_the_brim(self) -> Transfer:
        brims = [account for account in self._accounts if account.code == BRIM_CODE]
        debit = self._random.choice(brims)
        credit = self._random.choice([account for account in self._alike(debit) if account.code == BRIM_CODE])
        amount = self._random.choice(
            (AMOUNT_MAX, AMOUNT_MAX - self._random.randint(0, 9), 2**127, AMOUNT_MAX // 3, self._random.randint(0, 20))
        )
        return self._transfer(debit, credit, amount, self._random.choice((NONE, PENDING, PENDING)))

    def _transfer(self, debit: Account, credit: Account, amount: int, flags: TransferFlags) -> Transfer:
        cause = self._random.choice((None, None, NIL, self._id()))
        return Transfer(
            self._id(),
            debit.customer_id,
            debit.id,
            credit.id,
            amount,
            debit.ledger,
            self._random.choice(CODES),
            flags,
            cause,
            self._random.choice((None, None, NIL)),
        )

    def _resolution(self, pending: Transfer) -> Transfer:
        """Posts or voids a pending transfer, or some of it; fields are left out now and then."""
        flags = self._random.choice((POST, VOID))
        if flags is VOID:
            amount = self._random.choice((0, 0, pending.amount))
        else:
            amount = self._random.choice((AMOUNT_MAX, pending.amount, pending.amount // 2, 0))
        resolution = Transfer(
            self._id(),
            pending.customer_id,
            self._random.choice((NIL, pending.debit_account_id)),
            self._random.choice((NIL, pending.credit_account_id)),
            amount,
            self._random.choice((0, pending.ledger)),
            self._random.choice((0, pending.code)),
            flags,
            self._random.choice((None, NIL, self._id(), pending.cause_id)),
            pending.id,
        )
        return self._mismatched(resolution, pending) if self._chance(0.15) else resolution

    def _mismatched(self, resolution: Transfer, pending: Transfer) -> Transfer:
        """One that does not fit its pending transfer, at least in one way."""
        other = self._random.choice(self._own(pending)).id
        return self._random.choice(
            (
                resolution._replace(debit_account_id=other),
                resolution._replace(credit_account_id=other),
                resolution._replace(ledger=LEDGERS[pending.ledger == LEDGERS[0]]),
                resolution._replace(code=pending.code + 1),
                resolution._replace(flags=VOID, amount=max(pending.amount - 1, 0)),
                resolution._replace(amount=min(pending.amount + 1, AMOUNT_MAX)),
                resolution._replace(pending_id=resolution.id),
                resolution._replace(pending_id=self._sent_for(resolution)),
            )
        )

    def _mistaken(self, transfer: Transfer) -> Transfer:
        """The same with one field that is wrong, or at least unusual."""
        account = self._random.choice(self._own(transfer))
        others = (NIL, ID_MAX, self._id(), account.id)
        flag = self._random.choice(list(TransferFlags)[1:])
        return self._random.choice(
            (
                transfer._replace(id=self._random.choice((NIL, ID_MAX, transfer.id))),
                transfer._replace(debit_account_id=self._random.choice(others)),
                transfer._replace(credit_account_id=self._random.choice(others)),
                transfer._replace(credit_account_id=transfer.debit_account_id),
                transfer._replace(
                    pending_id=self._random.choice((NIL, ID_MAX, self._id(), transfer.id, self._sent_for(transfer)))
                ),
                transfer._replace(ledger=self._random.choice((0, *LEDGERS, 978))),
                transfer._replace(code=self._random.choice((0, *CODES))),
                transfer._replace(flags=transfer.flags ^ flag),
                transfer._replace(amount=self._other_amount(transfer)),
            )
        )

    def _again(self) -> Transfer:
        """A transfer of before, mostly unchanged, else with one field that differs or is left out."""
        transfer = self._random.choice(self._sent)
        if self._chance(0.5):
            return transfer
        accounts = (NIL, self._random.choice(self._own(transfer)).id)
        return self._random.choice(
            (
                transfer._replace(amount=self._other_amount(transfer)),
                transfer._replace(flags=transfer.flags ^ self._random.choice(list(TransferFlags)[1:])),
                transfer._replace(code=self._random.choice((0, *CODES))),
                transfer._replace(cause_id=self._random.choice((None, NIL, self._id()))),
                transfer._replace(ledger=self._random.choice((0, *LEDGERS))),
                transfer._replace(debit_account_id=self._random.choice(accounts)),
                transfer._replace(credit_account_id=self._random.choice(accounts)),
                transfer._replace(pending_id=self._random.choice((None, NIL, self._id(), ID_MAX))),
            )
        )

    def _other_amount(self, transfer: Transfer) -> int:
        more = min(transfer.amount + 1, AMOUNT_MAX)
        return self._random.choice((more, max(transfer.amount - 1, 0), transfer.amount // 2, 0, AMOUNT_MAX))

    def _alike(self, account: Account) -> list[Account]:
        """The accounts to which money can move from this one."""
        own = [a for a in self._accounts if a.customer_id == account.customer_id and a.ledger == account.ledger]
        return [other for other in own if other is not account]

    def _sent_for(self, transfer: Transfer) -> UUID:
        """The id of some transfer of the same customer, if one was sent."""
        own = [sent.id for sent in self._sent if sent.customer_id == transfer.customer_id]
        return self._random.choice(own) if own else self._id()

    def _own(self, transfer: Transfer) -> list[Account]:
        """Accounts in all ledgers of the transfer's customer; of anybody, if those are forgotten."""
        return [a for a in self._accounts if a.customer_id == transfer.customer_id] or [
            Account(self._id(), transfer.customer_id, LEDGERS[0], 1)
        ]

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _id(self) -> UUID:
        return UUID(int=self._random.getrandbits(128))
