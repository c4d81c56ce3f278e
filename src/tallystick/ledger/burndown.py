"""Which of its grants a wallet has used up: a pure fold over the wallet's movements in the order of the books.

A wallet is one account; nothing in it says from which grant an amount was taken. That is a convention, and this is it:

- Grants are used in the order of their rank: priority (the lowest first), then expiry (the earliest first, none last),
  then age. Money that came in without a grant (exchanged from another wallet) is used last.
- Between two events (a grant comes in, is closed, or is taken away) the rank is fixed, so what counts is the net amount
  that left the wallet meanwhile, whatever the order and size of the movements. A net amount that came back (usage that
  was corrected) fills grants up again in reverse order, and never beyond what was granted.
- What has left the wallet before there was a grant for it (a postpaid wallet below zero) is owed by the next one.
- A closed grant (expired, voided) may still be used, as far as it could not be taken away, but is not filled up again.
- What belongs to no grant stays unattributed.

So at any time the remaining amounts and what is unattributed sum up to the wallet's balance.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

_NEVER = datetime.max.replace(tzinfo=UTC)

Rank = tuple[int, datetime, int, UUID]
"""What grants are ordered by: priority, expiry, place in the books, id."""


@dataclass(frozen=True, slots=True)
class Grant:
    """An amount of microunits that came in by the transfer ``sequence``; ``expires_at`` is what ranks it."""

    id: UUID
    amount: int
    priority: int
    expires_at: datetime | None
    sequence: int

    @property
    def rank(self) -> Rank:
        """The lowest is used first."""
        return self.priority, self.expires_at or _NEVER, self.sequence, self.id


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left, in microunits: of each grant of which something is left, and without a grant (negative: owed)."""

    of: Mapping[UUID, int]
    unattributed: int
    unattributed_used: int = 0
    """What was used of money that came in without a grant."""

    @property
    def balance(self) -> int:
        """The wallet's balance."""
        return sum(self.of.values()) + self.unattributed


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Where a fold can go on: what was left at the last event, and what moved since."""

    remaining: Remaining
    moved_out: int = 0
    income: int = 0


class BurnDown:
    """The state of the fold. Events are to be told in the order of the books."""

    def __init__(self) -> None:
        self._grants: dict[UUID, Grant] = {}
        self._left: dict[UUID, int] = {}
        """Only of grants that have something left."""
        self._usable: list[Rank] = []
        """Grants with something left, by rank."""
        self._refillable: list[Rank] = []
        """Grants that were used in part and are not closed, by rank."""
        self._closed: set[UUID] = set()
        self._taken: dict[UUID, list[int]] = {}
        self._unattributed = 0
        self._unattributed_used = 0
        self._moved_out = 0
        """Net, since the last event, as ``_income``."""
        self._income = 0

    @classmethod
    def resumed(
        cls,
        state: Interrupted,
        grants: Mapping[UUID, Grant],
        closed: Collection[UUID],
        taken: Mapping[UUID, Sequence[int]],
    ) -> BurnDown:
        """The fold that was interrupted: of ``grants``, by id, these were closed and these amounts were taken."""
        down, before = cls(), state.remaining
        down._grants = dict(grants)
        down._left = dict(before.of)
        down._unattributed, down._unattributed_used = before.unattributed, before.unattributed_used
        down._moved_out, down._income = state.moved_out, state.income
        down._closed = set(closed)
        down._taken = {grant_id: list(amounts) for grant_id, amounts in taken.items()}
        down._usable = sorted(grants[grant_id].rank for grant_id in before.of)
        down._refillable = sorted(
            grant.rank
            for grant in grants.values()
            if grant.id not in closed and before.of.get(grant.id, 0) < grant.amount
        )
        return down

    def interrupted(self) -> Interrupted:
        """What another fold needs to go on from here."""
        before = Remaining(dict(self._left), self._unattributed, self._unattributed_used)
        return Interrupted(before, self._moved_out, self._income)

    def moved(self, out: int, income: int = 0) -> None:
        """``out`` microunits were used, or came back (negative); ``income`` came in that is no grant."""
        self._moved_out += out
        self._income += income

    def granted(self, grant: Grant) -> None:
        """A grant comes in; it pays what is owed first."""
        self._settle()
        self._grants[grant.id] = grant
        owed = min(grant.amount, max(0, -self._unattributed))
        self._unattributed += owed
        self._set_left(grant, grant.amount - owed)

    def close(self, grant_id: UUID) -> None:
        """From now on the grant is not filled up again. Nothing if it is closed already, or never came in."""
        if grant_id in self._grants and grant_id not in self._closed:
            self._settle()
            self._closed.add(grant_id)
            _discard(self._refillable, self._grants[grant_id].rank)

    def take(self, grant_id: UUID, amount: int) -> None:
        """``amount`` of a grant is taken away, and it is closed. More than is left of it is used like any amount."""
        self.close(grant_id)
        self._settle()
        taken = min(amount, self._left.get(grant_id, 0))
        self._taken.setdefault(grant_id, []).append(amount)
        self._set_left(self._grants[grant_id], self._left.get(grant_id, 0) - taken)
        self._use(amount - taken)

    def knows(self, grant_id: UUID) -> bool:
        """Whether the grant has come in."""
        return grant_id in self._grants

    def taken(self, grant_id: UUID) -> list[int]:
        """The amounts that were taken away of a closed grant, one for each transfer."""
        return list(self._taken.get(grant_id, ()))

    def remaining(self) -> Remaining:
        """What is left now. The interval goes on: later movements are still one net amount with those of before."""
        now = copy(self)
        now._left, now._usable, now._refillable = dict(self._left), list(self._usable), list(self._refillable)
        now._settle()
        return Remaining(now._left, now._unattributed, now._unattributed_used)

    def _settle(self) -> None:
        """Ends the interval: attributes what has left the wallet since the last event, or has come back."""
        out, self._moved_out = self._moved_out, 0
        self._unattributed += self._income
        self._income = 0
        if out > 0:
            self._use(out)
        else:
            self._give_back(-out)

    def _use(self, amount: int) -> None:
        while amount and self._usable:
            grant = self._grants[self._usable[0][-1]]
            used = min(amount, self._left[grant.id])
            self._set_left(grant, self._left[grant.id] - used)
            amount -= used
        self._unattributed_used += min(amount, max(0, self._unattributed))
        self._unattributed -= amount

    def _give_back(self, amount: int) -> None:
        first = min(amount, max(0, -self._unattributed) + self._unattributed_used)
        self._unattributed_used -= first - min(first, max(0, -self._unattributed))
        self._unattributed += first
        amount -= first
        while amount and self._refillable:
            grant = self._grants[self._refillable[-1][-1]]
            left = self._left.get(grant.id, 0)
            filled = min(amount, grant.amount - left)
            self._set_left(grant, left + filled)
            amount -= filled
        self._unattributed += amount

    def _set_left(self, grant: Grant, left: int) -> None:
        had = self._left.pop(grant.id, 0)
        if left:
            self._left[grant.id] = left
        if bool(left) != bool(had):
            (insort if left else _discard)(self._usable, grant.rank)
        if grant.id in self._closed:
            return
        _discard(self._refillable, grant.rank)
        if left < grant.amount:
            insort(self._refillable, grant.rank)


def _discard(ranks: list[Rank], rank: Rank) -> None:
    place = bisect_left(ranks, rank)
    if ranks[place : place + 1] == [rank]:
        del ranks[place]
