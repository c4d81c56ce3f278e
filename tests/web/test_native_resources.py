"""Routes of where customers and resources stand, and of usage along it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item

CUSTOMERS = "/api/v1/customers"
PLATFORM = "apps.usage.cforg_%.space_%.*{1,}"


def at(key: str, *more: str) -> str:
    return "/".join((CUSTOMERS, *(quote(part, safe="") for part in (key, *more))))


async def use(client: httpx.AsyncClient, key: str, value: object, time: str, **more: object) -> None:
    event = {"id": f"{key}-{time}-{more}", "subject": key, "type": "cfapps", "time": time}
    data = {"value": value, **more}
    assert (await client.post("/api/v1/events", json={**event, "data": data})).json()["accepted"] == 1


@pytest.fixture
async def asked(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Three customers and a meter whose unit costs one credit."""
    for key in ("ada", "bob", "größe/2"):
        assert (await client.post(CUSTOMERS, json={"key": key, "name": key.title()})).status_code == 201
    await client.put("/api/v1/meters/cfapps", json={})
    price = {"meter": "cfapps", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "1"}}
    assert (await client.post("/api/v1/prices", json=price)).status_code == 201
    return client


# Customers below customers


async def test_a_customer_is_moved_with_all_below_it(asked: httpx.AsyncClient) -> None:
    moved = await asked.put(at("ada", "parent"), json={"parent": "größe/2"})
    assert (moved.status_code, moved.json()) == (
        200,
        {"key": "ada", "name": "Ada", "parent": "größe/2", "level": 2, "slug": "ada", "path": "gr__e_2.ada"},
    )
    await asked.put(at("bob", "parent"), json={"parent": "ada"})
    below = (await asked.get(at("größe/2", "descendants"))).json()
    assert [(item["key"], item["path"]) for item in below["items"]] == [
        ("ada", "gr__e_2.ada"),
        ("bob", "gr__e_2.ada.bob"),
    ]
    above = (await asked.get(at("bob", "ancestors"), params={"limit": 1})).json()
    assert [item["key"] for item in above["items"]] == ["ada"]
    rest = (await asked.get(at("bob", "ancestors"), params={"cursor": above["next"]})).json()
    assert ([item["key"] for item in rest["items"]], rest["next"]) == (["größe/2"], None)
    top = await asked.put(at("ada", "parent"), json={"parent": None})
    assert (top.json()["level"], top.json()["parent"]) == (1, None)
    assert (await asked.get(at("bob"))).json()["parent"] == "ada"


async def test_a_move_of_a_customer_is_refused_with_field_and_rule(asked: httpx.AsyncClient) -> None:
    await asked.put(at("bob", "parent"), json={"parent": "ada"})
    for key, body, status, field in (
        ("ada", {"parent": "bob"}, 409, "parent"),
        ("ada", {"parent": "ada"}, 409, "parent"),
        ("ada", {"parent": "ghost"}, 422, "parent"),
        ("ada", {"parent": ""}, 422, "parent"),
        ("ada", {"parent": 1}, 422, "parent"),
        ("ada", {}, 422, "parent"),
        ("ada", {"parent": None, "payer": "bob"}, 422, "payer"),
        ("ghost", {"parent": None}, 404, "key"),
    ):
        refused = await asked.put(at(key, "parent"), json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), (body, refused.text)
        assert refused.headers["content-type"] == "application/problem+json"
    for what in ("ancestors", "descendants", "resources"):
        missing = await asked.get(at("ghost", what))
        assert (missing.status_code, missing.json()["detail"]) == (404, "there is no customer 'ghost'")


# Resources


