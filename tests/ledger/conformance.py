"""What every ledger engine must answer: small cases with names, worked out by hand from TigerBeetle's rules.

A case sends batches and says the result of each transfer, and the sums of every account at its end; accounts that it
does not mention must be as they were opened. Names and numbers become ids that no other run has used.

Here is the language of the cases. They are in ``conformance_transfers.py``, ``_pending.py`` and ``_chains.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from tallystick.ledger.contract import Account, AccountFlags, Result, Status, Transfer, TransferFlags
from tests.ledger.engines import Engine

FREE = AccountFlags.NONE
DEBITS_LIMITED = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
CREDITS_LIMITED = AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS
CLOSED = AccountFlags.CLOSED

CAST = {
    "bank": (1, FREE),
    "shop": (1, FREE),
    "mint": (1, FREE),
    "purse": (1, DEBITS_LIMITED),
    "debt": (1, CREDITS_LIMITED),
    "dollars": (840, FREE),
    "shut": (1, CLOSED),
    "sealed": (1, CLOSED | DEBITS_LIMITED),
}
"""The accounts that every case finds open: ledger and flags."""

NIL, MAX = "nil", "max"
ID_MAX = 2**128 - 1

NONE = TransferFlags.NONE
LINKED = TransferFlags.LINKED
PENDING = TransferFlags.PENDING
POST = TransferFlags.POST_PENDING
VOID = TransferFlags.VOID_PENDING
BALANCING_DEBIT = TransferFlags.BALANCING_DEBIT
BALANCING_CREDIT = TransferFlags.BALANCING_CREDIT
CLOSING_DEBIT = TransferFlags.CLOSING_DEBIT
CLOSING_CREDIT = TransferFlags.CLOSING_CREDIT

OK = Status.CREATED
EXISTS = Status.EXISTS

Sums = tuple[int, int, int, int]
"""Debits pending, debits posted, credits pending, credits posted."""


@dataclass(frozen=True)
class Step:
    """A transfer by names and small numbers, and its result."""

    expected: Result
    id: int | str
    debit: str
    credit: str
    amount: int
    flags: TransferFlags
    pending: int | str
    cause: int
    ledger: int
    code: int


def step(
    status: Status,
    number: int | str,
    debit: str,
    credit: str,
    amount: int,
    flags: TransferFlags = NONE,
    *,
    pending: int | str = NIL,
    cause: int = 0,
    ledger: int = 1,
    code: int = 7,
    moves: int | None = None,
) -> Step:
    """``moves`` is the amount in the books, if it is not the one asked for."""
    expected = Result(status, amount if moves is None else moves)
    if not expected.stands:
        expected = Result(status)
    return Step(expected, number, debit, credit, amount, flags, pending, cause, ledger, code)


def post(status: Status, number: int | str, pending: int | str, amount: int, *, moves: int = 0) -> Step:
    """Posts a pending transfer, of which it repeats nothing."""
    return step(status, number, NIL, NIL, amount, POST, pending=pending, ledger=0, code=0, moves=moves)


def void(status: Status, number: int | str, pending: int | str, amount: int = 0, *, moves: int = 0) -> Step:
    """Voids a pending transfer, of which it repeats nothing."""
    return step(status, number, NIL, NIL, amount, VOID, pending=pending, ledger=0, code=0, moves=moves)


@dataclass(frozen=True)
class Case:
    name: str
    batches: tuple[Sequence[Step], ...]
    sums: dict[str, Sums]
    closed: frozenset[str]

    @property
    def steps(self) -> list[Step]:
        return [step for batch in self.batches for step in batch]


class Cases(list[Case]):
    """The cases of one chapter, in the order in which they are told."""

    def add(self, name: str, *batches: Sequence[Step], closed: Sequence[str] = (), **sums: Sums) -> None:
        """``closed`` and ``sums`` say how the accounts stand at the end."""
        self.append(Case(name, batches, sums, frozenset(closed)))


FUND = step(OK, 90, "bank", "purse", 10)
"""What many cases begin with."""


class Names:
    """Ids of one run of one case."""

    def __init__(self) -> None:
        self._salt = uuid4().bytes
        self.customer = self.id("customer")

    def id(self, name: int | str) -> UUID:
        if name == NIL:
            return UUID(int=0)
        if name == MAX:
            return UUID(int=ID_MAX)
        return UUID(bytes=hashlib.sha256(self._salt + repr(name).encode()).digest()[:16])

    def account(self, name: str, sums: Sums = (0, 0, 0, 0), flags: AccountFlags = FREE) -> Account:
        ledger, opened_with = CAST[name]
        return Account(self.id(name), self.customer, ledger, 5, opened_with | flags, *sums)

    def transfer(self, step: Step) -> Transfer:
        return Transfer(
            self.id(step.id),
            self.customer,
            self.id(step.debit),
            self.id(step.credit),
            step.amount,
            step.ledger,
            step.code,
            step.flags,
            self.id(f"cause {step.cause}") if step.cause else None,
            self.id(step.pending),
        )


async def run(case: Case, engine: Engine) -> None:
    """Raises ``AssertionError`` where the engine does otherwise."""
    names = Names()
    opened = [names.account(name) for name in CAST]
    await engine.open(opened)
    for number, batch in enumerate(case.batches):
        results = await engine.post([names.transfer(step) for step in batch])
        for step, result in zip(batch, results, strict=True):
            assert result == step.expected, f"{case.name}, batch {number}: {result}, not {step.expected}, for {step}"
    found = await engine.accounts(opened)
    for name in CAST:
        expected = names.account(name, case.sums.get(name, (0, 0, 0, 0)), CLOSED if name in case.closed else FREE)
        account = found[names.id(name)]
        assert account == expected, f"{case.name}, {name} at the end: {account}, not {expected}"
