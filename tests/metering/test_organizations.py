"""Organizations: the customers that a Cloud Foundry platform has named, and who pays for each."""

from __future__ import annotations

import pytest

from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.metering.organizations import Organization
from tallystick.metering.sources.cloud_foundry import OneApp
from tallystick.service import Service
from tests.doubles.capi import Capi
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import create_customer, measurement, set_payer, submit
from tests.metering.sources.platforms import put_platform, source_of

PLATFORM = "cloud-foundry"


async def sweep(service: Service, *guids: str, source: str = PLATFORM) -> None:
    """A reading in which each of these organizations has an app."""
    apps = [item(f"app of {guid}", 1, guid) for guid in guids]
    await service.readings.take(Sweepable(source, items=apps), periodic=False)


async def listed(service: Service, limit: int = 100, **chosen: bool) -> list[Organization]:
    found: list[Organization] = []
    cursor = None
    async with service.pool.connection() as conn:
        while True:
            page = await service.organizations.page(conn, cursor, limit, **chosen)
            found += page.items
            if (cursor := page.next) is None:
                return found


async def test_organizations_are_those_that_a_platform_named_and_nobody_else(service: Service) -> None:
    await create_customer(service, "agency")
    await submit(service, measurement("ada"))
    await sweep(service, "org-2", "org-1")
    await sweep(service, "somebody", source="elsewhere")
    assert [one.guid for one in await listed(service)] == ["org-1", "org-2"]
    async with service.pool.connection() as conn:
        assert (await service.organizations.get(conn, "org-1")).payer is None
        for other in ("agency", "ada", "somebody", "nobody"):
            with pytest.raises(NotFound, match=f"there is no organization '{other}'"):
                await service.organizations.get(conn, other)
        with pytest.raises(InvalidInput):
            await service.organizations.get(conn, "\0")


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_they_are_mapped_later_and_come_in_pages(service: Service, limit: int) -> None:
    await sweep(service, *(f"org-{number}" for number in range(5)))
    await create_customer(service, "agency")
    for guid in ("org-1", "org-3"):
        await set_payer(service, guid, "agency")
    everything = {one.guid: one.payer for one in await listed(service, limit)}
    assert everything == {"org-0": None, "org-1": "agency", "org-2": None, "org-3": "agency", "org-4": None}
    assert [one.guid for one in await listed(service, limit, mapped=True)] == ["org-1", "org-3"]
    assert [one.guid for one in await listed(service, limit, mapped=False)] == ["org-0", "org-2", "org-4"]


async def test_one_is_called_what_the_platform_called_it_first(service: Service, capi: Capi) -> None:
    put_platform(capi)
    capi.tell("patch", of="org-1", name="Agency №1")
    await service.readings.take(source_of(capi), periodic=False)
    capi.tell("patch", of="org-1", name="renamed")
    await service.readings.take(source_of(capi), periodic=False)
    (agency,) = await listed(service)
    assert (agency.guid, agency.name) == ("org-1", "Agency №1")


async def test_one_that_the_platform_did_not_name_is_called_as_its_paths_spell_it(service: Service) -> None:
    apps = [item("app", 1, "org-1", path="apps.usage.cforg_agency.space_web.app_shop")]
    await service.readings.take(Sweepable(PLATFORM, items=apps), periodic=False)
    await sweep(service, "org-2")
    assert [one.name for one in await listed(service)] == ["agency", None]


async def test_one_app_read_by_hand_is_enough(service: Service, capi: Capi) -> None:
    put_platform(capi)
    await service.readings.take(OneApp(source_of(capi), "app-1"), periodic=False)
    assert [one.guid for one in await listed(service)] == ["org-1"]
