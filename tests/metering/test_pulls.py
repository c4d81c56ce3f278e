"""Pulls: whatever Prometheus has is asked for and counts once, wherever one of them was stopped, late or early."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import cast

import psycopg
import pytest
from structlog.testing import capture_logs

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Overloaded
from tallystick.metering import pulls as module
from tallystick.metering.model import Batch, Meter, Receipt
from tallystick.metering.pulls import Plan, Progress, Pulls
from tallystick.metering.series import OPENSTACK, Rule, SeriesMap, parse_selector
from tallystick.metering.service import SUBMIT_ATTEMPTS, IntakeQueue
from tallystick.metering.sources import prometheus_query
from tallystick.metering.sources.prometheus import Reader
from tallystick.metering.sources.prometheus_query import PrometheusRefuses, PrometheusUnavailable
from tallystick.service import Service
from tests.doubles.prometheus_api import Fault, PrometheusApi, success
from tests.metering.books import balance, fetch, put_meter, quantity
from tests.metering.conftest import NOW
from tests.waiting import until_anybody_waits

HOUR = timedelta(hours=1)
MIDNIGHT = NOW - 12 * HOUR
BUSY: Fault = (503, {"Retry-After": "30"}, b"")

VCPU_HOURS = json.dumps({"__name__": "project_vcpu_usage", "location_id": "8676", "project_name": "p"})
REQUESTS = "sum by (team) (increase(requests_total[1h]))"
DELTAS = Rule("requests_total", parse_selector("requests_total"), "requests", "team", query=REQUESTS)


def counter(query: str, second: int) -> dict[str, str | None]:
    """Ten vCPU hours in every hour since midnight."""
    hours = (second - int(MIDNIGHT.timestamp())) / 3600
    return {VCPU_HOURS: f"{10 * hours:g}"} if query == "project_vcpu_usage" else {}


def deltas(query: str, second: int) -> dict[str, str | None]:
    """Each hour one request of ``early``; one of ``late`` too, once Prometheus knows it."""
    return {json.dumps({"team": team}): "1" for team in ("early", "late")} if query == REQUESTS else {}


@pytest.fixture
def api() -> Iterator[PrometheusApi]:
    with PrometheusApi(counter) as started:
        yield started


@pytest.fixture
def plan(api: PrometheusApi) -> Plan:
    return Plan(api.url, None, step=HOUR, overlap=2 * HOUR, since=MIDNIGHT)


def pulls_of(service: Service, plan: Plan | None, *rules: Rule, intake: IntakeQueue | None = None) -> Pulls:
    reader = Reader(SeriesMap(rules or OPENSTACK))
    return Pulls(service.pool, service.clock, intake or service.intake, reader, plan)


async def place(service: Service) -> Progress:
    async with service.pool.connection() as conn:
        (progress,) = await service.pulls.all(conn)
    return progress


def asked_hours(api: PrometheusApi, query: str = "project_vcpu_usage") -> list[tuple[int, int]]:
    """First and last hour since midnight of each question; it forgets them."""
    asked = [each for each in api.asked if each["query"] == query]
    api.asked.clear()
    first = int(MIDNIGHT.timestamp())
    return [((int(each["start"]) - first) // 3600, (int(each["end"]) - first) // 3600) for each in asked]


async def measurements(service: Service) -> int:
    ((count,),) = await fetch(service, "select count(*) from measurements")
    return int(count)


async def test_everything_since_the_beginning_is_recorded_and_charged(
    service: Service, api: PrometheusApi, plan: Plan
) -> None:
    await pulls_of(service, plan).catch_up()
    assert (await balance(service, "p")).used == 110 * 1_000_000  # the hour of 12:00 has not settled yet
    assert asked_hours(api) == [(0, 11)]
    assert await place(service) == Progress("prometheus", MIDNIGHT, NOW, 3600, NOW)


async def test_the_next_pull_goes_on_and_asks_again_for_a_while(
    service: Service, api: PrometheusApi, plan: Plan, clock: TestClock
) -> None:
    pulls = pulls_of(service, plan)
    await pulls.catch_up()
    clock.advance(timedelta(minutes=5))
    await pulls.catch_up()
    assert asked_hours(api) == [(0, 11), (10, 12)]
    assert await measurements(service) == 13
    assert (await balance(service, "p")).used == 120 * 1_000_000
    assert await place(service) == Progress("prometheus", MIDNIGHT, NOW + HOUR, 3600, clock.now())
    await pulls.catch_up()
    assert asked_hours(api) == [(11, 12)], "no hour has ended since"
    assert await measurements(service) == 13


async def test_days_of_being_away_are_caught_up_with(
    service: Service, api: PrometheusApi, plan: Plan, clock: TestClock
) -> None:
    await pulls_of(service, plan).catch_up()
    clock.advance(timedelta(days=5, minutes=5))
    await pulls_of(service, plan).catch_up()
    assert asked_hours(api) == [(0, 11), (10, 132)]
    assert (await balance(service, "p")).used == 1320 * 1_000_000


async def test_who_dies_before_the_place_moves_counts_nothing_twice(
    service: Service, api: PrometheusApi, plan: Plan, database_url: str
) -> None:
    """What is recorded and the place are two transactions; here the second one does not come."""
    await put_meter(service, Meter("requests"))
    pulls = pulls_of(service, plan, DELTAS)
    with psycopg.connect(database_url) as keeper:

        def keep_the_place(query: str, second: int) -> dict[str, str | None]:
            keeper.execute("select from pulls for update")
            return deltas(query, second)

        api.value = keep_the_place
        dying = asyncio.create_task(pulls.catch_up())
        async with service.pool.connection() as watching:
            await until_anybody_waits(watching)
        dying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await dying
    assert await measurements(service) == 24
    assert (await place(service)).until == MIDNIGHT
    api.value = deltas
    await pulls.catch_up()
    assert await measurements(service) == 24
    assert await quantity(service, "early") == 12
    assert (await place(service)).until == NOW


async def test_two_at_once_count_once(service: Service, api: PrometheusApi, plan: Plan) -> None:
    api.value = deltas
    await put_meter(service, Meter("requests"))
    await asyncio.gather(*(pulls_of(service, plan, DELTAS).catch_up() for _ in range(3)))
    assert await quantity(service, "early") == await quantity(service, "late") == 12
    assert (await place(service)).until == NOW


async def test_what_comes_late_to_prometheus_is_found_within_the_overlap(
    service: Service, api: PrometheusApi, plan: Plan, clock: TestClock
) -> None:
    known: set[str] = {"early"}

    def some(query: str, second: int) -> dict[str, str | None]:
        return {labels: value for labels, value in deltas(query, second).items() if json.loads(labels)["team"] in known}

    api.value = some
    await put_meter(service, Meter("requests"))
    pulls = pulls_of(service, plan, DELTAS)
    await pulls.catch_up()
    known.add("late")
    clock.advance(HOUR)
    await pulls.catch_up()
    assert await quantity(service, "early") == 13
    assert await quantity(service, "late") == 3, "the new hour, and the two before it"


async def test_it_is_never_asked_for_what_lies_before_the_beginning(
    service: Service, api: PrometheusApi, plan: Plan
) -> None:
    pulls = pulls_of(service, replace(plan, since=NOW - HOUR))
    await pulls.catch_up()
    await pulls.catch_up()
    assert asked_hours(api) == [(11, 11), (11, 11)]


async def test_without_a_beginning_it_is_when_somebody_first_looked(
    service: Service, api: PrometheusApi, plan: Plan, clock: TestClock
) -> None:
    clock.advance(timedelta(minutes=20))
    pulls = pulls_of(service, replace(plan, since=None))
    await pulls.begin()
    clock.advance(timedelta(minutes=45))
    await pulls.begin()
    await pulls.catch_up()
    assert asked_hours(api) == [(13, 13)]
    assert (await place(service)).since == NOW + timedelta(minutes=20)


async def test_a_beginning_that_is_changed_later_changes_nothing(
    service: Service, api: PrometheusApi, plan: Plan
) -> None:
    await pulls_of(service, plan).begin()
    await pulls_of(service, replace(plan, since=NOW)).catch_up()
    assert asked_hours(api) == [(0, 11)]


async def test_with_another_step_nothing_is_asked_for_that_was_told(
    service: Service, api: PrometheusApi, plan: Plan, clock: TestClock
) -> None:
    """Its instants have other ids: deltas would count again."""
    await pulls_of(service, plan).catch_up()
    asked_hours(api)
    clock.advance(HOUR)
    finer = pulls_of(service, replace(plan, step=HOUR / 4))
    await finer.catch_up()
    assert {(each["start"], each["step"]) for each in api.asked} == {(str(int(NOW.timestamp())), "900")}
    assert (await place(service))[1:4] == (NOW, NOW + HOUR, 900)


async def test_a_prometheus_that_is_away_harms_nothing_and_loses_nothing(
    service: Service, api: PrometheusApi, plan: Plan, clock: TestClock
) -> None:
    pulls = pulls_of(service, plan)
    await pulls.catch_up()
    asked_hours(api)
    api.faults = [BUSY]
    clock.advance(3 * HOUR)
    with pytest.raises(PrometheusUnavailable) as failed:
        await pulls.catch_up()
    assert failed.value.detail == "Prometheus answered 503", "asked once: the queue of jobs knows when to try again"
    assert (await place(service)).until == NOW
    await pulls.catch_up()
    assert (await balance(service, "p")).used == 140 * 1_000_000
    gone = pulls_of(service, replace(plan, url="http://127.0.0.1:1"))
    with pytest.raises(PrometheusUnavailable, match="no answer from Prometheus: ConnectError"):
        await gone.catch_up()


async def test_what_was_recorded_before_a_failure_stands(
    service: Service, api: PrometheusApi, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_query, "WINDOW_POINTS", 4)

    def failing(query: str, second: int) -> dict[str, str | None]:
        if second >= (MIDNIGHT + 4 * HOUR).timestamp():
            api.faults = [(422, {}, b'{"status": "error", "error": "too much"}')]
        return counter(query, second)

    api.value = failing
    pulls = pulls_of(service, plan)
    with pytest.raises(PrometheusRefuses):
        await pulls.catch_up()
    assert (await place(service)).until == MIDNIGHT + 4 * HOUR
    assert await measurements(service) == 4
    api.faults, api.value = [], counter
    asked_hours(api)
    await pulls.catch_up()
    assert asked_hours(api) == [(2, 5), (6, 9), (10, 11)]
    assert (await balance(service, "p")).used == 110 * 1_000_000


async def test_a_run_has_a_bound_and_tells_how_far_it_came(
    service: Service, api: PrometheusApi, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NEW_STEPS", 7)
    monkeypatch.setattr(prometheus_query, "WINDOW_POINTS", 4)
    pulls = pulls_of(service, plan)
    with capture_logs() as logs:
        await pulls.catch_up()
        assert (await place(service)).until == MIDNIGHT + 7 * HOUR
        await pulls.catch_up()
    told = [(each["until"][11:16], each["steps"], each["steps_left"], each["accepted"]) for each in logs]
    assert told == [("04:00", 4, 8, 4), ("07:00", 3, 5, 3), ("09:00", 4, 3, 2), ("12:00", 3, 0, 3)]
    assert logs[0]["event"] == "pull.recorded"
    assert await measurements(service) == 12


async def test_what_prometheus_warns_of_is_told(service: Service, api: PrometheusApi, plan: Plan) -> None:
    api.faults = [(200, {}, success([], warnings=["a block is missing"]))]
    with capture_logs() as logs:
        await pulls_of(service, plan).catch_up()
    assert [each["warning"] for each in logs if each["event"] == "pull.warned"] == ["a block is missing"]


async def test_usage_that_cannot_be_charged_is_kept_and_stops_nothing(
    service: Service, api: PrometheusApi, plan: Plan
) -> None:
    odd = json.dumps({"__name__": "project_vcpu_usage", "project_name": "q"})
    api.value = lambda query, second: counter(query, second) | ({odd: "1"} if counter(query, second) else {})
    await pulls_of(service, plan).catch_up()
    assert (await balance(service, "p")).used == 110 * 1_000_000
    assert await fetch(service, "select code from quarantine") == [("missing_label",)]
    assert (await place(service)).until == NOW


async def test_an_intake_that_is_full_is_waited_for(service: Service, plan: Plan) -> None:
    class Full:
        def __init__(self, times: int) -> None:
            self.left = times

        async def submit(self, batch: Batch) -> Receipt:
            self.left -= 1
            if self.left >= 0:
                raise Overloaded("full", retry_after_seconds=0)
            return await service.intake.submit(batch)

    with pytest.raises(Overloaded):
        await pulls_of(service, plan, intake=cast(IntakeQueue, Full(SUBMIT_ATTEMPTS))).catch_up()
    assert (await place(service)).until == MIDNIGHT
    await pulls_of(service, plan, intake=cast(IntakeQueue, Full(SUBMIT_ATTEMPTS - 1))).catch_up()
    assert await measurements(service) == 12


async def test_without_a_prometheus_nobody_is_asked(service: Service) -> None:
    pulls = pulls_of(service, None)
    await pulls.begin()
    await pulls.catch_up()
    assert await fetch(service, "select source from pulls") == []