async def test_resources_are_placed_found_moved_and_forgotten(asked: httpx.AsyncClient) -> None:
    one = await asked.put(at("ada", "resources", "cfapps", "guid/1"), json={"path": "a.b"})
    assert one.status_code == 200
    assert one.json() == {
        "meter": "cfapps",
        "resource": "guid/1",
        "name": None,
        "path": "a.b",
        "slug": "b",
        "pinned": True,
        "created_at": "2026-11-20T12:00:00Z",
        "placed_at": "2026-11-20T12:00:00Z",
    }
    assert (await asked.get(at("ada", "resources", "cfapps", "guid/1"))).json() == one.json()
    named = await asked.put(
        at("ada", "resources", "cfapps", "2"), json={"parent": "a.b", "name": "my app", "pinned": False}
    )
    assert (named.json()["path"], named.json()["pinned"]) == ("a.b.my_app", False)
    items = [
        {"meter": "cfapps", "resource": "3", "path": "a.c"},
        {"meter": "cfapps", "resource": "guid/1", "path": "a.b"},
    ]
    bulk = await asked.put(at("ada", "resources"), json={"items": items})
    assert bulk.json() == {"changed": 1, "unchanged": 1}
    moved = await asked.post(at("ada", "resources", "move"), json={"path": "a.b", "to": "x"})
    assert moved.json() == {"path": "x.b", "resources": 2}
    for wanted, found in (
        ({}, ["a.c", "x.b", "x.b.my_app"]),
        ({"under": "x"}, ["x.b", "x.b.my_app"]),
        ({"over": "x.b.my_app"}, ["x.b"]),
        ({"slug": "c"}, ["a.c"]),
        ({"pattern": "%.b.*"}, ["x.b", "x.b.my_app"]),
        ({"meter": "other"}, []),
    ):
        page = (await asked.get(at("ada", "resources"), params=wanted)).json()
        assert [item["path"] for item in page["items"]] == found, wanted
    first = (await asked.get(at("ada", "resources"), params={"limit": 2})).json()
    rest = (await asked.get(at("ada", "resources"), params={"cursor": first["next"]})).json()
    assert [item["path"] for page in (first, rest) for item in page["items"]] == ["a.c", "x.b", "x.b.my_app"]
    assert (await asked.delete(at("ada", "resources", "cfapps", "3"))).status_code == 204
    assert (await asked.get(at("ada", "resources", "cfapps", "3"))).status_code == 404
    again = await asked.delete(at("ada", "resources", "cfapps", "3"))
    assert (again.status_code, again.json()["field"]) == (404, "resource")


