"""When a level of the balance is crossed: pure.

A rule is armed while the balance has been above its level. It is told when the balance comes to its level or below it,
and is armed again when money has come in and the balance is above its level then. What else brings the balance up, as
usage that is corrected, does not arm it: or a balance that goes up and down by a little would be told again and again.

A rule that is new to a wallet is armed if the balance is above its level, and not told otherwise: nothing was crossed.
But a wallet that was opened after its rule began at zero, above any level of debt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from tallystick.kernel.money import EXACT
from tallystick.notices.model import LEVELS, Memory, Rule, Standing

_ROUND_FLOOR = "ROUND_FLOOR"


class Looked(NamedTuple):
    """What a look at a wallet has found."""

    crossed: list[Rule]
    """Rules whose level was crossed since it was looked at last, the lowest level first."""
    memory: Memory | None
    """What to remember; ``None`` if there is nothing worth it."""
    alarm_at: int | None
    """The highest level that is armed: above it nothing will be crossed."""


def level_of(rule: Rule, granted: int) -> int | None:
    """The greatest balance at which the rule is told, in microunits; ``None`` for a share of nothing."""
    if rule.kind == "balance":
        return int(rule.threshold)
    if granted <= 0:
        return None
    return int(EXACT.multiply(rule.threshold, granted).to_integral_value(_ROUND_FLOOR))


def look(standing: Standing, memory: Memory | None, rules: Iterable[Rule]) -> Looked:
    """Compares a wallet with the levels of those ``rules`` that are about it."""
    came_in = memory is None or standing.came_in > memory.came_in
    told: set[UUID] = set()
    crossed: list[tuple[int, Rule]] = []
    armed: list[int] = []
    seen = 0 if memory is None else memory.seen
    for rule in rules:
        if rule.kind not in LEVELS:
            continue
        seen = max(seen, rule.number)
        level = level_of(rule, standing.granted)
        was_armed = _was_armed(rule, standing, memory)
        is_new = memory is None or rule.number > memory.seen
        if level is not None and standing.balance > level and (was_armed or is_new or came_in):
            armed.append(level)
            continue
        told.add(rule.id)
        if level is not None and standing.balance <= level and was_armed:
            crossed.append((level, rule))
    found = [rule for _, rule in sorted(crossed, key=lambda each: (each[0], each[1].number))]
    alarm_at = max(armed, default=None)
    if memory is None and not found and alarm_at is None:
        return Looked([], None, None)
    return Looked(found, Memory(frozenset(told), seen, standing.came_in, standing.granted), alarm_at)


def loudest(crossed: Iterable[Rule]) -> list[Rule]:
    """Of rules that would tell the same people at the same time, the one with the lowest level, which says most."""
    first: dict[tuple[frozenset[str], frozenset[str]], Rule] = {}
    for rule in crossed:
        first.setdefault((frozenset(rule.recipients), frozenset(rule.copies)), rule)
    return list(first.values())


def _was_armed(rule: Rule, standing: Standing, memory: Memory | None) -> bool:
    if memory is None:
        return rule.kind == "balance" and rule.threshold < 0 and rule.created_at <= standing.opened_at
    return rule.number <= memory.seen and rule.id not in memory.told
