"""How keys are found, and that nothing which is remembered outlives what it was remembered of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tallystick.access import directory as directory_module
from tallystick.access.callers import Scope
from tallystick.access.directory import KeyDirectory
from tallystick.access.model import NewKey
from tallystick.access.service import Made
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Overloaded, TallyError
from tallystick.service import Service
from tests.access.conftest import AGENT, NOW, make
from tests.waiting import until

READER = NewKey("shop", [Scope.BILLING_READ])
BOTS = replace(READER, agent=AGENT)


@pytest.fixture
async def listening(service: Service) -> AsyncIterator[KeyDirectory]:
    """The service's directory, which hears of changes."""
    keys = service.access.directory
    async with keys.running():
        await until(lambda: _remembers(keys))
        yield keys


async def _remembers(keys: KeyDirectory) -> bool:
    return keys._may_remember()


async def verdict(keys: KeyDirectory, text: str) -> str:
    """``found``, or the code of the refusal."""
    try:
        await keys.caller(text)
    except TallyError as error:
        return error.code
    return "found"


async def execute(service: Service, *statements: str) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        for statement in statements:
            await conn.execute(statement)


async def silently(service: Service, statement: str) -> None:
    """Changes keys without telling anybody, so that it shows who remembers and who asks."""
    mute, aloud = (f"alter table api_keys {what} trigger user" for what in ("disable", "enable"))
    await execute(service, mute, statement, aloud)


