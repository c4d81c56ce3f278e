"""What the OpenStack credits service's callers depend on: its routes, shapes, statuses and reasons."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import pytest

from tallystick.kernel.money import MICROUNITS
from tallystick.service import Service
from tests.web.conftest import asking

START = datetime(2019, 1, 8, tzinfo=UTC)
HOUR = 3600


def line(value: object, hours: int, project: str = "os_credits_1", metric: str = "project_vcpu_usage") -> str:
    """A line as the exporter, Prometheus and InfluxDB make it: a running total, ``hours`` after the start."""
    timestamp = (int(START.timestamp()) + hours * HOUR) * 10**9
    return (
        f"{metric},__name__={metric},domain_id=default,domain_name=elixir,instance=usage_exporter:8080,job=project_usages,"
        f"location=site-a,location_id=8676,project_id=123,project_name={project} value={value} {timestamp}"
    )


async def write(client: httpx.AsyncClient, lines: Iterable[str] | bytes, query: str = "") -> httpx.Response:
    body = lines if isinstance(lines, bytes) else "\n".join(lines).encode()
    return await client.post(f"/write{query}", content=body, headers={"Content-Type": "text/plain"})


async def history(client: httpx.AsyncClient, project: str = "os_credits_1", **query: str) -> httpx.Response:
    return await client.get(f"/api/credits_history/{project}", params=query)


@pytest.fixture
async def used(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A project with 200 granted credits that used 5 of them in an hour, then 1.5, then 0.3 for memory."""
    await client.post("/api/v1/customers", json={"key": "os_credits_1"})
    await client.post("/api/v1/customers/os_credits_1/grants", json={"asset": "CREDIT", "amount": "200"})
    for part in (
        [line("12.5", 0), line("17.5", 1)],
        [line(19, 2), line(0, 0, metric="project_mb_usage"), line(1024, 3, metric="project_mb_usage")],
    ):
        assert (await write(client, part)).status_code == 202
    return client


# /ping


async def test_ping(client: httpx.AsyncClient) -> None:
    pong = await client.get("/ping")
    assert (pong.status_code, pong.text) == (200, "Pong")
    assert pong.headers["content-type"].startswith("text/plain")
    for method in ("POST", "PUT", "DELETE"):
        refused = await client.request(method, "/ping")
        assert (refused.status_code, refused.text) == (405, "405: Method Not Allowed")
        assert refused.headers["allow"] == "GET"


# /write


async def test_write_answers_202_with_nothing_once_the_lines_are_charged(
    client: httpx.AsyncClient, service: Service
) -> None:
    answer = await write(client, [line("12.5", 0), line("17.5", 1)], "?db=uploads&rp=autogen")
    assert (answer.status_code, answer.content) == (202, b"")
    async with service.pool.connection() as conn:
        (payer,) = [payer for _, payer in (await service.customers.find(conn, ["os_credits_1"])).values()]
        left = {each: left.balance for each, left in (await service.wallets.left(conn, [payer.id], 1)).items()}
    assert left == {payer.id: -5 * MICROUNITS}


@pytest.mark.parametrize("path", ["/write", "/api/v2/write"])
async def test_write_answers_the_same_to_garbage_and_keeps_it(client: httpx.AsyncClient, path: str) -> None:
    garbage = [b"", b"\n\n", b"garbage", b"\xff\xfe\x00", b"{}", b"cpu value=1", b'x,project_name=a value="text" 1']
    for body in garbage:
        answer = await client.post(path, content=body)
        assert (answer.status_code, answer.content) == (202 if path == "/write" else 204, b""), body
    kept = (await client.get("/api/v1/quarantine")).json()["items"]
    assert {piece["source"] for piece in kept} == {"line-protocol"}
    assert len(kept) == 5


async def test_a_bad_line_harms_no_other(client: httpx.AsyncClient) -> None:
    await write(client, [line(1, 0), "nonsense", line(3, 1)])
    assert (await history(client)).json()["credits"] == ["credits", -2]


async def test_lines_of_unknown_measurements_wait_for_their_meter(client: httpx.AsyncClient) -> None:
    await write(client, [line(1, 0, metric="go_gc_duration"), line(4, 1, metric="go_gc_duration")])
    meters = (await client.get("/api/v1/meters")).json()["items"]
    assert [meter["key"] for meter in meters] == ["project_mb_usage", "project_vcpu_usage"]
    kept = (await client.get("/api/v1/quarantine")).json()["items"]
    assert {(piece["source"], piece["code"]) for piece in kept} == {("measurement", "unknown_meter")}
    await client.put("/api/v1/meters/go_gc_duration", json={"kind": "counter", "name": "gc"})
    price = {"meter": "go_gc_duration", "effective_from": "2000-01-01T00:00:00Z", "model": {"type": "dynamic"}}
    await client.post("/api/v1/prices", json=price | {"model": {"type": "per_unit", "amount": "2"}})
    replayed = (await client.post("/api/v1/quarantine/replay", json={})).json()
    assert replayed["recorded"] == 2
    assert (await history(client)).json()["metrics"] == ["metrics", "gc"]


