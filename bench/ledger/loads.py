"""What is posted: transfers between accounts that may not be overdrawn, each id fresh and in the order of time."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from random import Random
from typing import Final
from uuid import UUID

from bench.client import BenchError
from tallystick.ledger.contract import Account, AccountFlags, Result, Status, Transfer

ACCOUNTS: Final = 10_000
FUNDS: Final = 10**12
"""What every account starts with, so that none runs dry."""

LEDGER, WALLET, GRANTED, USAGE = 1, 1, 4, 4
COLLECT_AFTER_OBJECTS: Final = 200_000
"""As `tally serve` sets it."""


@dataclass
class Load:
    """Accounts of one customer, and an endless supply of transfers between them."""

    random: Random = field(default_factory=lambda: Random(2026))

    def __post_init__(self) -> None:
        self.customer = self._id()
        self.bank = Account(self._id(), self.customer, LEDGER, GRANTED)
        limited = AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS
        self.accounts = [Account(self._id(), self.customer, LEDGER, WALLET, limited) for _ in range(ACCOUNTS)]

    def funding(self) -> list[Transfer]:
        """Gives every account its funds."""
        return [self._transfer(self.bank.id, account.id, FUNDS) for account in self.accounts]

    def batch(self, size: int, *, hot: bool = False) -> list[Transfer]:
        """Transfers of 1 to 100 between accounts at random; or all out of one of them."""
        ids = [account.id for account in self.accounts]
        choice, amount = self.random.choice, self.random.randrange
        transfers = []
        for _ in range(size):
            debit, credit = ids[0] if hot else choice(ids), choice(ids)
            while credit is debit:
                credit = choice(ids)
            transfers.append(self._transfer(debit, credit, amount(1, 100)))
        return transfers

    def _transfer(self, debit: UUID, credit: UUID, amount: int) -> Transfer:
        return Transfer(self._id(), self.customer, debit, credit, amount, LEDGER, USAGE)

    def _id(self) -> UUID:
        return UUID(int=(time.time_ns() // 1_000_000 << 80) | self.random.getrandbits(79))


def insist(results: list[Result]) -> None:
    """Raises `BenchError` unless every transfer was created."""
    wrong = {result.status.value for result in results if result.status is not Status.CREATED}
    if wrong:
        raise BenchError(f"transfers were not created: {', '.join(sorted(wrong))}")


def settle_memory() -> None:
    """What was prepared is kept out of the collections to come, as nothing of a server lives as long."""
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 10, 10)
    gc.collect()
    gc.freeze()
