"""Readings of a Cloud Foundry platform on real books: its organizations are customers, its orphans wait for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest
from pydantic import SecretStr

from tallystick.kernel.calendar import parse_month
from tallystick.kernel.clock import TestClock
from tallystick.metering import quarantine
from tallystick.metering.cloud_foundry import APPS, SERVICES, install_cloud_foundry_meters
from tallystick.metering.readings import Readings
from tallystick.metering.resources import Wanted
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi
from tests.metering.books import assert_books_hold, balance, charged, create_price, fetch
from tests.metering.conftest import StartService
from tests.metering.sources.platforms import put_platform

PRICE = 2_000_000
"""Microcredits for a MB during an hour, in these tests."""


@pytest.fixture
async def service(capi: Capi, database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    """A service that reads a platform with an app of 1024 MB and a database. In the end its books must hold."""
    put_platform(capi)
    settings = Settings(
        dev=True,
        database_pool_size=4,
        cf_api_url=capi.url,
        cf_client_id=CLIENT_ID,
        cf_client_secret=SecretStr(CLIENT_SECRET),
    )
    async with open_service(settings, database_url, clock) as started:
        yield started
        await assert_books_hold(started)


@pytest.fixture
def readings(service: Service) -> Readings:
    return service.readings


async def measured(service: Service) -> list[tuple[object, ...]]:
    return await fetch(
        service,
        "select c.key, s.meter, s.kind, s.resource, m.value from measurements as m"
        " join series as s on s.customer_id = m.customer_id and s.id = m.series_id"
        " join customers as c on c.id = m.customer_id order by 1, 2, 3, 4, m.at",
    )


async def test_a_reading_charges_the_organization_by_the_hour(service: Service, readings: Readings) -> None:
    await create_price(service, APPS.key)
    reading = await readings.take(readings.source("cloud-foundry"), periodic=True)
    assert (reading.state, reading.total.recorded, reading.total.unpriced) == ("complete", 2, 1)
    assert await measured(service) == [
        ("org-1", "cfapps", "", "app-1", 1024),
        ("org-1", "cfservices", "plan-1", "svc-1", 1),
    ]
    assert await charged(service, "org-1") == 1024 * PRICE


async def test_an_organization_that_nobody_mapped_is_posted_by_itself_once_its_month_is_over(
    service: Service, readings: Readings, clock: TestClock
) -> None:
    """The system before skipped the usage of organizations without a customer."""
    await create_price(service, APPS.key)
    await readings.take(readings.source("cloud-foundry"), periodic=True)
    assert (await balance(service, "org-1")).used == 0
    clock.set(parse_month("2026-03").end)
    assert await service.postings.post(parse_month("2026-03")) == 1
    assert (await balance(service, "org-1")).used == 1024 * PRICE


async def test_resources_stand_where_the_platform_has_them_and_move_along(
    service: Service, readings: Readings, capi: Capi, clock: TestClock
) -> None:
    source = readings.source("cloud-foundry")
    await readings.take(source, periodic=True)
    capi.tell("patch", of="space-1", name="web_prod")
    clock.advance(timedelta(hours=1))
    await readings.take(source, periodic=True)
    async with service.pool.connection() as conn:
        page = await service.resources.page(conn, "org-1", Wanted(), None, 10)
    assert [(each.resource, each.path) for each in page.items] == [
        ("app-1", "apps.usage.cforg_agency.space_web_prod.app_shop_1"),
        ("svc-1", "apps.usage.cforg_agency.space_web_prod.svc_aws_rds_micro_psql_db"),
    ]


async def test_an_orphan_does_not_abort_the_reading_and_waits_for_its_customer(
    service: Service, readings: Readings, capi: Capi
) -> None:
    """In the system before, a resource without an organization lost the whole reading."""
    capi.tell("put", apps=[{"guid": "lost", "name": "lost", "space": "gone"}])
    reading = await readings.take(readings.source("cloud-foundry"), periodic=True)
    assert (reading.total.recorded, reading.total.without_customer) == (2, 1)
    assert [fault.detail for fault in reading.faults] == ["its space is not known"]
    async with service.pool.connection() as conn:
        (piece,) = (await quarantine.page(conn, None, 10, replayed=False)).items
    assert piece.code == "no_customer"


async def test_a_process_that_asks_twice_in_an_hour_counts_once(
    service: Service, readings: Readings, capi: Capi
) -> None:
    """After a part had failed, the hour is read again, and what stood already stands as it was."""
    source = readings.source("cloud-foundry")
    capi.tell("when", path="/v3/apps", times=1, status=404)
    first = await readings.take(source, periodic=True)
    capi.tell("put", processes=[{"guid": "process-2", "app": "app-1", "instances": 1, "memory_in_mb": 1}])
    second = await readings.take(source, periodic=True)
    third = await readings.take(source, periodic=True)
    assert [first.state, second.state, third.state] == ["partial", "complete", "complete"]
    assert (first.id, second.id) == (second.id, third.id)
    assert await measured(service) == [
        ("org-1", "cfapps", "", "app-1", 1025),
        ("org-1", "cfservices", "plan-1", "svc-1", 1),
    ]


async def test_a_value_beyond_32_bits_is_charged_exactly(service: Service, readings: Readings, capi: Capi) -> None:
    await create_price(service, APPS.key)
    capi.tell("put", processes=[{"guid": "process-1", "app": "app-1", "instances": 2**20, "memory_in_mb": 2**20 + 1}])
    await readings.take(readings.source("cloud-foundry"), periodic=True)
    assert await charged(service, "org-1") == 2**20 * (2**20 + 1) * PRICE


async def test_a_platform_that_gives_no_token_is_a_failed_reading_and_can_be_read_again(
    service: Service, readings: Readings, capi: Capi
) -> None:
    source = readings.source("cloud-foundry")
    capi.tell("when", path="/oauth/token", times=1, status=400, body='{"error": "invalid_client"}')
    failed = await readings.take(source, periodic=True)
    assert [failure.detail for failure in failed.failures] == [
        "the platform gives CF_CLIENT_ID no token: invalid_client"
    ]
    again = await readings.take(source, periodic=True)
    assert (failed.state, again.state, again.total.recorded) == ("failed", "complete", 2)


async def test_the_meters_are_there_from_the_start_and_the_operators_from_then_on(service: Service) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        assert [await service.meters.get(conn, meter.key) for meter in (APPS, SERVICES)] == [APPS, SERVICES]
        await service.meters.put(conn, msgspec.structs.replace(APPS, name="memory"))
        await install_cloud_foundry_meters(conn, service.meters)
        assert (await service.meters.get(conn, APPS.key)).name == "memory"


async def test_a_service_without_a_platform_has_no_such_source(start_service: StartService) -> None:
    service = await start_service()
    assert (service.cloud_foundry, service.readings.sources) == (None, [])
