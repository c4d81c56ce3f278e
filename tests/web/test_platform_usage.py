"""The platform surface: measuring usage now, all of it by a job, or one app at once."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from tallystick.kernel.clock import TestClock
from tallystick.metering.reading_model import Reading
from tallystick.service import Service, open_service
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi
from tests.jobs.conftest import until
from tests.metering.books import fetch
from tests.metering.sources.platforms import put_platform
from tests.web.conftest import asking, settings

JOB = "/admin/usage/job"
APP = "/admin/usage/app/app-1"


@pytest.fixture
async def service(capi: Capi, database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """A service that reads a platform with an app of 1024 MB and a database."""
    put_platform(capi)
    named = settings(
        database_pool_size=6, cf_api_url=capi.url, cf_client_id=CLIENT_ID, cf_client_secret=SecretStr(CLIENT_SECRET)
    )
    async with open_service(named, database_url, clock) as started:
        yield started


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(service) as client:
        yield client


async def readings(service: Service) -> list[Reading]:
    async with service.pool.connection() as conn:
        return (await service.readings.page(conn, None, 100)).items


async def work(service: Service) -> None:
    """Has the jobs done that wait."""

    async def done() -> bool:
        return not await fetch(service, "select from procrastinate_jobs where status in ('todo', 'doing')")

    async with service.worker.running():
        await until(done)


async def measured(service: Service) -> list[tuple[object, ...]]:
    return await fetch(
        service,
        "select s.meter, s.resource, m.value from measurements as m"
        " join series as s on s.customer_id = m.customer_id and s.id = m.series_id order by 1, 2, m.at",
    )


# All usage, by a job


async def test_a_job_reads_everything_by_hand(service: Service, client: httpx.AsyncClient) -> None:
    answer = await client.post(JOB)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert re.fullmatch(r"job \d+, skipped as duplicate: false", answer.text)
    await work(service)
    assert await measured(service) == [("cfapps", "app-1", 1024), ("cfservices", "svc-1", 1)]
    assert [(reading.state, reading.interval_start) for reading in await readings(service)] == [("complete", None)]


async def test_a_job_that_waits_is_not_put_into_the_queue_again(service: Service, client: httpx.AsyncClient) -> None:
    first, second = [(await client.post(JOB)).text for _ in range(2)]
    assert first.endswith("duplicate: false")
    assert second == first.replace("false", "true")
    await work(service)
    assert len(await readings(service)) == 1
    assert (await client.post(JOB)).text.endswith("duplicate: false")


async def test_the_hour_is_read_all_the_same(service: Service, client: httpx.AsyncClient, clock: TestClock) -> None:
    """By hand or by the clock: neither takes the other's place, which made the hour free."""
    await client.post(JOB)
    await work(service)
    clock.set(clock.now().replace(minute=1) + timedelta(hours=1))

    async def read() -> bool:
        return len(done := await readings(service)) == 2 and done[0].state == "complete"

    async with service.worker.running():
        await until(read)
    periodic, by_hand = await readings(service)
    assert periodic.interval_start == clock.now().replace(minute=0)
    assert by_hand.interval_start is None
    assert [reading.total.recorded for reading in (periodic, by_hand)] == [2, 2]


async def test_a_platform_that_is_away_is_read_when_it_is_back(
    service: Service, client: httpx.AsyncClient, capi: Capi
) -> None:
    capi.tell("when", path="/oauth/token", times=1, status=401)
    await client.post(JOB)
    await work_in_vain(service)
    assert [reading.state for reading in await readings(service)] == ["failed"]
    await end_the_pause(service)
    await work(service)
    assert [reading.state for reading in await readings(service)] == ["complete"]
    assert await measured(service) == [("cfapps", "app-1", 1024), ("cfservices", "svc-1", 1)]


