"""Proves what stands beside the ledger: exchanges, what people said, and what readers noted to find their place again.

Milestones (``billing/transactions.py``) and checkpoints (``ledger/remaining.py``) follow from the transfers, and could
be written again. But readers trust them, so they are computed anew here, from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.ledger.burndown import BurnDown, Grant, Interrupted
from tallystick.operations.findings import STEPS_PER_CHECK, Examination, money

_SQL = Queries(Path(__file__).with_suffix(".sql"))


class RecordsProof:
    """The checks of what stands beside the ledger, in one run; after those of ``LedgerProof``, whose words it uses."""

    def __init__(self, examination: Examination) -> None:
        self._examination = examination

    async def movements(self) -> None:
        """What is known of a movement besides its transfer: the rate of an exchange, and what people said."""
        run = self._examination
        await run.count("exchanges_accounted", _SQL.exchanges, _SQL.unexchanged)
        await run.count("operations_accounted", _SQL.operations)

    async def milestones(self) -> None:
        """What a wallet held after some of its transfers."""
        await self._examination.count("milestones_stand", _SQL.milestones)

    async def checkpoints(self) -> None:
        """What was left of a wallet's grants: the fold is done again, from the wallet's beginning."""
        run = self._examination
        run.report("checkpoints_stand")
        ((count, head),) = await run.fetch(_SQL.count_checkpoints)
        if not count:
            return
        findings = run["checkpoints_stand"]
        async for rows in run.rows("checkpoints", _SQL.checkpoints):
            checkpoints = [_Checkpoint(*row) for row in rows]
            for checkpoint, states in zip(checkpoints, await self._fold(checkpoints), strict=True):
                difference = _difference(checkpoint, states, head)
                if difference is not None:
                    findings.differ(f"{checkpoint}: {difference}")
            findings.checked += len(rows)
            run.report("checkpoints_stand", STEPS_PER_CHECK * findings.checked // count)

    async def _fold(self, checkpoints: Sequence[_Checkpoint]) -> list[list[Interrupted]]:
        """What each of the checkpoints may hold."""
        rows = await self._examination.fetch(
            _SQL.stories,
            customer_ids=UuidArray(checkpoint.customer_id for checkpoint in checkpoints),
            ledgers=array(checkpoint.ledger for checkpoint in checkpoints),
            sequences=array(checkpoint.sequence for checkpoint in checkpoints),
        )
        stories = groupby((_Event(*row) for row in rows), key=attrgetter("number"))
        return [_states(list(story)) for _, story in stories]


class _Checkpoint(NamedTuple):
    customer_id: UUID
    ledger: int
    sequence: int
    customer: str
    asset: str
    remaining: Any  # by grant, as text; whatever JSON somebody may have put there
    unattributed: Decimal
    unattributed_used: Decimal
    moved_out: Decimal
    income: Decimal

    def __str__(self) -> str:
        return f"checkpoint of {self.customer} in {self.asset} at {self.sequence}"


class _Event(NamedTuple):
    """Something happened to a grant of the ``number``-th wallet, or its checkpoint is ``reached``."""

    number: int
    sequence: int
    event: str
    grant_id: UUID
    amount: Decimal
    priority: int
    rank_expiry: Any
    out: Decimal
    """Left the wallet since the event before and with this one, net."""
    income: Decimal


def _states(story: Sequence[_Event]) -> list[Interrupted]:
    """The fold at the checkpoint, and with what was closed there: it may have been kept before or after that.

    Nothing if it cannot be told, because a transfer moves what is no finite number.
    """
    down = BurnDown()
    states: list[Interrupted] = []
    try:
        for event in story:
            _tell(down, event)
            if event.event == "reached":
                states.append(down.interrupted())
    except (ArithmeticError, ValueError):
        return []
    return [*states, down.interrupted()]


def _tell(down: BurnDown, event: _Event) -> None:
    """What moved includes the event's own transfer."""
    out, income = int(event.out), int(event.income)
    match event.event:
        case "came in":
            grant = Grant(event.grant_id, int(event.amount), event.priority, event.rank_expiry, event.sequence)
            down.moved(out, income - grant.amount)
            down.granted(grant)
        case "taken" if down.knows(event.grant_id):
            down.moved(out - int(event.amount), income)
            down.take(event.grant_id, int(event.amount))
        case "closed":
            down.moved(out, income)
            down.close(event.grant_id)
        case _:  # also if a grant was taken away that never came in, which another check says
            down.moved(out, income)


def _difference(checkpoint: _Checkpoint, states: Sequence[Interrupted], head: int) -> str | None:
    if checkpoint.sequence > head:
        return f"the last transfer in the books is {head}"
    if not states:
        return "the wallet's transfers are no finite numbers"
    differences = [_compare(checkpoint, state) for state in states]
    return None if None in differences else differences[-1]


def _compare(checkpoint: _Checkpoint, state: Interrupted) -> str | None:
    expected = {str(grant_id): str(left) for grant_id, left in state.remaining.of.items()}
    if checkpoint.remaining != expected:
        return _name_grant(checkpoint.remaining, expected)
    for name, figure, found in (
        ("left without a grant", state.remaining.unattributed, checkpoint.unattributed),
        ("used without a grant", state.remaining.unattributed_used, checkpoint.unattributed_used),
        ("moved out since the last event", state.moved_out, checkpoint.moved_out),
        ("come in since the last event", state.income, checkpoint.income),
    ):
        if found != figure:
            return f"expected {money(figure)} {name}, found {money(found)}"
    return None


def _name_grant(found: Any, expected: dict[str, str]) -> str:
    """The first grant of which the two do not say the same."""
    if not isinstance(found, dict):
        return "expected what is left by grant, found no JSON object"
    grant_id = min(key for key in found.keys() | expected.keys() if found.get(key, "") != expected.get(key, ""))
    return (
        f"expected {_left(expected.get(grant_id, '0'))} to be left of grant {grant_id}, "
        f"found {_left(found.get(grant_id, '0'))}"
    )


def _left(text: Any) -> str:
    try:
        return money(Decimal(text))
    except (ArithmeticError, ValueError, TypeError):
        return "no number"
