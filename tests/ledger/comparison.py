"""Drives engines with one workload and finds the first thing that they do not do alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tallystick.ledger.contract import Account, Result, Status, Transfer, TransferFlags
from tests.ledger.engines import Engine, ModelEngine, PostgresEngine
from tests.ledger.workload import Batch


class Difference(AssertionError):
    """An engine does something else than the model."""


@dataclass
class Occurrences:
    """How often each status and each flag occurred; a flag counts where its transfer was created."""

    statuses: Counter[Status] = field(default_factory=Counter)
    flags: Counter[TransferFlags] = field(default_factory=Counter)

    def count(self, transfers: Sequence[Transfer], results: Sequence[Result]) -> None:
        for transfer, result in zip(transfers, results, strict=True):
            self.statuses[result.status] += 1
            if result.status is Status.CREATED:
                self.flags.update(TransferFlags(transfer.flags))

    @property
    def missing(self) -> list[str]:
        """Names of the statuses and flags that never occurred."""
        return [status.value for status in Status if not self.statuses[status]] + [
            flag.name or "" for flag in TransferFlags if not self.flags[flag]
        ]


async def compare(
    engines: Mapping[str, Engine], batches: Iterable[Batch], tell: Callable[[int], None] = lambda _: None
) -> Occurrences:
    """Sends each batch to the model and to all ``engines``. ``tell`` hears how many transfers were sent.

    Raises ``Difference`` for the first result or balance that differs.
    """
    model = ModelEngine()
    occurrences = Occurrences()
    opened: list[Account] = []
    sent = 0
    for number, batch in enumerate(batches):
        opened += batch.opens
        await model.open(batch.opens)
        expected = await model.post(batch.transfers)
        balances = await model.accounts(batch.live)
        for name, engine in engines.items():
            await engine.open(batch.opens)
            _same_results(name, number, batch.transfers, expected, await engine.post(batch.transfers))
            _same_balances(name, number, balances, await engine.accounts(batch.live))
        occurrences.count(batch.transfers, expected)
        sent += len(batch.transfers)
        tell(sent)
    for name, engine in engines.items():
        _same_balances(name, -1, await model.accounts(opened), await engine.accounts(opened))
        if isinstance(engine, PostgresEngine):
            await _same_history(model, engine)
    return occurrences


def _same_results(
    name: str, number: int, transfers: Sequence[Transfer], expected: Sequence[Result], answered: Sequence[Result]
) -> None:
    if list(answered) == list(expected):
        return
    for index, (transfer, wanted, got) in enumerate(zip(transfers, expected, answered, strict=True)):
        if wanted != got:
            raise Difference(f"{name}, batch {number}, transfer {index}: {got}, not {wanted}, for {transfer}")


def _same_balances(name: str, number: int, expected: Mapping[UUID, Account], found: Mapping[UUID, Account]) -> None:
    if found == expected:
        return
    for account_id, wanted in expected.items():
        if found.get(account_id) != wanted:
            raise Difference(f"{name}, after batch {number}: {found.get(account_id)}, not {wanted}")
    raise Difference(f"{name}, after batch {number}: accounts that nobody opened")


async def _same_history(model: ModelEngine, engine: PostgresEngine) -> None:
    """The tables hold the transfers that the model created, in order, and the failures that it remembers."""
    if (transfers := await engine.transfers()) != [_plain(transfer) for transfer in model.books.posted]:
        raise Difference(f"postgres: the table of transfers has another history, of {len(transfers)}")
    failed = {(transfer.customer_id, transfer.id, status.value) for transfer, status in model.books.newly_failed}
    if await engine.failures() != failed:
        raise Difference("postgres: the table of failures has others")


def _plain(transfer: Transfer) -> Transfer:
    """As read from a table."""
    return transfer._replace(flags=TransferFlags(transfer.flags))
