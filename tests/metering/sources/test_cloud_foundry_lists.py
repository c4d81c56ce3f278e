"""Lists of a platform that change while they are read, lead elsewhere, never end, or are none."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick.metering.sources.cloud_foundry_client import MAX_READS, Limits, open_platform
from tallystick.metering.sources.cloud_foundry_wire import App
from tallystick.metering.sources.sweep import Failure
from tests.doubles.capi import Capi
from tests.metering.sources.platforms import Time, account_of, by_resource, put_platform, sweep_of

ALL = {"app-1", "app-2", "app-3", "app-4", "app-5", "svc-1"}
NOT_APPS = {"svc-1"}


@pytest.fixture
def capi(capi: Capi) -> Capi:
    """A platform with five apps, on pages of two."""
    put_platform(capi, apps=5)
    capi.tell("set", per_page=2)
    return capi


@pytest.fixture
def time() -> Time:
    return Time()


async def test_short_pages_are_read_to_the_end(capi: Capi) -> None:
    capi.tell("set", per_page=1)
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL, [])
    assert [each["page"] for each in capi.asked("/v3/apps")] == [1, 2, 3, 4, 5]


async def test_an_app_that_moves_to_another_page_counts_once_and_pushes_none_out(capi: Capi) -> None:
    """It is on the first page and the last; the app that came into its place was on neither."""
    app = {"guid": "app-1", "name": "shop 1", "space": "space-1"}
    moves = [["drop", {"apps": ["app-1"]}], ["put", {"apps": [app]}]]
    capi.tell("when", path="/v3/apps", page=1, times=1, then=moves)
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL, [])
    assert [each["page"] for each in capi.asked("/v3/apps")] == [1, 2, 3, 1, 2, 3]


async def test_a_process_that_moves_counts_once(capi: Capi) -> None:
    process = {"guid": "process-1", "app": "app-1", "instances": 2, "memory_in_mb": 512}
    moves = [["drop", {"processes": ["process-1"]}], ["put", {"processes": [process]}]]
    capi.tell("when", path="/v3/processes", page=1, times=1, then=moves)
    found = by_resource(await sweep_of(capi))
    assert {found[f"app-{n}"].value for n in range(1, 6)} == {1024}


@pytest.mark.parametrize("ends", [False, True], ids=["changes again", "breaks off"])
async def test_a_process_that_is_replaced_meanwhile_is_not_added_to_its_successor(capi: Capi, ends: bool) -> None:
    """It was on the first reading of the list, its successor is on the second."""
    strangers = [{"guid": f"process-{n}", "app": "gone"} for n in (7, 8)]
    successor = {"guid": "process-6", "app": "app-5", "instances": 2, "memory_in_mb": 512}
    for stranger in strangers:  # so that neither reading stands still
        capi.tell("when", path="/v3/processes", page=2, times=1, then=[["put", {"processes": [stranger]}]])
    replaced = [["drop", {"processes": ["process-5"]}], ["put", {"processes": [successor]}]]
    capi.tell("when", path="/v3/processes", page=3, times=1, then=replaced)
    if ends:
        capi.tell("when", path="/v3/processes", page=4, status=404)
    sweep = await sweep_of(capi)
    assert {item.value for item in sweep.items if item.meter == "cfapps"} == {1024}
    assert [failure.part for failure in sweep.failures] == ["cfapps"]
    assert [each["page"] for each in capi.asked("/v3/processes")] == [1, 2, 3, 1, 2, 3, 4]


async def test_what_is_deleted_meanwhile_takes_no_other_with_it(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", page=1, times=1, then=[["drop", {"apps": ["app-1"]}]])
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL - {"app-1"}, [])


async def test_a_list_that_shrinks_below_its_next_page_is_read_again(capi: Capi) -> None:
    """The platform says of a page beyond the end that the list has no resources at all."""
    capi.tell("when", path="/v3/apps", page=2, times=1, then=[["drop", {"apps": ["app-4", "app-5"]}]])
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL - {"app-4", "app-5"}, [])


async def test_a_list_that_never_stands_still_is_noted_and_all_that_was_seen_stands(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", page=1, times=1, then=[["drop", {"apps": ["app-1"]}]])
    more = {"guid": "app-6", "name": "new", "space": "space-1"}
    capi.tell("when", path="/v3/apps", page=1, times=1, then=[["put", {"apps": [more]}]])
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == ALL | {"app-6"}
    sentence = "apps: it changed while it was read: 4 to 5 announced, 5 read"
    assert sweep.failures == [Failure("cfapps", sentence)]
    assert len([each for each in capi.asked("/v3/apps") if each["page"] == 1]) == MAX_READS


async def test_a_list_that_breaks_off_when_it_is_read_again_was_read_whole_before(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=1, times=1, then=[["drop", {"apps": ["app-1"]}]])
    capi.tell("when", path="/v3/apps", page=2, after=1, status=404)
    async with open_platform(account_of(capi), Limits(), time.waiting()) as platform:
        found = await platform.list("apps", "/v3/apps", App)
    assert (found.is_whole, found.faults) == (True, ["apps: the platform answered 404"])
    assert set(found.resources) == ALL - NOT_APPS  # the second time, app-3 had come into the place of app-1


async def test_a_total_that_lies_is_noted_and_the_items_stand(capi: Capi) -> None:
    page = '{"pagination": {"total_results": 7, "next": null}, "resources": [{"guid": "a"}, {"guid": "b"}]}'
    capi.tell("when", path="/v3/service_instances", status=200, body=page.replace('"}', '", "type": "managed"}'))
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == ALL - {"svc-1"} | {"a", "b"}
    sentence = "service instances: it changed while it was read: 7 announced, 2 read"
    assert sweep.failures == [Failure("cfservices", sentence)]


async def test_the_token_goes_to_no_other_host(capi: Capi) -> None:
    other = Capi()
    try:
        capi.tell("when", path="/v3/apps", page=1, next=f"{other.url}/v3/apps?page=2")
        sweep = await sweep_of(capi)
        assert other.asked() == []
    finally:
        other.close()
    assert sweep.failures == [Failure("cfapps", "apps: its next page is not at CF_API_URL but on another host")]
    assert set(by_resource(sweep)) == {"app-1", "app-2", "svc-1"}


@pytest.mark.parametrize("start", ["https", "http://a@", "http://a:b@", "//example.org/", "ftp://", "http://[::1]:"])
async def test_no_disguise_makes_another_host_the_same(capi: Capi, start: str) -> None:
    place = capi.url.removeprefix("http://")
    href = {"https": f"https://{place}/v3/apps", "//example.org/": "//example.org/v3/apps"}.get(
        start, f"{start}{place}"
    )
    capi.tell("when", path="/v3/apps", page=1, next=href)
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == {"app-1", "app-2", "svc-1"}
    assert [each["page"] for each in capi.asked("/v3/apps")] == [1]
    assert len(sweep.failures) == 1


async def test_a_relative_next_page_is_at_the_platform(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", page=1, next="/v3/apps?include=space.organization&page=2&per_page=2")
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL, [])


async def test_pages_in_a_circle_are_left(capi: Capi) -> None:
    first = f"{capi.url}/v3/apps?include=space.organization&page=2&per_page=2"
    capi.tell("when", path="/v3/apps", page=3, next=first)
    capi.tell("when", path="/v3/apps", page=1, next=first)
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == ALL
    assert sweep.failures == [Failure("cfapps", "apps: its pages lead in a circle")]
    assert [each["page"] for each in capi.asked("/v3/apps")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("limits", "fault", "found"),
    [
        ({"pages": 2}, "it has more than 2 pages", 4),
        ({"resources": 3}, "it has more than 3 resources", 4),
    ],
)
async def test_a_list_that_is_too_long_is_left(capi: Capi, limits: dict[str, int], fault: str, found: int) -> None:
    async with open_platform(account_of(capi), Limits(**limits), Time().waiting()) as platform:
        listing = await platform.list("apps", "/v3/apps", App)
    assert (listing.faults, listing.is_whole, len(listing.resources)) == ([f"apps: {fault}"], False, found)


async def test_an_answer_that_is_too_long_is_left(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", page=2, status=200, body=" " * 200_000)
    sweep = await sweep_of(capi, page_bytes=100_000)
    assert sweep.failures == [Failure("cfapps", "apps: the platform gave an answer longer than 100000 bytes")]
    assert set(by_resource(sweep)) == {"app-1", "app-2", "svc-1"}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"resources": []}',
        '{"resources": [], "pagination": null}',
        '{"resources": {}, "pagination": {"total_results": 1}}',
        '{"resources": [], "pagination": {"total_results": "many"}}',
    ],
    ids=lambda body: body[:40],
)
async def test_what_is_no_page_fails_its_meter_alone(capi: Capi, body: str) -> None:
    capi.tell("when", path="/v3/apps", status=200, body=body)
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == NOT_APPS
    ((part, detail),) = [(failure.part, failure.detail) for failure in sweep.failures]
    assert (part, detail.startswith("apps: the platform answered what is no Page: ")) == ("cfapps", True)


@pytest.mark.parametrize("patch", [{"guid": 7}, {"name": ["x"]}, {"relationships": 5}, {"state": None}])
async def test_one_app_that_cannot_be_read_stops_no_other(capi: Capi, patch: dict[str, Any]) -> None:
    capi.tell("put", apps=[{"guid": "bad", "space": "space-1"}])
    capi.tell("patch", of="bad", **patch)
    sweep = await sweep_of(capi)
    assert set(by_resource(sweep)) == ALL
    assert sweep.failures == [Failure("cfapps", "apps: 1 could not be read, and are left out")]


async def test_a_space_that_cannot_be_read_orphans_only_its_own(capi: Capi) -> None:
    capi.tell("put", spaces=[{"guid": "space-2", "name": "b", "organization": "org-1"}])
    capi.tell("put", apps=[{"guid": "app-6", "name": "x", "space": "space-2"}])
    capi.tell("patch", of="space-2", name=5)
    found = by_resource(await sweep_of(capi))
    assert (found["app-6"].customer, found["app-5"].customer) == (None, "org-1")


async def test_an_answer_that_is_not_compressed_as_it_says_is_refused(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", status=200, body="{}", headers={"Content-Encoding": "gzip"})
    (failure,) = (await sweep_of(capi)).failures
    assert failure.detail == "apps: the platform does not compress its answers as it says"


async def test_nobody_is_followed_elsewhere(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", status=302, headers={"Location": "/v3/processes"})
    (failure,) = (await sweep_of(capi)).failures
    assert failure.detail == "apps: the platform answered 302"