@asynccontextmanager
async def no_connection_left(service: Service) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Meanwhile whoever asks the database waits, until it is told that connections are free again."""
    async with AsyncExitStack() as taken:
        for _ in range(service.pool.max_size):
            await taken.enter_async_context(service.pool.connection())
        yield taken.aclose


REVOKE = "update api_keys set revoked_at = now()"
LOSE_THE_LISTENER = """
select pg_terminate_backend(pid) from pg_stat_activity
where query ~ '^(listen|select$)' and datname = current_database() and pid <> pg_backend_pid()"""
RESTORE = "update api_keys set revoked_at = null"


# What is found


async def test_a_key_is_found_with_whoever_holds_it(service: Service) -> None:
    keys = service.access.directory
    operators, adas, bots = [await make(service, new) for new in (READER, replace(READER, customer="ada"), BOTS)]
    assert (await keys.caller(operators.text)).sender is None
    caller = await keys.caller(bots.text)
    assert caller.id == bots.key.id
    assert caller.scopes == {Scope.BILLING_READ}
    assert caller.sender is not None
    assert (caller.sender.customer, caller.sender.agent_id) == ("ada", bots.key.agent_id)
    of_ada = (await keys.caller(adas.text)).sender
    assert of_ada is not None
    assert (of_ada.customer_id, of_ada.agent_id) == (caller.sender.customer_id, None)


async def test_whoever_does_not_have_all_of_it_is_told_nothing(service: Service) -> None:
    keys, made = service.access.directory, await make(service)
    almost = made.text[:-1] + ("a" if made.text[-1] != "a" else "b")
    other = (await make(service)).text
    await execute(service, REVOKE)
    swapped = made.text[: -len("x" * 43)] + other[-43:]
    for text in (almost, swapped, made.text[:-1], made.text + "a", "tally__", "", "shop", "\udcff", "ü" * 100):
        assert await verdict(keys, text) == "key_refused"
    assert await verdict(keys, made.text) == "key_revoked"


async def test_a_key_works_until_its_time_is_over(service: Service, clock: TestClock) -> None:
    keys, made = service.access.directory, await make(service, replace(READER, lives=timedelta(hours=1)))
    clock.advance(timedelta(minutes=59))
    assert await verdict(keys, made.text) == "found"
    clock.advance(timedelta(minutes=1))
    assert await verdict(keys, made.text) == "key_expired"


Change = Callable[[Service, Made], Awaitable[Any]]


async def _block(service: Service, made: Made) -> None:
    assert made.key.agent_id is not None
    async with service.pool.connection() as conn, conn.transaction():
        await service.accounts.block(conn, made.key.agent_id)


async def _delete_agent(service: Service, made: Made) -> None:
    assert made.key.agent_id is not None
    async with service.pool.connection() as conn, conn.transaction():
        await service.accounts.delete_agent(conn, made.key.agent_id)


async def _delete_customer(service: Service, made: Made) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await service.accounts.delete(conn, (await service.customers.get(conn, "ada")).id)


async def _erase(service: Service, made: Made) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await service.accounts.erase(conn)


async def _revoke(service: Service, made: Made) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await service.access.keys.revoke(conn, made.key.id)


CHANGES: dict[str, tuple[Change, str]] = {
    "block": (_block, "agent_blocked"),
    "delete agent": (_delete_agent, "agent_deleted"),
    "delete customer": (_delete_customer, "customer_deleted"),
    "erase": (_erase, "customer_deleted"),
    "revoke": (_revoke, "key_revoked"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_while_nobody_listens_a_change_holds_from_its_commit_on(service: Service, change: str) -> None:
    keys, made = service.access.directory, await make(service, BOTS)
    assert await verdict(keys, made.text) == "found"
    carry_out, code = CHANGES[change]
    await carry_out(service, made)
    assert await verdict(keys, made.text) == code


@pytest.mark.parametrize("change", CHANGES)
async def test_whoever_listens_hears_of_each_change(service: Service, listening: KeyDirectory, change: str) -> None:
    made = await make(service, BOTS)
    assert await verdict(listening, made.text) == "found"
    carry_out, code = CHANGES[change]
    await carry_out(service, made)
    await until(lambda: _says(listening, made.text, code))


async def _says(keys: KeyDirectory, text: str, code: str) -> bool:
    return await verdict(keys, text) == code


async def test_an_agent_with_another_address_is_known_by_it(service: Service, listening: KeyDirectory) -> None:
    made = await make(service, BOTS)
    assert await verdict(listening, made.text) == "found"
    assert made.key.agent_id is not None
    async with service.pool.connection() as conn, conn.transaction():
        await service.accounts.change_agent(conn, made.key.agent_id, "robot@example.org", None)
    await until(lambda: _is_known_as(listening, made.text, "robot@example.org"))


async def _is_known_as(keys: KeyDirectory, text: str, email: str) -> bool:
    sender = (await keys.caller(text)).sender
    return sender is not None and sender.is_agent(email)


async def test_an_agent_that_is_unblocked_has_its_key_again(service: Service, listening: KeyDirectory) -> None:
    made = await make(service, BOTS)
    await _block(service, made)
    await until(lambda: _says(listening, made.text, "agent_blocked"))
    assert made.key.agent_id is not None
    async with service.pool.connection() as conn, conn.transaction():
        await service.accounts.unblock(conn, made.key.agent_id)
    await until(lambda: _says(listening, made.text, "found"))


async def test_what_is_rolled_back_is_told_to_nobody(service: Service, listening: KeyDirectory) -> None:
    made = await make(service)
    async with service.pool.connection() as conn, conn.transaction(force_rollback=True):
        await service.access.keys.revoke(conn, made.key.id)
    assert await verdict(listening, made.text) == "found"


# What is remembered


async def made_and_heard_of(service: Service, keys: KeyDirectory, number: int = 1) -> list[Made]:
    """New keys, of which each was told once: from here on nothing is told that the test does not do."""
    before = keys._generation
    made = [await make(service) for _ in range(number)]
    await until(lambda: _has_heard(keys, before + number))
    return made


async def _has_heard(keys: KeyDirectory, generation: int) -> bool:
    return keys._generation == generation


async def test_a_key_is_remembered(service: Service, listening: KeyDirectory) -> None:
    (made,) = await made_and_heard_of(service, listening)
    assert await verdict(listening, made.text) == "found"
    await silently(service, REVOKE)
    assert await verdict(listening, made.text) == "found"
    listening.forget()
    assert await verdict(listening, made.text) == "key_revoked"


async def test_what_was_looked_up_before_a_change_was_told_is_not_remembered(
    service: Service, listening: KeyDirectory
) -> None:
    (made,) = await made_and_heard_of(service, listening)
    async with no_connection_left(service) as release:
        looking = asyncio.create_task(verdict(listening, made.text))
        await until(lambda: _is_looking(listening))
        listening.forget()  # as a notification does
        await release()
        assert await looking == "found"
    await silently(service, REVOKE)
    assert await verdict(listening, made.text) == "key_revoked"


async def _is_looking(keys: KeyDirectory) -> bool:
    return keys._waiting > 0


async def test_whose_listener_is_lost_remembers_nothing_until_there_is_another(
    service: Service, listening: KeyDirectory
) -> None:
    (made,) = await made_and_heard_of(service, listening)
    assert await verdict(listening, made.text) == "found"
    await silently(service, REVOKE)
    assert await verdict(listening, made.text) == "found"
    await execute(service, LOSE_THE_LISTENER)
    await until(lambda: _says(listening, made.text, "key_revoked"))
    await until(lambda: _remembers(listening))
    await silently(service, RESTORE)
    listening.forget()
    assert await verdict(listening, made.text) == "found"
    await silently(service, REVOKE)
    assert await verdict(listening, made.text) == "found", "it remembers again"


async def test_whose_listener_cannot_come_back_asks_at_every_request(
    service: Service, listening: KeyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = await made_and_heard_of(service, listening)
    assert await verdict(listening, made.text) == "found"
    monkeypatch.setattr(listening, "_url", "postgresql:///nowhere?host=/nonexistent")
    monkeypatch.setattr(listening, "_trusted_until", math.inf)  # it is the loss that counts here, not the time
    await silently(service, REVOKE)
    await execute(service, LOSE_THE_LISTENER)
    await until(lambda: _says(listening, made.text, "key_revoked"))
    for statement, code in ((RESTORE, "found"), (REVOKE, "key_revoked"), (RESTORE, "found")):
        await silently(service, statement)
        assert await verdict(listening, made.text) == code


async def test_a_process_that_stood_still_trusts_nothing_that_it_remembers(
    service: Service, listening: KeyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = await made_and_heard_of(service, listening)
    assert await verdict(listening, made.text) == "found"
    await silently(service, REVOKE)
    assert await verdict(listening, made.text) == "found"
    monkeypatch.setattr(listening, "_trusted_until", 0.0)
    assert await verdict(listening, made.text) == "key_revoked"


async def test_only_so_many_are_remembered(
    service: Service, listening: KeyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_REMEMBERED", 2)
    made = await made_and_heard_of(service, listening, 3)
    for one in made:
        assert await verdict(listening, one.text) == "found"
    assert len(listening._remembered) == 1
    await silently(service, REVOKE)
    assert [await verdict(listening, one.text) for one in reversed(made)] == ["found", "key_revoked", "key_revoked"]


async def test_strangers_wait_for_each_other_and_not_without_end(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "MAX_LOOKUPS_WAITING", 3)
    keys, made = service.access.directory, await make(service)
    async with no_connection_left(service) as release:
        looking = [asyncio.create_task(verdict(keys, made.text)) for _ in range(3)]
        await until(lambda: _waits(keys, 3))
        with pytest.raises(Overloaded):
            await keys.caller(made.text)
        await release()
        assert [await one for one in looking] == ["found"] * 3


async def _waits(keys: KeyDirectory, number: int) -> bool:
    return keys._waiting == number


async def test_whether_there_are_keys(service: Service, listening: KeyDirectory) -> None:
    assert not await listening.are_there()
    made = await make(service)
    await until(listening.are_there)
    await _revoke(service, made)
    await until(lambda: _are_none(listening))


async def _are_none(keys: KeyDirectory) -> bool:
    return not await keys.are_there()


async def test_a_customer_is_found_by_key_and_by_id_until_it_is_deleted(
    service: Service, listening: KeyDirectory
) -> None:
    by_key = await listening.customer("ada")
    assert by_key is not None
    assert await listening.customer(str(by_key.customer_id)) == by_key
    assert await listening.customer("nobody") is None
    await _delete_customer(service, await make(service))
    await until(lambda: _is_gone(listening, "ada"))
    assert await listening.customer(str(by_key.customer_id)) is None


async def _is_gone(keys: KeyDirectory, name: str) -> bool:
    return await keys.customer(name) is None


# When it was used


async def test_when_keys_were_last_used_is_written_together(service: Service, clock: TestClock) -> None:
    keys, made = service.access.directory, [await make(service) for _ in range(3)]
    for one in made[:2]:
        assert await verdict(keys, one.text) == "found"
    clock.advance(timedelta(seconds=30))
    assert await verdict(keys, made[0].text) == "found"
    generation = keys._generation
    await keys.note_use()
    await keys.note_use()
    async with service.pool.connection() as conn:
        used = [(await service.access.keys.get(conn, one.key.id)).last_used_at for one in made]
    assert used == [NOW + timedelta(seconds=30), NOW, None]
    assert keys._generation == generation


async def test_what_is_refused_is_no_use(service: Service) -> None:
    keys, made = service.access.directory, await make(service)
    await execute(service, REVOKE)
    assert await verdict(keys, made.text) == "key_revoked"
    await keys.note_use()
    async with service.pool.connection() as conn:
        assert (await service.access.keys.get(conn, made.key.id)).last_used_at is None


async def test_use_is_written_when_the_service_ends(service: Service) -> None:
    keys, made = service.access.directory, await make(service)
    async with keys.running():
        assert await verdict(keys, made.text) == "found"
    async with service.pool.connection() as conn:
        assert (await service.access.keys.get(conn, made.key.id)).last_used_at == NOW