async def test_a_place_is_refused_with_field_and_rule(asked: httpx.AsyncClient) -> None:
    one = at("ada", "resources", "cfapps", "1")
    for body, field in (
        ({}, "name"),
        ({"parent": "a"}, "name"),
        ({"path": "a", "name": "b"}, "path"),
        ({"path": "a", "parent": "b"}, "path"),
        ({"path": "a-b"}, "path"),
        ({"path": ""}, "path"),
        ({"path": "p" * 257}, "path"),
        ({"path": "p" * 1025}, "path"),
        ({"path": 1}, "path"),
        ({"parent": "a.", "name": "b"}, "path"),
        ({"path": "a", "pinned": "yes"}, "pinned"),
        ({"path": "a", "slug": "a"}, "slug"),
    ):
        refused = await asked.put(one, json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (body, refused.text)
    unknown = await asked.put(at("ada", "resources", "nothing", "1"), json={"path": "a"})
    assert (unknown.status_code, unknown.json()["detail"]) == (422, "meter names no meter: 'nothing'")
    item = {"meter": "cfapps", "resource": "1", "path": "a"}
    for items, field in (
        ([], "items"),
        ([item] * 1001, "items"),
        ([item, item], "resource"),
        ([item, {**item, "resource": "2", "path": "."}], "path"),
        ([item, {**item, "resource": 2}], "items[1].resource"),
    ):
        refused = await asked.put(at("ada", "resources"), json={"items": items})
        assert (refused.status_code, refused.json()["field"]) == (422, field), refused.text
    assert (await asked.get(at("ada", "resources"))).json()["items"] == []


async def test_a_move_of_resources_is_refused_with_field_and_rule(asked: httpx.AsyncClient) -> None:
    items = [{"meter": "cfapps", "resource": path, "path": path} for path in ("a.b", "a.b.c", "x.b")]
    await asked.put(at("ada", "resources"), json={"items": items})
    for body, status, field in (
        ({"path": "a.b", "to": "a.b"}, 422, "to"),
        ({"path": "a.b", "to": "a.b.c.d"}, 422, "to"),
        ({"path": "a.b", "to": "a"}, 422, "to"),
        ({"path": "a.z", "to": "x"}, 404, "path"),
        ({"path": "a.b", "to": "x"}, 409, "to"),
        ({"path": "a.b", "to": "x y"}, 422, "to"),
        ({"path": "a.b"}, 422, "to"),
        ({"path": "a.b", "to": "y", "name": ""}, 422, "name"),
    ):
        refused = await asked.post(at("ada", "resources", "move"), json=body)
        assert (refused.status_code, refused.json()["field"]) == (status, field), (body, refused.text)
    merged = await asked.post(at("ada", "resources", "move"), json={"path": "a.b", "to": "x", "merge": True})
    assert merged.json() == {"path": "x.b", "resources": 2}


# Usage along the tree


async def test_usage_is_rolled_up(asked: httpx.AsyncClient) -> None:
    for resource, path in (("1", "apps.usage.cforg_x.space_web_dev.app_z"), ("2", "orphan.app_q")):
        await asked.put(at("ada", "resources", "cfapps", resource), json={"path": path})
    rate = {"in": "USD", "rate": "50", "effective_from": "2026-01-01T00:00:00Z"}
    assert (await asked.post("/api/v1/assets/CREDIT/rates", json=rate)).status_code == 201
    for resource, value in (("1", "3.5004"), ("2", "2"), ("3", "1")):
        await use(asked, "ada", value, "2026-11-10T12:00:00Z", resource=resource)
    answer = await asked.get(
        at("ada", "usage", "tree"), params={"month": "2026-11", "pattern": PLATFORM, "display": "USD"}
    )
    assert answer.status_code == 200
    tree = answer.json()
    assert (tree["customer"], tree["name"], tree["pattern"]) == ("ada", "Ada", PLATFORM)
    (november,) = tree["periods"]
    assert (november["period"], november["start"], november["end"]) == (
        "2026-11",
        "2026-11-01T04:00:00Z",
        "2026-12-01T05:00:00Z",
    )
    (organization,) = november["tree"]
    assert (organization["level"], organization["name"], organization["path"]) == (
        "organization",
        "cforg_x",
        "apps.usage.cforg_x",
    )
    (amount,) = organization["amounts"]
    assert {name: amount[name] for name in ("asset", "microunits", "amount", "rounded")} == {
        "asset": "CREDIT",
        "microunits": "3500400",
        "amount": "3.5004",
        "rounded": "3.500",
    }
    assert (amount["display"]["asset"], amount["display"]["amount"]) == ("USD", "175.02")
    names, node = [], organization
    while node:
        names.append((node["level"], node["name"]))
        node = next(iter(node["children"]), None)
    assert names == [
        ("organization", "cforg_x"),
        ("space_family", "space_web"),
        ("space", "space_web_dev"),
        ("leaf", "app_z"),
    ]
    assert [november[name]["amounts"][0]["amount"] for name in ("selected", "elsewhere", "unplaced", "total")] == [
        "3.5004",
        "2",
        "1",
        "6.5004",
    ]
    bill = (await asked.get(at("ada", "bill"), params={"month": "2026-11"})).json()
    assert bill["totals"][0]["amount"] == november["total"]["amounts"][0]["amount"]


async def test_usage_of_several_periods_and_of_all_below(asked: httpx.AsyncClient) -> None:
    await asked.put(at("bob", "parent"), json={"parent": "ada"})
    for month, value in (("09", "1"), ("10", "2"), ("11", "4")):
        await use(asked, "ada", value, f"2026-{month}-10T12:00:00Z")
        await use(asked, "bob", value, f"2026-{month}-10T12:00:00Z")

    async def totals(**query: Any) -> dict[str, list[str]]:
        answer = await asked.get(at("ada", "usage", "tree"), params=query)
        assert answer.status_code == 200, answer.text
        return {
            period["period"]: [amount["amount"] for amount in period["total"]["amounts"]]
            for period in answer.json()["periods"]
        }

    assert await totals() == {"2026-11": ["4"]}
    assert await totals(descendants=True) == {"2026-11": ["8"]}
    assert await totals(after=-2) == {"2026-09": ["1"], "2026-10": ["2"]}
    assert await totals(before=1) == {"2026-10": ["2"], "2026-11": ["4"]}
    assert await totals(period="year", before=1) == {"2025": [], "2026": ["7"]}
    assert await totals(period="day", after=-10, before=-9) == {"2026-11-10": ["4"]}
    assert await totals(month="2026-10", depth=0) == {"2026-10": ["2"]}


async def test_a_report_is_refused_with_field_and_rule(asked: httpx.AsyncClient) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"month": "2026-13"}, "month"),
        ({"month": "2026-11", "after": -1}, "month"),
        ({"period": "decade"}, "period"),
        ({"after": 0, "before": 0}, "after"),
        ({"after": -100}, "after"),
        ({"after": "x"}, "after"),
        ({"before": 10**9}, "before"),
        ({"pattern": "a b"}, "pattern"),
        ({"pattern": ""}, "pattern"),
        ({"pattern": "*{99}"}, "pattern"),
        ({"depth": -1}, "depth"),
        ({"depth": 33}, "depth"),
        ({"descendants": "perhaps"}, "descendants"),
        ({"display": "XXY"}, "display"),
    )
    for query, field in cases:
        refused = await asked.get(at("ada", "usage", "tree"), params=query)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (query, refused.text)
    assert (await asked.get(at("ghost", "usage", "tree"))).status_code == 404