async def test_timestamps_have_the_precision_that_is_asked_for(client: httpx.AsyncClient) -> None:
    for precision, timestamp in (
        ("s", "1546905600"),
        ("ms", "1546905601000"),
        ("h", "429697"),
        ("u", "1546905603000000"),
    ):
        await write(client, [f"project_vcpu_usage,location_id=1,project_name={precision} value=0 0"])
        answer = await write(
            client,
            [f"project_vcpu_usage,location_id=1,project_name={precision} value=1 {timestamp}"],
            f"?precision={precision}",
        )
        assert answer.status_code == 202
        stamp = (await history(client, precision)).json()["timestamps"][1]
        assert stamp.startswith("2019-01-08 0")
    refused = await write(client, [line(1, 0)], "?precision=fortnight")
    assert (refused.status_code, refused.text.partition(": ")[0]) == (400, "400")


async def test_virtual_projects_that_one_project_hosts_are_charged_apart(client: httpx.AsyncClient) -> None:
    """The exporter tells them apart by ``project_name``; id, domain and location are of the project that they share."""
    await write(client, [line(10, 0, "one"), line(1000, 0, "two"), line(1003, 1, "two"), line(11, 1, "one")])
    for project, left in (("one", -1), ("two", -3)):
        assert (await history(client, project)).json()["credits"] == ["credits", left]


async def test_projects_outside_the_whitelist_are_ignored(service: Service) -> None:
    async with asking(service, project_whitelist="in;also in") as client:
        await write(client, [line(value, value, project) for value in (1, 2) for project in ("in", "out")])
        assert (await history(client, "in")).status_code == 200
        assert (await history(client, "out")).status_code == 404
        assert (await client.get("/api/v1/quarantine")).json()["items"] == []
        customers = (await client.get("/api/v1/customers")).json()["items"]
        assert [customer["key"] for customer in customers] == ["in"]


async def test_write_has_limits(service: Service) -> None:
    async with asking(service, max_body_bytes=2048, max_events=3) as client:
        long = await write(client, b"x" * 2049)
        assert (long.status_code, long.text) == (413, "413: the body must not be longer than 2048 bytes")
        many = await write(client, b"a\n" * 4)
        assert (many.status_code, many.text) == (413, "413: the body must have at most 3 lines")


async def test_better_than_before_what_cannot_be_kept_is_not_said_to_be_accepted(
    client: httpx.AsyncClient, service: Service
) -> None:
    """[B]: theirs said 202 to what stood in its memory only, and lost it with the process."""
    await service.pool.close()
    answer = await write(client, [line(1, 0)])
    assert (answer.status_code, answer.text) == (503, "503: the database cannot be reached")


# /api/credits_history


async def test_history_shows_what_is_left_newest_first(used: httpx.AsyncClient) -> None:
    shown = await history(used)
    assert shown.status_code == 200
    assert shown.headers["content-type"] == "application/json"
    assert shown.text == (
        '{"timestamps":["timestamps","2019-01-08 03:00:00","2019-01-08 02:00:00","2019-01-08 01:00:00"],'
        '"credits":["credits",193.2,193.5,195.0],"metrics":["metrics","ram","cpu","cpu"]}'
    )


async def test_history_can_show_what_is_used_oldest_first(used: httpx.AsyncClient) -> None:
    assert (await history(used, view="used")).text == (
        '{"timestamps":["timestamps","2019-01-08 01:00:00","2019-01-08 02:00:00","2019-01-08 03:00:00"],'
        '"credits":["credits",5.0,6.5,6.8],"metrics":["metrics","cpu","cpu","ram"]}'
    )
    assert (await history(used, view="both")).status_code == 400


async def test_history_includes_both_ends_of_its_range(used: httpx.AsyncClient) -> None:
    exactly = await history(used, start_date="2019-01-08 01:00:00", end_date="2019-01-08 02:00:00")
    assert exactly.json()["timestamps"][1:] == ["2019-01-08 02:00:00", "2019-01-08 01:00:00"]
    since = await history(used, start_date="2019-01-08 01:00:01")
    assert since.json()["timestamps"][1:] == ["2019-01-08 03:00:00", "2019-01-08 02:00:00"]
    until = await history(used, end_date="2019-01-08 01:59:59")
    assert until.json()["timestamps"][1:] == ["2019-01-08 01:00:00"]


