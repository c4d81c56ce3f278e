"""Who is told what, who sends it, and what comes after an attempt."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.database.pool import Pool
from tallystick.kernel.errors import InvalidInput
from tallystick.outbox.catalogue import CATALOGUE
from tallystick.outbox.messages import cloud_event
from tallystick.outbox.model import EVERYBODY
from tallystick.outbox.service import take
from tallystick.outbox.webhooks import queue
from tallystick.outbox.webhooks.queue import (
    JITTER,
    LONGEST_PAUSE_SECONDS,
    PAUSES_SECONDS,
    Claimed,
    Outcome,
    pause_seconds,
)
from tallystick.outbox.webhooks.service import check_types
from tests.outbox.endpoints import Room
from tests.outbox.events import event

ATTEMPTS = len(PAUSES_SECONDS) + 1
GOOD = Outcome(200, None, 12)
BAD = Outcome(500, "it answered 500", 34)


@pytest.fixture
def room(pool: Pool) -> Room:
    return Room(pool)


async def note(room: Room, claimed: Claimed, outcome: Outcome) -> None:
    async with room.pool.connection() as conn, conn.transaction():
        await room.webhooks.note(conn, claimed, outcome)


# Who is told


def test_a_type_fits_its_name_its_patterns_and_everything() -> None:
    assert queue.patterns_of("account.created") == ["*", "account.*", "account.created"]
    assert queue.patterns_of("a.b.c") == ["*", "a.*", "a.b.*", "a.b.c"]


async def test_an_endpoint_is_told_what_it_asked_for(room: Room) -> None:
    asked = {
        "all": await room.endpoint("https://a.example/", "*"),
        "accounts": await room.endpoint("https://a.example/", "account.*", "account.created"),
        "changes": await room.endpoint("https://a.example/", "account.changed"),
        "agents": await room.endpoint("https://a.example/", "agent.*"),
    }
    ada = await room.customer("ada")
    created = replace(event(1, ada), type="account.created")
    await room.tell(created, event(2, ada))
    told = {name: {d.event_id.int for d in await room.deliveries(asked[name])} for name in asked}
    assert told == {"all": {1, 2}, "accounts": {1, 2}, "changes": {2}, "agents": set()}


async def test_a_customers_endpoint_hears_of_that_customer_only(room: Room) -> None:
    ada, bob = await room.customer("ada"), await room.customer("bob")
    of_ada, of_all = await room.endpoint(customer="ada"), await room.endpoint()
    await room.tell(event(1, ada), event(2, bob), event(3, EVERYBODY))
    assert {d.event_id.int for d in await room.deliveries(of_ada)} == {1}
    assert {d.event_id.int for d in await room.deliveries(of_all)} == {1, 2, 3}


async def test_what_is_sent_is_the_document_that_the_broker_gets(room: Room) -> None:
    await room.endpoint()
    ada = await room.customer("ada")
    await room.tell(event(1, ada), event(2, EVERYBODY))
    bodies = {claimed.event_id.int: claimed.body for claimed in [*await room.claim(), *await room.claim()]}
    assert json.loads(bodies[1]) == cloud_event(event(1, ada))
    assert "subject" not in json.loads(bodies[2])


async def test_the_same_fact_is_told_once(room: Room) -> None:
    endpoint = await room.endpoint()
    ada = await room.customer("ada")
    await room.tell(event(1, ada))
    await room.tell(event(1, ada), event(1, ada))
    assert len(await room.deliveries(endpoint)) == 1


async def test_an_event_shares_the_fate_of_its_cause(room: Room) -> None:
    endpoint = await room.endpoint()
    ada = await room.customer("ada")
    async with room.pool.connection() as conn, conn.transaction(force_rollback=True):
        await room.outbox.tell(conn, [event(1, ada)])
    assert await room.deliveries(endpoint) == []


async def test_who_is_disabled_is_told_nothing(room: Room) -> None:
    endpoint = await room.endpoint()
    await room.run("update webhook_endpoints set disabled_at = now(), disabled_because = 'by request'")
    await room.tell(event(1, await room.customer("ada")))
    assert await room.deliveries(endpoint) == []


@pytest.mark.parametrize("broker", [False, True])
async def test_broker_and_webhooks_have_their_own_ways(pool: Pool, broker: bool) -> None:
    """Neither waits for the other, and what is for one is not written for the other."""
    room = Room(pool, broker=broker)
    endpoint = await room.endpoint()
    told = event(1, await room.customer("ada"))
    await room.tell(told)
    async with pool.connection() as conn, conn.transaction():
        assert await take(conn, 10) == ([told] if broker else [])
    assert [claimed.event_id for claimed in await room.claim()] == [told.id]
    assert len(await room.deliveries(endpoint)) == 1


async def test_for_nobody_nothing_is_written(pool: Pool) -> None:
    """And nothing is asked of the database: this connection would not let it."""
    room = Room(pool)
    async with pool.connection() as conn:
        await room.webhooks.look(conn)
        assert not room.outbox.is_on
        await conn.execute("set statement_timeout = '1ms'")
        async with conn.transaction():
            await conn.execute("set local search_path = 'nowhere'")
            await room.outbox.tell(conn, [event(1)])
        await conn.execute("reset statement_timeout")


async def test_a_process_learns_of_endpoints_that_others_make(pool: Pool) -> None:
    here, elsewhere = Room(pool), Room(pool)
    endpoint = await elsewhere.endpoint()
    assert (here.outbox.is_on, elsewhere.outbox.is_on) == (False, True)
    async with pool.connection() as conn:
        await here.webhooks.look(conn)
        assert here.outbox.is_on
        await here.webhooks.delete(conn, endpoint, None)
        await here.webhooks.look(conn)
        assert not here.outbox.is_on


def test_every_type_of_the_catalogue_can_be_asked_for_and_no_other() -> None:
    everything = [pattern for name in CATALOGUE for pattern in queue.patterns_of(name)]
    for pattern in everything:
        assert check_types([pattern, pattern]) == [pattern]
    for wrong in ("acount.*", "account", "account.", "*.created", "account.created.*", "ACCOUNT.CREATED", "", "a b"):
        with pytest.raises(InvalidInput, match=r"^types must be names of events"):
            check_types(["*", wrong])


# Who sends it


async def test_what_one_has_claimed_is_its_own(room: Room) -> None:
    await room.endpoint()
    ada = await room.customer("ada")
    await room.tell(*[event(number, ada) for number in range(20)])
    rounds = await asyncio.gather(*[room.claim() for _ in range(20)])
    rounds += [await room.claim() for _ in range(20)]
    claimed = [each.event_id.int for some in rounds for each in some]
    assert sorted(claimed) == list(range(20))


async def test_each_endpoint_has_its_turn(room: Room) -> None:
    """However much waits for another one."""
    ada, bob = await room.customer("ada"), await room.customer("bob")
    busy, idle = await room.endpoint(customer="ada"), await room.endpoint(customer="bob")
    await room.tell(*[event(number, ada) for number in range(50)], event(99, bob))
    assert {each.endpoint_id for each in await room.claim()} == {busy, idle}
    assert {each.endpoint_id for each in await room.claim(full=(busy,))} == set()
    assert len(await room.claim(limit=0)) == 0


async def test_those_that_fail_have_a_lane_of_their_own(room: Room) -> None:
    ada = await room.customer("ada")
    well, ill = await room.endpoint(), await room.endpoint()
    await room.run("update webhook_endpoints set failing_since = now() where id = %s", ill)
    await room.tell(event(1, ada))
    assert [each.endpoint_id for each in await room.claim()] == [well]
    assert [each.endpoint_id for each in await room.claim(failing=True)] == [ill]


async def test_what_a_dead_worker_had_claimed_is_claimed_again_after_its_lease(room: Room) -> None:
    await room.endpoint()
    await room.tell(event(1, await room.customer("ada")))
    (first,) = await room.claim()
    assert await room.claim() == []
    await room.hurry()
    (again,) = await room.claim()
    assert (again.event_id, first.attempt, again.attempt) == (first.event_id, 1, 2)


async def test_who_notes_after_another_has_begun_changes_nothing(room: Room) -> None:
    endpoint = await room.endpoint()
    await room.tell(event(1, await room.customer("ada")))
    (late,) = await room.claim()
    await room.hurry()
    (now,) = await room.claim()
    await note(room, late, BAD)
    (delivery,) = await room.deliveries(endpoint)
    assert (delivery.attempts, delivery.status, delivery.error) == (2, None, None)
    await note(room, now, GOOD)
    await note(room, late, BAD)
    (delivery,) = await room.deliveries(endpoint)
    assert (delivery.state, delivery.status) == ("delivered", 200)


async def test_it_is_signed_with_both_secrets_until_the_overlap_ends(room: Room) -> None:
    endpoint = await room.endpoint()
    ada = await room.customer("ada")
    async with room.pool.connection() as conn, conn.transaction():
        _, secret = await room.webhooks.rotate(conn, endpoint, None, 24)
    await room.tell(event(1, ada))
    (claimed,) = await room.claim()
    assert (claimed.keys[0], len(claimed.keys)) == (secret, 2)
    await room.run("update webhook_endpoints set former_until = now()")
    await room.tell(event(2, ada))
    (claimed,) = await room.claim()
    assert claimed.keys == (secret,)


# What comes after


@given(st.integers(1, ATTEMPTS - 1), st.integers(0, 10**9))
def test_pauses_follow_the_schedule_and_are_never_too_long(attempt: int, asked: int) -> None:
    pause = pause_seconds(attempt, asked)
    scheduled = PAUSES_SECONDS[attempt - 1]
    assert pause is not None
    assert min(LONGEST_PAUSE_SECONDS, max(scheduled, asked)) <= pause
    assert pause <= max(min(asked, LONGEST_PAUSE_SECONDS), scheduled) + scheduled // JITTER


def test_after_the_last_attempt_there_is_none() -> None:
    assert pause_seconds(ATTEMPTS) is None
    assert sum(PAUSES_SECONDS) > 3 * 24 * 3600


async def test_a_failure_is_tried_again_until_it_is_given_up(room: Room) -> None:
    endpoint = await room.endpoint()
    await room.tell(event(1, await room.customer("ada")))
    for attempt in range(1, ATTEMPTS + 1):
        (claimed,) = await room.claim(failing=attempt > 1)
        assert claimed.attempt == attempt
        await note(room, claimed, BAD)
        await room.hurry()
    (delivery,) = await room.deliveries(endpoint)
    assert (delivery.state, delivery.attempts) == ("failed", ATTEMPTS)
    assert (delivery.status, delivery.error, delivery.duration_ms) == (500, "it answered 500", 34)
    assert await room.claim(failing=True) == []


async def test_a_success_ends_it_and_forgives_what_was_before(room: Room) -> None:
    endpoint = await room.endpoint()
    await room.tell(event(1, await room.customer("ada")))
    await note(room, (await room.claim())[0], BAD)
    assert (await room.get(endpoint)).failing_since is not None
    (waiting,) = await room.deliveries(endpoint)
    assert waiting.due_at is not None
    assert waiting.tried_at is not None
    assert waiting.due_at > waiting.tried_at
    await room.hurry()
    await note(room, (await room.claim(failing=True))[0], GOOD)
    assert (await room.get(endpoint)).failing_since is None
    (delivery,) = await room.deliveries(endpoint)
    assert (delivery.state, delivery.attempts, delivery.error) == ("delivered", 2, None)


async def test_who_fails_for_days_is_disabled_and_that_is_told(pool: Pool) -> None:
    room = Room(pool, broker=True)
    ada = await room.customer("ada")
    ill, other, of_all = await room.endpoint(customer="ada"), await room.endpoint(customer="ada"), await room.endpoint()
    await room.run("update webhook_endpoints set failing_since = now() - interval '5 days' where id = %s", ill)
    await room.tell(event(1, ada))
    (claimed,) = await room.claim(failing=True)
    await note(room, claimed, BAD)
    endpoint = await room.get(ill)
    assert (endpoint.state, endpoint.disabled_because) == ("disabled", "it took nothing for 5 days")
    for told in (other, of_all):
        assert {delivery.type for delivery in await room.deliveries(told)} == {"account.changed", "webhook.disabled"}
    async with pool.connection() as conn, conn.transaction():
        _, notice = await take(conn, 10) or []
    assert (notice.type, notice.subject.key, notice.data["id"]) == ("webhook.disabled", "ada", str(ill))
    shown = CATALOGUE["webhook.disabled"].data
    assert {name: type(value) for name, value in notice.data.items()} == {n: type(v) for n, v in shown.items()}
    await note(room, claimed, BAD)
    assert len(await room.deliveries(of_all)) == 2


async def test_who_fails_for_less_than_that_is_not_disabled(room: Room) -> None:
    endpoint = await room.endpoint()
    await room.run("update webhook_endpoints set failing_since = now() - interval '4 days 23 hours'")
    await room.tell(event(1, await room.customer("ada")))
    await note(room, (await room.claim(failing=True))[0], BAD)
    assert (await room.get(endpoint)).state == "enabled"


async def test_who_is_gone_is_disabled_at_once(room: Room) -> None:
    gone, other = await room.endpoint(), await room.endpoint()
    ada = await room.customer("ada")
    await room.tell(event(1, ada), event(2, ada))
    (claimed,) = [each for each in await room.claim() if each.endpoint_id == gone]
    await note(room, claimed, Outcome(410, "it answered 410", 5))
    endpoint = await room.get(gone)
    assert (endpoint.state, endpoint.disabled_because) == ("disabled", "it answered 410")
    assert await room.states(gone) == {"failed": 1, "waiting": 1}
    assert {each.endpoint_id for each in await room.claim()} == {other}
    (notice,) = [delivery for delivery in await room.deliveries(other) if delivery.type == "webhook.disabled"]
    assert notice.event_id != UUID(int=0)