async def test_a_path_of_hundreds_of_labels_is_shown(asked: httpx.AsyncClient) -> None:
    await asked.put(at("ada", "resources", "cfapps", "1"), json={"path": ".".join("a" * 512)})
    await use(asked, "ada", "1", "2026-11-10T12:00:00Z", resource="1")
    assert (await asked.get(at("ada", "usage", "tree"))).status_code == 200


# Who is meant by a name


async def test_customers_are_found_by_name_and_id(asked: httpx.AsyncClient) -> None:
    await asked.post(CUSTOMERS, json={"key": "nameless-ada"})

    async def keys(**query: str) -> list[str]:
        return [item["key"] for item in (await asked.get(CUSTOMERS, params=query)).json()["items"]]

    assert await keys(name="ADA") == ["ada", "nameless-ada"], "one without a name is called by its key"
    assert await keys(name="^ada$") == ["ada"]
    assert await keys(name="b.b|größe") == ["bob", "größe/2"]
    assert await keys(name="nobody") == []
    identity = (await asked.get(at("bob"))).json()["id"]
    assert await keys(id=identity) == ["bob"]
    assert await keys(id=identity, name="ada") == []
    assert await keys(id="00000000-0000-0000-0000-000000000000") == []
    first = (await asked.get(CUSTOMERS, params={"name": "a", "limit": 1})).json()
    assert [item["key"] for item in first["items"]] == ["ada"]
    rest = (await asked.get(CUSTOMERS, params={"name": "a", "cursor": first["next"]})).json()
    assert [item["key"] for item in rest["items"]] == ["nameless-ada"]


@pytest.mark.parametrize("name", ["(", "[", "a{2,1}", "*", "a" * 257, "", "((((a{200}){200}){200}){200})"])
async def test_a_name_that_is_no_expression_is_refused(asked: httpx.AsyncClient, name: str) -> None:
    refused = await asked.get(CUSTOMERS, params={"name": name})
    assert (refused.status_code, refused.json()["field"]) == (422, "name")


async def test_a_name_that_takes_too_long_is_given_up(
    asked: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking back at groups can take longer than anybody waits; the database is told to stop."""
    monkeypatch.setattr("tallystick.customers.service.SEARCH_MILLISECONDS", 100)
    await asked.post(CUSTOMERS, json={"key": "slow", "name": "a" * 250 + "b"})
    refused = await asked.get(CUSTOMERS, params={"name": r"^(.+)(.+)(.+)(.+)\1\2\3\4$"})
    assert (refused.status_code, refused.json()["field"]) == (422, "name")
    assert "too long" in refused.json()["detail"]
    assert (await asked.get(CUSTOMERS, params={"name": "slow"})).status_code == 200


async def test_resources_show_what_their_source_calls_them(service: Service, asked: httpx.AsyncClient) -> None:
    source = Sweepable(items=[item("guid", path="apps.shop_1", name="Shop №1")])
    await service.readings.take(source, periodic=True)
    (shown,) = (await asked.get(at("ada", "resources"))).json()["items"]
    assert (shown["resource"], shown["name"], shown["path"]) == ("guid", "Shop №1", "apps.shop_1")
    assert (await asked.get(at("ada", "resources", "cfapps", "guid"))).json() == shown