async def test_the_last_second_of_a_range_is_whole(client: httpx.AsyncClient) -> None:
    first, second = line(1, 0), line(2, 1)
    await write(client, [first, f"{second[:-9]}999999000"])
    shown = await history(client, end_date="2019-01-08 01:00:00")
    assert shown.json()["timestamps"][1:] == ["2019-01-08 01:00:00"]


@pytest.fixture(params=["America/New_York", "Asia/Kathmandu"])
def zone_of_the_machine(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the process, and whatever it starts, takes for local time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


async def test_better_than_before_times_are_utc_wherever_the_machine_stands(
    zone_of_the_machine: str, used: httpx.AsyncClient
) -> None:
    """[B]: theirs took the time of a line for local time, so that it was another one on another machine."""
    assert time.localtime(0).tm_gmtoff
    shown = await history(used, start_date="2019-01-08 01:00:00", end_date="2019-01-08 02:00:00")
    assert shown.json()["timestamps"][1:] == ["2019-01-08 02:00:00", "2019-01-08 01:00:00"]
    await write(used, ["project_vcpu_usage,location_id=8676,project_name=os_credits_1 value=20"])
    charges = (await used.get("/api/v1/customers/os_credits_1/charges")).json()["items"]
    assert charges[0]["at"] == "2026-11-20T12:00:00Z"  # when it came, by the service's clock


async def test_rises_that_round_to_nothing_stand_in_the_history_once_they_are_visible(
    client: httpx.AsyncClient,
) -> None:
    """Each is worth 0.004 credits, which two places do not show by itself."""
    await write(client, [line(f"{10 + hours * 0.004:.3f}", hours) for hours in range(6)])
    assert (await history(client, view="used")).text == (
        '{"timestamps":["timestamps","2019-01-08 02:00:00","2019-01-08 04:00:00"],'
        '"credits":["credits",0.01,0.02],"metrics":["metrics","cpu","cpu"]}'
    )


async def test_history_of_an_empty_range_is_204(used: httpx.AsyncClient) -> None:
    empty = await history(used, start_date="2020-01-01 00:00:00")
    assert (empty.status_code, empty.content) == (204, b"")


async def test_a_project_without_history_is_404(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/customers", json={"key": "idle"})
    await write(client, [line(1, 0, "baseline")])
    for project in ("idle", "baseline", "unknown"):
        missing = await history(client, project)
        assert (missing.status_code, missing.text) == (404, f"404: There is no history for project {project}")
        assert missing.headers["content-type"].startswith("text/plain")


async def test_what_cannot_be_a_range_or_a_project_is_400(used: httpx.AsyncClient) -> None:
    instant = "2019-01-08 01:00:00"
    for query, reason in (
        ({"start_date": "yesterday"}, "start_date must be a time as 2019-01-08 00:00:00"),
        ({"start_date": ""}, "start_date must be a time as 2019-01-08 00:00:00"),
        ({"end_date": "2019-02-30 00:00:00"}, "end_date must be a time as 2019-01-08 00:00:00"),
        ({"end_date": "2019-01-08T00:00:00"}, "end_date must be a time as 2019-01-08 00:00:00"),
        ({"start_date": instant, "end_date": instant}, "end_date must be later than start_date"),
        ({"start_date": instant, "end_date": "2018-01-01 00:00:00"}, "end_date must be later than start_date"),
    ):
        refused = await history(used, **query)
        assert (refused.status_code, refused.text) == (400, f"400: {reason}"), query
    for name, reason in (
        ("%00", "Project name must not contain NUL"),
        ("x" * 257, "Project name must have at most 256 characters"),
    ):
        refused = await used.get(f"/api/credits_history/{name}")
        assert (refused.status_code, refused.text) == (400, f"400: {reason}"), name
    for name in ("%20", "%20%09", "%7Bproject_name%7D", "{project_name}"):
        refused = await used.get(f"/api/credits_history/{name}")
        assert (refused.status_code, refused.text) == (400, "400: Project name must not be blank"), name


async def test_names_of_projects_may_hold_anything(client: httpx.AsyncClient) -> None:
    for name, escaped in (("a b", r"a\ b"), ("a/b", "a/b"), ("50%", "50%"), ("é,=", r"é\,\="), ("usage", "usage")):
        await write(client, [line(1, 0, escaped), line(2, 1, escaped)])
        shown = await client.get(f"/api/credits_history/{quote(name, safe='')}")
        assert shown.status_code == 200, name


# /api/metrics and /api/costs_per_hour


async def test_metrics_are_the_counters_by_their_friendly_names(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/tokens", json={"kind": "delta", "name": "tokens"})
    metrics = (await client.get("/api/metrics")).json()
    assert metrics == {
        "cpu": {
            "type": "int",
            "description": "vCPU hours of a project, as a running total",
            "name": "project_vcpu_usage",
            "friendly_name": "cpu",
        },
        "ram": {
            "type": "int",
            "description": "MiB hours of memory of a project, as a running total",
            "name": "project_mb_usage",
            "friendly_name": "ram",
        },
    }


async def test_friendly_names_are_unique(client: httpx.AsyncClient) -> None:
    for key in ("z_second", "a_first"):
        await client.put(f"/api/v1/meters/{key}", json={"kind": "counter", "name": "twin"})
    await client.put("/api/v1/meters/nameless", json={"kind": "counter"})
    metrics = (await client.get("/api/metrics")).json()
    assert {name: metric["name"] for name, metric in metrics.items() if name not in ("cpu", "ram")} == {
        "twin": "a_first",
        "z_second": "z_second",
        "nameless": "nameless",
    }


async def costs(client: httpx.AsyncClient, body: str) -> tuple[int, str]:
    answer = await client.post("/api/costs_per_hour", content=body.encode())
    return answer.status_code, answer.text


async def test_costs_are_a_bare_number(client: httpx.AsyncClient) -> None:
    assert await costs(client, '{"cpu": 16, "ram": 32768}') == (200, "25.6")
    assert await costs(client, '{"cpu": 1}') == (200, "1")
    assert await costs(client, "{}") == (200, "0")


async def test_each_cost_is_rounded_half_even_to_the_precision(client: httpx.AsyncClient, service: Service) -> None:
    # 17 x 0.3 / 1024 = 0.00498..., 256 x 0.3 / 1024 = 0.075, 128 x 0.3 / 1024 = 0.0375
    assert await costs(client, '{"ram": 17}') == (200, "0")
    assert await costs(client, '{"ram": 256}') == (200, "0.08")
    async with asking(service, os_credits_precision=3) as precise:
        assert await costs(precise, '{"ram": 128}') == (200, "0.038")
        assert await costs(precise, '{"ram": 17}') == (200, "0.005")


async def test_costs_follow_the_price_in_force_now(client: httpx.AsyncClient) -> None:
    for start, amount in (("2026-11-01T00:00:00Z", "2"), ("2026-12-01T00:00:00Z", "3")):
        price = {"meter": "project_vcpu_usage", "effective_from": start, "quantum": "0.01"}
        await client.post("/api/v1/prices", json=price | {"model": {"type": "per_unit", "amount": amount}})
    assert await costs(client, '{"cpu": 16}') == (200, "32")


async def test_costs_of_what_is_no_amount_are_400(client: httpx.AsyncClient) -> None:
    for body in (
        "",
        "{",
        "nonsense",
        "[]",
        "1",
        '"cpu"',
        "null",
        '{"cpu": NaN}',
        "\udcff",
        '{"cpu": ' + "1" * 5000 + "}",
    ):
        status, text = await costs(client, body.encode("utf-8", "surrogateescape").decode("latin-1"))
        assert (status, text[:5]) == (400, "400: "), body
    for amount in ("1.5", "1.0", '"1"', '"many"', "true", "null", "[]", "{}", "1" * 19):
        status, text = await costs(client, f'{{"cpu": {amount}}}')
        assert (status, text) == (400, "400: The amount of cpu must be an integer of at most 1000000000000000000"), (
            amount
        )


async def test_costs_of_an_unknown_metric_are_404(client: httpx.AsyncClient) -> None:
    assert await costs(client, '{"gpu": 1}') == (404, "404: There is no metric gpu")
    assert await costs(client, r'{"\ud800": 1}') == (404, r"404: There is no metric \ud800")
    await client.put("/api/v1/meters/free", json={"kind": "counter"})
    assert await costs(client, '{"free": 1}') == (404, "404: There is no price for metric free")


# Who may call


async def test_without_dev_every_route_but_ping_asks_for_a_key(service: Service) -> None:
    async with asking(service, dev=False, api_keys="secret") as client:  # pragma: allowlist secret
        assert (await client.get("/ping")).status_code == 200
        for method, path in (
            ("POST", "/write"),
            ("GET", "/api/credits_history/p"),
            ("GET", "/api/metrics"),
            ("POST", "/api/costs_per_hour"),
        ):
            refused = await client.request(method, path)
            assert (refused.status_code, refused.text) == (401, "401: Missing Authorization header")
            wrong = await client.request(method, path, headers={"Authorization": "Bearer no"})
            assert (wrong.status_code, wrong.text) == (403, "403: Invalid API key")
        let_in = await client.get("/api/metrics", headers={"Authorization": "Bearer secret"})
        assert let_in.status_code == 200
        token = await client.post("/write", content=b"", headers={"Authorization": "Token secret"})
        assert token.status_code == 202
