"""Grants, on every engine: lists of them, and what is left on any day."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest

from tallystick.kernel.errors import InvalidInput, TallyError
from tallystick.ledger import remaining
from tallystick.ledger.grant_model import Standing
from tests.ledger.grants.bank import DAY, Bank
from tests.metering.books import fetch

# Lists


async def test_grants_come_newest_first_in_pages_and_by_state(anyone: Bank) -> None:
    ids: list[UUID] = []
    for number in range(5):
        ids.append(await anyone.give(10 + number, days=1 if number == 2 else 9))
        anyone.clock.advance(timedelta(seconds=1))
    await anyone.due(DAY)
    await anyone.void(ids[3])
    payer_id = await anyone.payer_id()

    async def listed(state: Any = None, limit: int = 2) -> list[Standing]:
        found: list[Standing] = []
        cursor: str | None = None
        while True:
            async with anyone.service.pool.connection() as conn, conn.transaction():
                page = await anyone.service.grants.page(conn, payer_id, state, cursor, limit)
            found += page.items
            if (cursor := page.next) is None:
                return found

    assert [standing.grant.id for standing in await listed()] == ids[::-1]
    assert [standing.grant.id for standing in await listed("granted")] == [ids[4], ids[1], ids[0]]
    assert [standing.remaining for standing in await listed("expired")] == [0]
    assert [standing.taken for standing in await listed("voided")] == [13]
    assert await listed("scheduled") == []
    with pytest.raises(InvalidInput) as refused:
        async with anyone.service.pool.connection() as conn:
            await anyone.service.grants.page(conn, payer_id, None, "x", 2)
    assert refused.value.field == "cursor"


async def test_how_far_a_long_history_was_read_is_kept(anyone: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remaining, "MANY_TRANSFERS", 10)
    grant = await anyone.give(1000)
    await anyone.use(*[1] * 20)
    assert await anyone.left(grant) == [980]
    ((sequence, moved_out),) = await fetch(anyone.service, "select sequence, moved_out from grant_checkpoints")
    assert moved_out == 20
    await anyone.use(-5, 7)
    assert await anyone.left(grant) == [978]
    assert await fetch(anyone.service, "select sequence from grant_checkpoints") == [(sequence,)]
    await anyone.use(*[1] * 20)
    assert await anyone.left(grant) == [958]
    ((later, moved_out),) = await fetch(anyone.service, "select sequence, moved_out from grant_checkpoints")
    assert (later > sequence, moved_out) == (True, 42)


# Any day


async def refused(doing: Awaitable[Any]) -> int | None:
    """The status with which it is refused, if it is."""
    try:
        await doing
    except TallyError as error:
        return error.status
    return None


async def test_any_day_comes_out_as_the_books_say(anyone: Bank) -> None:
    """Whatever happens, in any order: the fixture compares every wallet with a fold from its beginning."""
    random = Random(7)
    grants: list[UUID] = []
    holds: list[UUID] = []
    for _ in range(120):
        match random.choice(("give", "later", "use", "use", "back", "bill", "hold", "settle", "void", "due", "due")):
            case "give":
                days = random.choice((None, 1, 2, 5))
                grants.append(await anyone.give(random.randint(1, 50), days=days, priority=random.randint(99, 101)))
            case "later":
                at = anyone.clock.now() + random.randint(1, 3) * DAY
                grants.append(await anyone.give(random.randint(1, 50), effective_at=at, expires_at=at + DAY))
            case "use":
                await anyone.use(*(random.randint(0, 30) for _ in range(random.randint(1, 3))))
            case "back":
                await anyone.use(-random.randint(0, 20))
            case "bill":
                assert await refused(anyone.instruct("bill", random.randint(1, 20))) in (None, 402)
            case "hold":
                hold = asyncio.ensure_future(anyone.hold(random.randint(1, 20)))
                if await refused(hold) is None:
                    holds.append(hold.result())
            case "settle" if holds:
                await anyone.settle(holds.pop(), random.randint(1, 25))
            case "void" if grants:
                assert await refused(anyone.void(random.choice(grants))) in (None, 409)
            case "due":
                await anyone.due(timedelta(hours=random.randint(1, 30)))
        for grant in random.sample(grants, min(2, len(grants))):
            standing = await anyone.standing(grant)
            assert standing.used + standing.remaining + standing.taken in (0, standing.grant.amount)