async def test_jobs_keep_no_secrets(service: Service, client: httpx.AsyncClient, capi: Capi) -> None:
    """What a job was told, and why it failed, stands in the database and is shown to administrators."""
    capi.tell("when", path="/oauth/token", times=1, status=401)
    await client.post(JOB)
    await work_in_vain(service)
    tables = ("procrastinate_jobs", "job_failures", "readings")
    kept = [str(row) for table in tables for row in await fetch(service, f"select to_jsonb({table}) from {table}")]
    assert len(kept) == len(tables)
    assert not [row for row in kept if CLIENT_SECRET[:6] in row]  # whatever encodes the rest of it
    assert await fetch(service, "select args from procrastinate_jobs") == [({},)]


async def work_in_vain(service: Service) -> None:
    """Works until the first attempt has failed."""

    async def failed() -> bool:
        return bool(await fetch(service, "select from job_failures"))

    async with service.worker.running():
        await until(failed)


async def end_the_pause(service: Service) -> None:
    """After which a failed attempt is repeated."""
    async with service.pool.connection() as conn:
        await conn.execute("update procrastinate_jobs set scheduled_at = now() where status = 'todo'")


# One app


async def test_one_app_is_recorded_at_once(service: Service, client: httpx.AsyncClient) -> None:
    answer = await client.post(APP)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert re.fullmatch(r"reading [0-9a-f-]{36}: the app is recorded", answer.text)
    assert await measured(service) == [("oneoff", "app-1", 1)]


async def test_better_than_before_an_app_may_be_read_twice_within_an_hour(
    service: Service, client: httpx.AsyncClient, clock: TestClock
) -> None:
    assert (await client.post(APP)).status_code == 200
    clock.advance(timedelta(minutes=1))
    assert (await client.post(APP)).status_code == 200
    assert await measured(service) == [("oneoff", "app-1", 1), ("oneoff", "app-1", 1)]


async def test_better_than_before_one_app_does_not_take_the_hour_of_all(
    service: Service, client: httpx.AsyncClient
) -> None:
    await client.post(APP)
    reading = await service.readings.take(service.readings.source("cloud-foundry"), periodic=True)
    assert (reading.state, reading.total.recorded) == ("complete", 2)


async def test_an_app_of_nobody_is_kept_and_said_to_be(service: Service, client: httpx.AsyncClient, capi: Capi) -> None:
    capi.tell("put", apps=[{"guid": "lost", "name": "lost", "space": "gone"}])
    answer = await client.post("/admin/usage/app/lost")
    assert answer.status_code == 200
    assert re.fullmatch(r"reading [0-9a-f-]{36}: the app is kept until it is known whose it is", answer.text)
    assert await measured(service) == []
    assert await fetch(service, "select code from quarantine") == [("no_customer",)]


@pytest.mark.parametrize("guid", ["nobody", "a%2Fb", "%E2%82%AC", "x" * 300])
async def test_an_app_that_is_not_there_is_said_with_500(client: httpx.AsyncClient, guid: str) -> None:
    answer = await client.post(f"/admin/usage/app/{guid}")
    assert (answer.status_code, answer.text) == (500, "the platform has no app with this guid")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_platform_that_refuses_its_account_is_said_with_500(client: httpx.AsyncClient, capi: Capi) -> None:
    capi.tell("when", path="/oauth/token", status=401)
    answer = await client.post(APP)
    assert answer.status_code == 500
    assert CLIENT_SECRET not in answer.text


async def test_without_a_platform_there_is_no_app_to_read(database_url: str, clock: TestClock) -> None:
    async with open_service(settings(database_pool_size=4), database_url, clock) as bare, asking(bare) as client:
        answer = await client.post(APP)
        assert (answer.status_code, answer.text) == (500, "no platform is configured: set CF_API_URL")
        assert (await client.post(JOB)).status_code == 200


@pytest.mark.parametrize("path", [JOB, APP])
async def test_a_database_that_is_away_is_said_with_500(service: Service, client: httpx.AsyncClient, path: str) -> None:
    await service.pool.close()
    answer = await client.post(path)
    assert (answer.status_code, answer.text) == (500, "the database cannot be reached")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
