"""Keys in the database: made, listed, revoked and rotated."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.access.callers import OF_CUSTOMERS, Scope
from tallystick.access.model import MAX_LIFE, MAX_OVERLAP, NewKey, digest_of, make_text, prefix_of
from tallystick.access.service import KeyEnded, Made
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.service import Service
from tests.access.conftest import AGENT, NOW, make

WEEK = timedelta(days=7)
READER = NewKey("shop", [Scope.BILLING_READ])


async def rotate(service: Service, key_id: UUID, overlap: timedelta = WEEK) -> Made:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.access.keys.rotate(conn, key_id, overlap)


async def revoke(service: Service, key_id: UUID) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await service.access.keys.revoke(conn, key_id)


async def stored(service: Service) -> list[tuple[Any, ...]]:
    async with service.pool.connection() as conn:
        return await (await conn.execute("select * from api_keys order by created_at, id")).fetchall()


# The text


def test_a_text_is_random_and_says_by_which_prefix_it_is_found() -> None:
    texts = {make_text() for _ in range(100)}
    assert len(texts) == len({prefix_of(text) for text in texts}) == 100
    assert all(re.fullmatch("tally_[a-z0-9]{12}_[A-Za-z0-9]{43}", text) for text in texts)


@given(st.text() | st.builds(lambda cut: make_text()[:cut], st.integers(0, 61)) | st.just(make_text() + "a"))
def test_what_is_no_key_has_no_prefix(text: str) -> None:
    assert prefix_of(text) is None


# Making


async def test_what_is_kept_is_a_digest(service: Service) -> None:
    made = await make(service)
    assert digest_of(made.text) in (row[2] for row in await stored(service))
    assert made.text.partition("_")[2].partition("_")[2] not in str(await stored(service))
    assert made.text not in repr(made.key)


async def test_whose_a_key_is(service: Service) -> None:
    operators = (await make(service)).key
    adas = (await make(service, replace(READER, customer="ada"))).key
    bots = (await make(service, replace(READER, agent=AGENT.upper()))).key
    by_id = (await make(service, replace(READER, agent=str(bots.agent_id), customer="ada"))).key
    assert (operators.customer, operators.agent_id) == (None, None)
    assert (adas.customer, adas.agent_id) == ("ada", None)
    assert (bots.customer, by_id.agent_id) == ("ada", bots.agent_id)
    assert (operators.created_at, operators.expires_at, operators.revoked_at, operators.last_used_at) == (
        NOW,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("wrong", "field", "rule"),
    [
        ({"name": " "}, "name", "must not be empty"),
        ({"scopes": []}, "scopes", "at least one"),
        ({"customer": "nobody"}, "customer", "must name a customer, which 'nobody' does not"),
        ({"agent": "nobody@example.org"}, "agent", "must name an agent"),
        ({"agent": AGENT, "customer": "bob"}, "agent", "must belong to customer 'bob'"),
        ({"lives": timedelta()}, "expires_in", "must be from 1 to"),
        ({"lives": MAX_LIFE + timedelta(seconds=1)}, "expires_in", "must be from 1 to"),
        ({"requests_per_minute": 0}, "requests_per_minute", "must be from 1 to"),
        ({"requests_per_minute": 1_000_001}, "requests_per_minute", "must be from 1 to"),
    ],
)
async def test_what_breaks_a_rule_is_refused_by_its_field(
    service: Service, wrong: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(InvalidInput, match=rule) as refused:
        await make(service, replace(READER, **wrong))
    assert refused.value.field == field
    assert await stored(service) == []


@pytest.mark.parametrize("scope", sorted(set(Scope) - OF_CUSTOMERS))
async def test_a_key_of_a_customer_has_no_scope_that_is_about_everybody(service: Service, scope: Scope) -> None:
    for customer, agent in (("ada", None), (None, AGENT)):
        with pytest.raises(InvalidInput, match="scopes of a customer's or agent's key must be among"):
            await make(service, NewKey("shop", [Scope.BILLING_READ, scope], customer, agent))
    assert (await make(service, NewKey("office", [scope]))).key.scopes == (scope,)


# Listing


async def test_keys_come_in_pages_newest_first(service: Service, clock: TestClock) -> None:
    made = []
    for number in range(5):
        clock.advance(timedelta(seconds=number % 2))
        made.append((await make(service, replace(READER, customer="ada" if number % 2 else None))).key)
    expected = sorted(made, key=lambda key: (key.created_at, key.id), reverse=True)
    async with service.pool.connection() as conn:
        found, cursor = [], None
        while True:
            page = await service.access.keys.page(conn, cursor, 2)
            found += page.items
            if (cursor := page.next) is None:
                break
        of_ada = await service.access.keys.page(conn, None, 10, customer="ada")
    assert found == expected
    assert of_ada.items == [key for key in expected if key.customer == "ada"]


# Ending


async def test_a_key_is_revoked_once(service: Service, clock: TestClock) -> None:
    key = (await make(service)).key
    await revoke(service, key.id)
    clock.advance(WEEK)
    await revoke(service, key.id)
    async with service.pool.connection() as conn:
        assert (await service.access.keys.get(conn, key.id)).revoked_at == NOW
        assert not await service.access.keys.any_active(conn)
    with pytest.raises(NotFound):
        await revoke(service, UUID(int=1))


async def test_a_rotated_key_has_a_follower_with_its_rights(service: Service, clock: TestClock) -> None:
    wanted = NewKey("shop", [Scope.USAGE_WRITE, Scope.BILLING_READ], agent=AGENT, requests_per_minute=60)
    old = await make(service, replace(wanted, lives=timedelta(days=90)))
    clock.advance(timedelta(days=30))
    new = await rotate(service, old.key.id)
    assert new.text != old.text
    same = ("name", "customer", "agent_id", "scopes", "requests_per_minute")
    assert [getattr(new.key, name) for name in same] == [getattr(old.key, name) for name in same]
    assert new.key.expires_at == clock.now() + timedelta(days=90)
    async with service.pool.connection() as conn:
        ended = await service.access.keys.get(conn, old.key.id)
    assert (ended.expires_at, ended.replaced_by) == (clock.now() + WEEK, new.key.id)


async def test_the_overlap_makes_no_key_live_longer(service: Service, clock: TestClock) -> None:
    old = await make(service, replace(READER, lives=timedelta(days=1)))
    await rotate(service, old.key.id)
    async with service.pool.connection() as conn:
        assert (await service.access.keys.get(conn, old.key.id)).expires_at == NOW + timedelta(days=1)
    for overlap in (timedelta(seconds=-1), MAX_OVERLAP + timedelta(seconds=1)):
        with pytest.raises(InvalidInput, match="overlap must be from 0 to"):
            await rotate(service, old.key.id, overlap)


async def test_what_has_ended_has_no_follower(service: Service, clock: TestClock) -> None:
    revoked, short = await make(service), await make(service, replace(READER, lives=WEEK))
    await revoke(service, revoked.key.id)
    clock.advance(WEEK)
    for key, reason in ((revoked.key, "is revoked"), (short.key, "has expired")):
        with pytest.raises(KeyEnded, match=reason):
            await rotate(service, key.id)
    with pytest.raises(NotFound):
        await rotate(service, UUID(int=1))


async def test_of_two_rotations_at_once_one_is_told_that_it_came_late(service: Service) -> None:
    old = await make(service)
    outcomes = await asyncio.gather(*(rotate(service, old.key.id) for _ in range(4)), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Made)]
    assert len(made) == 1
    assert sum(isinstance(outcome, KeyEnded) for outcome in outcomes) == 3
    assert len(await stored(service)) == 2


async def test_a_follower_whose_text_was_lost_is_revoked_and_followed_by_another(service: Service) -> None:
    old = await make(service)
    lost = await rotate(service, old.key.id)
    with pytest.raises(KeyEnded, match="has been replaced already"):
        await rotate(service, old.key.id)
    await revoke(service, lost.key.id)
    again = (await rotate(service, old.key.id)).key
    assert (again.expires_at, again.replaced_by) == (None, None)
