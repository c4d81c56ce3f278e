"""What a platform's apps and services are worth, whose they are and where they stand; a small platform answers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import NotFound
from tallystick.metering.sources.cloud_foundry import app_items, service_items
from tallystick.metering.sources.cloud_foundry_client import Beside, Listing
from tallystick.metering.sources.cloud_foundry_wire import (
    App,
    PlatformRefuses,
    Process,
    Resource,
    ServiceInstance,
    read,
)
from tallystick.metering.sources.sweep import Failure, Item, Sweep
from tests.doubles.capi import Capi
from tests.metering.sources.platforms import by_resource, put_platform, source_of, sweep_of

MEMORY = Decimal(2 * 512)
"""Of ``app-1``, as ``put_platform`` makes it."""


@pytest.fixture
def capi(capi: Capi) -> Capi:
    """A platform as ``put_platform`` makes it."""
    put_platform(capi)
    return capi


def an_app(guid: str, **facts: Any) -> dict[str, Any]:
    return {"guid": guid, "space": "space-1", **facts}


async def test_an_app_and_a_service_with_all_that_is_known_of_them(capi: Capi) -> None:
    assert await sweep_of(capi) == Sweep(
        items=[
            Item(
                meter="cfapps",
                resource="app-1",
                value=Decimal(1024),
                customer="org-1",
                kind="",
                path="apps.usage.cforg_agency.space_web_dev.app_shop_1",
                name="shop 1",
            ),
            Item(
                meter="cfservices",
                resource="svc-1",
                value=Decimal(1),
                customer="org-1",
                kind="plan-1",
                path="apps.usage.cforg_agency.space_web_dev.svc_aws_rds_micro_psql_db",
                name="db",
            ),
        ],
        failures=[],
        customers={"org-1": "agency"},
    )


# Apps


async def test_an_app_is_the_sum_over_its_processes(capi: Capi) -> None:
    more = [
        {"guid": "process-2", "app": "app-1", "type": "worker", "instances": 5, "memory_in_mb": 100},
        {"guid": "process-3", "app": "app-1", "type": "clock", "instances": 0, "memory_in_mb": 4096},
    ]
    capi.tell("put", processes=more)
    assert by_resource(await sweep_of(capi))["app-1"].value == 2 * 512 + 5 * 100


async def test_only_started_apps_use_anything(capi: Capi) -> None:
    capi.tell("put", apps=[an_app("stopped", state="STOPPED"), an_app("other", state="CRASHED")])
    capi.tell("put", processes=[{"guid": "process-2", "app": "stopped"}, {"guid": "process-3", "app": "other"}])
    assert set(by_resource(await sweep_of(capi))) == {"app-1", "svc-1"}


async def test_processes_of_apps_that_are_not_listed_are_ignored(capi: Capi) -> None:
    capi.tell("put", processes=[{"guid": "process-2", "app": "gone", "instances": 9}])
    sweep = await sweep_of(capi)
    assert (by_resource(sweep)["app-1"].value, set(by_resource(sweep))) == (MEMORY, {"app-1", "svc-1"})


async def test_a_started_app_without_processes_is_there_and_uses_nothing(capi: Capi) -> None:
    capi.tell("put", apps=[an_app("idle")])
    assert by_resource(await sweep_of(capi))["idle"].value == 0


async def test_a_value_beyond_32_bits_does_not_wrap(capi: Capi) -> None:
    capi.tell("put", processes=[{"guid": "process-1", "app": "app-1", "instances": 2**31, "memory_in_mb": 2**40 + 1}])
    assert by_resource(await sweep_of(capi))["app-1"].value == 2**31 * (2**40 + 1)


async def test_an_app_is_kept_when_a_process_of_it_does_not_say_how_large_it_is(capi: Capi) -> None:
    capi.tell("put", processes=[{"guid": "process-2", "app": "app-1", "memory_in_mb": None}])
    item = by_resource(await sweep_of(capi))["app-1"]
    assert (item.value, item.customer, item.fault) == (MEMORY, "org-1", "a process of it has no instances or no memory")


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-5, 2**40), st.integers(0, 2**40)), max_size=12),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["STARTED", "STOPPED"])),
)
def test_values_are_exact_sums_for_any_processes(sizes: list[tuple[str, int, int]], apps: dict[str, str]) -> None:
    processes: Listing[Process] = Listing()
    for number, (app, instances, memory) in enumerate(sizes):
        processes.resources[str(number)] = _process(str(number), app, instances, memory)
    listing = Listing({guid: App(guid, guid, None, state) for guid, state in apps.items()})
    expected = {
        guid: sum(instances * memory for app, instances, memory in sizes if app == guid)
        for guid, state in apps.items()
        if state == "STARTED"
    }
    assert {item.resource: item.value for item in app_items(processes, listing)} == expected


def _process(guid: str, app: str, instances: int, memory: int) -> Process:
    text = f'{{"guid": "{guid}", "relationships": {{"app": {{"data": {{"guid": "{app}"}}}}}}}}'
    process = read(text.encode(), Process)
    process.instances, process.memory_in_mb = instances, memory
    return process


# Services


async def test_user_provided_services_are_free(capi: Capi) -> None:
    free = {"guid": "svc-2", "name": "logs", "space": "space-1", "type": "user-provided"}
    capi.tell("put", service_instances=[free])
    assert set(by_resource(await sweep_of(capi))) == {"app-1", "svc-1"}
    (asked,) = capi.asked("/v3/service_instances")
    assert asked["page"] == 1


def test_user_provided_services_are_free_even_if_the_platform_lists_them() -> None:
    instances = [ServiceInstance("one", "one", None, "managed"), ServiceInstance("two", "two", None, "user-provided")]
    listing = Listing({instance.guid: instance for instance in instances})
    assert [item.resource for item in service_items(listing)] == ["one"]


async def test_a_service_whose_plan_is_not_shown_is_kept_under_its_kind(capi: Capi) -> None:
    """The system before went down over it, with the whole reading."""
    capi.tell("drop", service_plans=["plan-1"])
    item = by_resource(await sweep_of(capi))["svc-1"]
    assert (item.kind, item.value, item.fault) == ("plan-1", Decimal(1), None)
    assert item.path == "apps.usage.cforg_agency.space_web_dev.svc___db"


async def test_a_service_without_a_plan_is_kept_with_the_fault(capi: Capi) -> None:
    capi.tell("patch", of="svc-1", relationships={"space": {"data": {"guid": "space-1"}}})
    item = by_resource(await sweep_of(capi))["svc-1"]
    assert (item.kind, item.customer, item.fault) == ("", "org-1", "it has no plan")


# Whose it is


async def test_what_stands_in_no_known_space_is_kept_with_the_fault_and_no_customer(capi: Capi) -> None:
    capi.tell("put", apps=[an_app("lost", name="my.shop", space="gone")])
    capi.tell("put", service_instances=[{"guid": "svc-2", "name": "db2", "space": "gone", "plan": "plan-1"}])
    found = by_resource(await sweep_of(capi))
    assert [(found[each].customer, found[each].path, found[each].fault) for each in ("lost", "svc-2")] == [
        (None, "orphan.app_my_shop", "its space is not known"),
        (None, "orphan.svc_aws_rds_micro_psql_db2", "its space is not known"),
    ]
    assert (found["app-1"].customer, found["app-1"].fault) == ("org-1", None)


@pytest.mark.parametrize(
    "relationships", [None, {}, {"space": None}, {"space": {"data": None}}, {"space": {"links": {}}}]
)
async def test_missing_relationships_leave_the_item_and_its_neighbours(capi: Capi, relationships: Any) -> None:
    capi.tell("put", apps=[an_app("bare", name="bare")])
    capi.tell("patch", of="bare", relationships=relationships)
    sweep = await sweep_of(capi)
    found = by_resource(sweep)
    assert (found["bare"].customer, found["bare"].path) == (None, "orphan.app_bare")
    assert (found["app-1"].value, sweep.failures) == (MEMORY, [])


async def test_a_space_without_an_organization_leaves_its_items_without_a_customer(capi: Capi) -> None:
    capi.tell("patch", of="space-1", relationships={"organization": {"data": None}})
    found = by_resource(await sweep_of(capi))
    assert {item.fault for item in found.values()} == {"the organization of its space is not known"}
    assert {item.customer for item in found.values()} == {None}


@pytest.mark.parametrize("name", ["", None])
async def test_an_organization_without_a_name_is_tolerated(capi: Capi, name: str | None) -> None:
    capi.tell("patch", of="org-1", name=name)
    found = by_resource(await sweep_of(capi))
    assert (found["app-1"].customer, found["app-1"].fault) == ("org-1", None)
    assert found["app-1"].path == "apps.usage.cforg_.space_web_dev.app_shop_1"


async def test_an_organization_that_is_not_shown_is_a_customer_all_the_same(capi: Capi) -> None:
    capi.tell("drop", organizations=["org-1"])
    found = by_resource(await sweep_of(capi))
    assert {(item.customer, item.fault) for item in found.values()} == {("org-1", None)}


async def test_an_organization_whose_guid_is_no_uuid_stops_nothing(capi: Capi) -> None:
    """The system before panicked."""
    capi.tell("put", organizations=[{"guid": "not a uuid!", "name": "odd"}])
    capi.tell("put", spaces=[{"guid": "space-2", "name": "odd", "organization": "not a uuid!"}])
    capi.tell("put", apps=[an_app("odd", space="space-2")])
    found = by_resource(await sweep_of(capi))
    assert (found["odd"].customer, found["app-1"].customer) == ("not a uuid!", "org-1")


async def test_what_moves_or_changes_its_plan_is_seen_where_it_is_now(capi: Capi) -> None:
    """In the system before, a resource kept its first organization and kind for ever."""
    source = source_of(capi)
    before = by_resource(await source.sweep())
    capi.tell("put", organizations=[{"guid": "org-2", "name": "bureau"}])
    capi.tell("put", spaces=[{"guid": "space-1", "name": "web_dev", "organization": "org-2"}])
    capi.tell("put", service_plans=[{"guid": "plan-2", "name": "large", "offering": "offering-1"}])
    capi.tell("put", service_instances=[{"guid": "svc-1", "name": "db", "space": "space-1", "plan": "plan-2"}])
    after = by_resource(await source.sweep())
    assert (before["svc-1"].customer, before["svc-1"].kind) == ("org-1", "plan-1")
    assert (after["svc-1"].customer, after["svc-1"].kind, after["app-1"].customer) == ("org-2", "plan-2", "org-2")
    assert after["app-1"].path == "apps.usage.cforg_bureau.space_web_dev.app_shop_1"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("shop.example.gov", "app_shop_example_gov"),
        ("my shop", "app_my_shop"),
        ("größe-日本", "app_gr__e___"),
        ("a/b\\c\n\t'\"%", "app_a_b_c_____"),
        ("", "app_"),
        (None, "app_"),
    ],
)
async def test_any_name_has_a_place(capi: Capi, name: str | None, label: str) -> None:
    capi.tell("patch", of="app-1", name=name)
    item = by_resource(await sweep_of(capi))["app-1"]
    assert (item.path, item.name) == (f"apps.usage.cforg_agency.space_web_dev.{label}", name)


async def test_very_long_names_have_different_places(capi: Capi) -> None:
    capi.tell("put", apps=[an_app("long-1", name="x" * 300 + "1"), an_app("long-2", name="x" * 300 + "2")])
    found = by_resource(await sweep_of(capi))
    paths = [found["long-1"].path or "", found["long-2"].path or ""]
    assert paths[0] != paths[1]
    assert all(path.startswith("apps.usage.cforg_agency.space_web_dev.app_xxx") for path in paths)


# Parts


@pytest.mark.parametrize(
    ("path", "failed", "standing"),
    [
        ("/v3/apps", Failure("cfapps", "apps: the platform answered 403 CF-NotAuthorized"), {"svc-1"}),
        ("/v3/processes", Failure("cfapps", "processes: the platform answered 403 CF-NotAuthorized"), {"svc-1"}),
        (
            "/v3/service_instances",
            Failure("cfservices", "service instances: the platform answered 403 CF-NotAuthorized"),
            {"app-1"},
        ),
    ],
)
async def test_a_list_that_fails_leaves_the_other_meter(
    capi: Capi, path: str, failed: Failure, standing: set[str]
) -> None:
    """In the system before, the whole reading was lost."""
    capi.tell("when", path=path, status=403, body='{"errors": [{"code": 10003, "title": "CF-NotAuthorized"}]}')
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (standing, [failed])


async def test_apps_that_were_read_before_their_list_failed_stand(capi: Capi) -> None:
    put_platform(capi, apps=5)
    capi.tell("set", per_page=2)
    capi.tell("when", path="/v3/apps", page=3, status=404)
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == {"app-1", "app-2", "app-3", "app-4", "svc-1"}
    assert sweep.failures == [Failure("cfapps", "apps: the platform answered 404")]


async def test_no_app_is_measured_by_half_of_its_processes(capi: Capi) -> None:
    put_platform(capi, apps=5)
    capi.tell("set", per_page=2)
    capi.tell("when", path="/v3/processes", page=3, status=404)
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == {"svc-1"}
    assert sweep.failures == [Failure("cfapps", "processes: the platform answered 404")]


async def test_an_account_that_is_shown_nothing_says_so(capi: Capi) -> None:
    capi.tell("reset")
    assert await sweep_of(capi) == Sweep([], [])  # it may see everything: there is nothing
    capi.tell("set", scope="cloud_controller.read")
    (failure,) = (await sweep_of(capi)).failures
    assert (failure.part, "cloud_controller.global_auditor" in failure.detail) == ("account", True)


async def test_a_large_platform_is_read_whole(capi: Capi) -> None:
    capi.tell("reset")
    capi.tell("populate", apps=12_000, services=300)
    sweep = await sweep_of(capi)
    assert (len(by_resource(sweep)), sweep.failures) == (12_300, [])
    assert sum(item.value for item in sweep.items) == sum(n % 3 * 256 for n in range(12_000)) + 300
    assert len({item.customer for item in sweep.items}) == 60
    assert [each["page"] for each in capi.asked("/v3/apps")] == [1, 2, 3]


# One app


async def test_one_app_is_an_item_of_its_own_meter(capi: Capi) -> None:
    assert await source_of(capi).app_item("app-1") == Item(
        meter="oneoff",
        resource="app-1",
        value=Decimal(1),
        customer="org-1",
        kind="",
        path="apps.usage.cforg_agency.space_web_dev.app_shop_1",
        name="shop 1",
    )


async def test_one_app_without_a_space_is_an_orphan(capi: Capi) -> None:
    capi.tell("put", apps=[an_app("lost", name="lost", space="gone")])
    item = await source_of(capi).app_item("lost")
    assert (item.customer, item.path, item.fault) == (None, "orphan.app_lost", "its space is not known")


async def test_one_app_that_is_not_there_is_not_found(capi: Capi) -> None:
    with pytest.raises(NotFound, match="no app with this guid"):
        await source_of(capi).app_item("gone")


@pytest.mark.parametrize("guid", ["", "..", "a/../../v3/spaces", "a?b", "a%2fb", "a b", "é", "x" * 201])
async def test_what_is_no_guid_is_not_even_asked_for(capi: Capi, guid: str) -> None:
    with pytest.raises(NotFound):
        await source_of(capi).app_item(guid)
    assert capi.asked() == []


async def test_one_app_that_cannot_be_read_is_refused(capi: Capi) -> None:
    capi.tell("patch", of="app-1", name=7)
    with pytest.raises(PlatformRefuses, match=r"no App: Expected `str \| null`, got `int` - at `\$.name`"):
        await source_of(capi).app_item("app-1")


def test_what_came_beside_is_found_by_its_guid() -> None:
    beside = Beside(spaces={"s": Resource("s", "space")})
    beside.update(Beside(spaces={"t": Resource("t", "other")}))
    assert set(beside.spaces) == {"s", "t"}
