"""What a process remembers of counters saves it reading, and never decides what is counted."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.metering.model import Measurement, Meter
from tallystick.metering.quantify import State, fold_of
from tallystick.metering.service import LANES
from tallystick.metering.states import (
    MAX_REMEMBERED,
    TRANSACTIONS_WITHOUT_MEMORY,
    Memory,
    Outdated,
    Standing,
    load,
    place_of,
    save,
)
from tallystick.service import Service
from tests.metering.books import MARCH, batch, create_price, fetch, measurement, put_meter, quantity, submit
from tests.metering.conftest import StartService

HOURS = Meter("hours", "counter")
STANDING = Standing(State(Decimal(1), MARCH), MARCH)


def sample(value: int, hours: int, *, sender_id: str | None = None, resource: str = "vm") -> Measurement:
    at = MARCH + timedelta(hours=hours)
    return measurement(value=value, meter="hours", resource=resource, at=at, sender_id=sender_id)


def remembered(service: Service) -> dict[bytes, Standing]:
    return service.intake._intake._directories._current.counters._standings


async def start_counting(*services: Service) -> None:
    await put_meter(services[0], HOURS)
    await create_price(services[0], "hours")
    for service in services:  # the version of the catalogue with which all that follows works
        await submit(service, measurement("somebody else"))


# One process


async def test_a_counter_goes_on_from_memory_as_it_would_from_the_database(service: Service) -> None:
    await start_counting(service)
    for hours, value in enumerate((10, 14, 14, 3, 5)):
        assert (await submit(service, sample(value, hours))).accepted == 1
        (standing,) = remembered(service).values()
        assert standing.newest == MARCH + timedelta(hours=hours)
        assert await fetch(service, "select value, at from meter_states") == [(standing.state.value, standing.state.at)]
    assert await quantity(service, "ada") == 4 + 2


async def test_what_comes_again_changes_nothing_whatever_its_time(service: Service) -> None:
    """A known id may come with a time that is newer than all that the counter has seen."""
    await start_counting(service)
    await submit(service, sample(10, 0, sender_id="a"))
    await submit(service, sample(14, 1, sender_id="b"))
    for hours in (0, 1, 2):
        receipt = await submit(service, sample(100, hours, sender_id="a"), sample(14 + hours, 5 + hours))
        assert (receipt.accepted, receipt.duplicates) == (1, 1)
    assert await quantity(service, "ada") == 4 + 2


async def test_an_older_value_that_was_never_seen_is_kept_and_counts_zero(service: Service) -> None:
    await start_counting(service)
    await submit(service, sample(10, 2))
    await submit(service, sample(12, 4))
    receipt = await submit(service, sample(90, 3), sample(15, 5), sample(11, 4))
    assert (receipt.accepted, receipt.duplicates) == (3, 0)
    assert await quantity(service, "ada") == 5


async def test_senders_that_share_a_resource_share_its_memory(service: Service) -> None:
    await start_counting(service)
    for hours, source in enumerate(("events:a", "events:b", "events:a")):
        at = MARCH + timedelta(hours=hours)
        await submit(service, measurement(value=10 + hours, meter="hours", resource="vm", at=at, source=source))
    assert len(remembered(service)) == 1
    assert await quantity(service, "ada") == 2


async def test_a_new_version_of_the_catalogue_forgets(service: Service) -> None:
    await start_counting(service)
    await submit(service, sample(10, 0))
    assert remembered(service)
    await put_meter(service, Meter("pages"))
    await submit(service, measurement("somebody else"))
    assert not remembered(service)
    await submit(service, sample(13, 1))
    assert await quantity(service, "ada") == 3


async def test_what_a_person_changed_in_the_database_is_what_counts(service: Service) -> None:
    await start_counting(service)
    await submit(service, sample(10, 0), sample(10, 0, resource="disk"))
    await submit(service, sample(12, 1), sample(12, 1, resource="disk"))
    async with service.pool.connection() as conn:
        await conn.execute("update meter_states set value = 11")
    await submit(service, sample(15, 2))
    assert await quantity(service, "ada") == 2 + 2 + 4
    await submit(service, sample(12, 2, resource="disk"))
    assert await quantity(service, "ada") == 2 + 2 + 4 + 1


# Several processes


async def test_a_process_that_was_overtaken_reads_again(service: Service, start_service: StartService) -> None:
    """Also where what it remembers would say that nothing has changed."""
    other = await start_service()
    await start_counting(service, other)
    await submit(service, sample(10, 0))
    await submit(other, sample(30, 1))
    await submit(service, sample(10, 2))  # a drop, and not the value as it was
    await submit(other, sample(14, 3))
    await submit(service, sample(15, 4))
    assert await quantity(service, "ada") == 20 + 4 + 1


async def test_a_process_that_was_misled_reads_for_a_while(service: Service, start_service: StartService) -> None:
    other = await start_service()
    await start_counting(service, other)
    await submit(service, sample(10, 0))
    await submit(other, sample(11, 1))
    assert remembered(service)
    assert remembered(other)
    for turn in range(TRANSACTIONS_WITHOUT_MEMORY):
        await submit(service, sample(12 + turn, 2 + turn))
        assert not remembered(service)
    await submit(service, sample(200, 200))
    assert remembered(service)
    assert await quantity(service, "ada") == 190


@pytest.mark.parametrize("seed", range(3))
async def test_samples_through_two_processes_count_as_through_one(
    service: Service, start_service: StartService, seed: int
) -> None:
    """Batches of several counters, some sent twice, some late; what is expected is folded here, one by one."""
    processes = (service, await start_service())
    await start_counting(*processes)
    dice, fold = random.Random(seed), fold_of(HOURS)
    states: dict[str, State] = {}
    sent: list[Measurement] = []
    expected = Decimal(0)
    for step in range(60):
        fresh = [
            sample(dice.randrange(50), 2 * step - dice.choice((0, 0, 0, 3)), sender_id=f"{step}-{number}", resource=vm)
            for number, vm in enumerate(dice.sample(("a", "b", "c", "d"), dice.randrange(1, 4)))
        ]
        again = dice.sample(sent, min(len(sent), dice.choice((0, 0, 1, 2))))
        receipt = await submit(dice.choice(processes), *fresh, *again)
        assert (receipt.accepted, receipt.duplicates) == (len(fresh), len(again))
        for each in fresh:
            told = fold(states.get(each.resource), each.value, each.at)
            states[each.resource] = told.state
            expected += told.quantity
        sent += fresh
    assert await quantity(service, "ada") == expected


# Its parts


async def test_a_state_is_written_only_over_the_one_that_it_follows(service: Service) -> None:
    here, there = place_of(UUID(int=1), UUID(int=2)), place_of(UUID(int=1), UUID(int=3))
    first, second, third, last = (State(Decimal(value), MARCH + timedelta(hours=value)) for value in range(1, 5))
    async with service.pool.connection() as conn, conn.transaction(force_rollback=True):
        await save(conn, {}, {here: first, there: first}, [])
        await save(conn, {here: first, there: first}, {here: second, there: first}, [there])
        assert await load(conn, [here, there]) == {here: second, there: first}
        for before in (first, third, State(second.value, first.at), State(first.value, second.at)):
            with pytest.raises(Outdated):
                await save(conn, {here: before}, {here: last}, [])
            with pytest.raises(Outdated):
                await save(conn, {here: before}, {here: before}, [here])
        assert await load(conn, [here, there]) == {here: second, there: first}


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 5)))))
def test_memory_gives_to_one_only_what_was_put_back(story: list[tuple[bool, set[int]]]) -> None:
    memory, expected = Memory(), set[bytes]()
    for puts, numbers in story:
        places = {bytes([number]) for number in numbers}
        if puts:
            memory.put(dict.fromkeys(places, STANDING))
            expected |= places
        else:
            assert memory.take(places).keys() == places & expected
            expected -= places


def test_memory_is_bounded() -> None:
    memory = Memory()
    memory.put({number.to_bytes(4): STANDING for number in range(MAX_REMEMBERED)})
    memory.put({b"one more": STANDING})
    assert memory.take([bytes(4), b"one more"]).keys() == {b"one more"}


# Lanes


async def test_lanes_share_no_stripe_once_their_customers_are_known(service: Service) -> None:
    await start_counting(service)
    samples = [
        measurement(f"customer-{number}", number, meter="hours", resource="vm", at=MARCH) for number in range(300)
    ]
    await service.intake.submit(batch(samples))
    ids = dict(await fetch(service, "select key, id from customers"))
    parts = service.intake._split(batch(samples))
    stripes = [{ids[each.customer].int % 64 for each in part.measurements} for part in parts]
    assert len(parts) == LANES
    assert all(stripes)
    assert sum(map(len, stripes)) == len(set.union(*stripes))
