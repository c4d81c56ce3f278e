"""The built-in meters of OpenStack projects: there from the first start, and the operator's from then on."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from tallystick.kernel.errors import Conflict
from tallystick.metering.model import Measurement, Meter
from tallystick.metering.openstack import RAM, VCPU, install_openstack_meters
from tallystick.service import Service
from tests.metering.books import (
    MARCH,
    balance,
    batch,
    charged,
    create_customer,
    create_price,
    fetch,
    grant,
    measurement,
    put_meter,
)
from tests.metering.conftest import StartService

PRICES = "select meter, trim_scale(quantum), model from prices order by meter"


def totals(meter: Meter, *values: int | str) -> list[Measurement]:
    """Hourly readings of a project's running total at one location."""
    return [
        measurement(
            "project", value, meter=meter.key, source="line-protocol", resource="8676", at=MARCH + timedelta(hours=hour)
        )
        for hour, value in enumerate(values)
    ]


async def write(service: Service, *measurements: Measurement) -> None:
    await service.intake.submit(batch(measurements, source="line-protocol", creates_meters=False))


async def install(service: Service, vcpu: str = "1", ram: str = "0.3", precision: int = 2) -> None:
    async with service.pool.connection() as conn, conn.transaction():
        await install_openstack_meters(
            conn,
            service.meters,
            service.pricing,
            vcpu_credit_per_hour=Decimal(vcpu),
            ram_credit_per_hour=Decimal(ram),
            precision=precision,
        )


async def test_both_meters_and_their_prices_are_there_from_the_first_start(service: Service) -> None:
    async with service.pool.connection() as conn:
        assert await service.meters.all(conn) == {VCPU.key: VCPU, RAM.key: RAM}
    assert await fetch(service, PRICES) == [
        (RAM.key, Decimal("0.01"), {"type": "per_unit", "amount": "0.3", "per": "1024"}),
        (VCPU.key, Decimal("0.01"), {"type": "per_unit", "amount": "1", "per": "1"}),
    ]


async def test_a_project_pays_for_the_rise_of_its_totals(service: Service) -> None:
    """The estimate of the first system for 16 vCPU and 32768 MiB in an hour is 25.6 credits; so is the bill."""
    await create_customer(service, "project")
    await grant(service, "project", 200_000_000)
    await write(service, *totals(VCPU, 1000, 1016), *totals(RAM, 5_000_000, 5_032_768))
    standing = await balance(service, "project")
    assert (standing.used, standing.balance) == (25_600_000, 174_400_000)


async def test_small_rises_add_up_until_they_are_visible(service: Service) -> None:
    """Each rise is worth 0.004 credits, which a precision of two places rounds to nothing by itself."""
    for reading in totals(VCPU, *(f"{10 + number * 0.004:.3f}" for number in range(6))):
        await write(service, reading)
    assert await charged(service, "project") == 20_000


async def test_a_total_that_falls_costs_nothing_and_is_the_new_base(service: Service) -> None:
    await write(service, *totals(VCPU, 100, 110, 40, 45))
    assert await charged(service, "project") == 15_000_000


async def test_each_location_of_a_project_has_a_total_of_its_own(service: Service) -> None:
    elsewhere = [
        measurement(
            "project", value, meter=VCPU.key, source="line-protocol", resource="2", at=MARCH + timedelta(hours=hour)
        )
        for hour, value in enumerate((7, 9))
    ]
    await write(service, *totals(VCPU, 1000, 1001), *elsewhere)
    assert await charged(service, "project") == 3_000_000


async def test_what_an_operator_changes_stays_through_every_start(
    service: Service, start_service: StartService
) -> None:
    described = Meter(VCPU.key, "counter", unit="h", name="processors", description="by the operator")
    await put_meter(service, described)
    await create_price(service, VCPU.key, since=MARCH)
    before = await fetch(service, PRICES)
    await install(service, vcpu="9", ram="9", precision=6)
    restarted = await start_service()
    async with restarted.pool.connection() as conn:
        assert (await restarted.meters.all(conn))[VCPU.key] == described
    assert await fetch(restarted, PRICES) == before


async def test_only_what_is_missing_is_installed(service: Service) -> None:
    await write(service, *totals(VCPU, 1, 2))
    with pytest.raises(Conflict):  # it is in use as a counter
        await put_meter(service, Meter(VCPU.key))
    async with service.pool.connection() as conn, conn.transaction():
        await conn.execute("delete from prices where meter = %s", [RAM.key])
        await conn.execute("delete from resource_kinds where meter = %s", [RAM.key])
        await conn.execute("delete from meters where key = %s", [RAM.key])
    await install(service, vcpu="9", ram="0.6", precision=3)
    assert await fetch(service, PRICES) == [
        (RAM.key, Decimal("0.001"), {"type": "per_unit", "amount": "0.6", "per": "1024"}),
        (VCPU.key, Decimal("0.01"), {"type": "per_unit", "amount": "1", "per": "1"}),
    ]
