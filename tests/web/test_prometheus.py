"""``POST /api/v1/prometheus/write``: what senders of remote write are answered, and what is charged."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.kernel.errors import Overloaded, Unavailable
from tallystick.metering.series import OPENSTACK, SeriesMap
from tallystick.metering.service import IntakeQueue
from tallystick.metering.sources.prometheus import Reader
from tallystick.service import Service
from tests.metering.sources.remote_write import HEADERS_V1, HEADERS_V2, STALE, Series, WriteRequest, compressed, v1, v2
from tests.web.conftest import asking
from tests.web.test_openstack_credits import START, history, line

HOUR = 3_600_000
AT = int(START.timestamp()) * 1000


def labels(project: str = "os_credits_1", metric: str = "project_vcpu_usage") -> dict[str, str]:
    """Those of the line that InfluxDB makes of it."""
    return {
        "__name__": metric,
        "domain_id": "default",
        "domain_name": "elixir",
        "instance": "usage_exporter:8080",
        "job": "project_usages",
        "location": "site-a",
        "location_id": "8676",
        "project_id": "123",
        "project_name": project,
    }


def totals(*values: float, project: str = "os_credits_1", metric: str = "project_vcpu_usage") -> Series:
    """Hourly readings of a project's running total."""
    return labels(project, metric), [(value, AT + hour * HOUR) for hour, value in enumerate(values)]


async def write(client: httpx.AsyncClient, *series: Series, version: int = 1, **more: str) -> httpx.Response:
    message, headers = (v1(*series), HEADERS_V1) if version == 1 else (v2(*series), HEADERS_V2)
    return await send(client, compressed(message), headers | more)


async def send(client: httpx.AsyncClient, body: bytes, headers: dict[str, str] = HEADERS_V1) -> httpx.Response:
    return await client.post("/api/v1/prometheus/write", content=body, headers=headers)


def written(answer: httpx.Response) -> tuple[int, ...]:
    """Samples, histograms and exemplars written; new ones, duplicates, and those that are no usage."""
    names = [f"X-Prometheus-Remote-Write-{kind}-Written" for kind in ("Samples", "Histograms", "Exemplars")]
    names += [f"X-Tallystick-{kind}" for kind in ("Accepted", "Duplicates", "Ignored")]
    return tuple(int(answer.headers[name]) for name in names)


async def used(client: httpx.AsyncClient, project: str = "os_credits_1") -> Any:
    return (await history(client, project, view="used")).json()["credits"][1:]


async def quarantined(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await client.get("/api/v1/quarantine")).json()["items"]
    return items


@pytest.mark.parametrize("version", [1, 2])
async def test_samples_are_charged_once_it_answers(client: httpx.AsyncClient, version: int) -> None:
    answer = await write(client, totals(12.5, 17.5), totals(0, 1024, metric="project_mb_usage"), version=version)
    assert (answer.status_code, answer.content) == (204, b"")
    assert written(answer) == (4, 0, 0, 4, 0, 0)
    assert (await used(client))[-1] == 5.3


@pytest.mark.parametrize("version", [1, 2])
async def test_a_request_that_is_sent_again_counts_once(client: httpx.AsyncClient, version: int) -> None:
    answers = await asyncio.gather(*(write(client, totals(1, 3, 4), version=version) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {204}
    assert sum(written(answer)[3] for answer in answers) == 3
    assert all(written(answer)[0] == 3 for answer in answers)
    assert (await write(client, totals(1, 3, 4), version=3 - version)).status_code == 204
    assert (await used(client))[-1] == 3


async def test_the_same_sample_counts_once_through_remote_write_and_through_write(client: httpx.AsyncClient) -> None:
    """InfluxDB, to which Prometheus writes as well, mirrors the very samples to /write."""
    await write(client, totals(12.5, 17.5))
    lines = "\n".join([line("12.5", 0), line("17.5", 1), line("18.25", 2)])
    await client.post("/write", content=lines.encode())
    answer = await write(client, totals(12.5, 17.5, 18.25, 20))
    assert written(answer)[3:] == (1, 3, 0)
    assert (await used(client))[-1] == 7.5


async def test_each_location_has_a_baseline_of_its_own(client: httpx.AsyncClient) -> None:
    elsewhere = labels() | {"location": "site-b", "location_id": "8677"}
    await write(client, totals(1000, 1001), (elsewhere, [(7.0, AT), (9.0, AT + HOUR)]))
    assert (await used(client))[-1] == 3


async def test_a_total_that_falls_is_a_new_base_and_does_not_stop_the_charging(client: httpx.AsyncClient) -> None:
    """The first system charged nothing more until the old total was reached again."""
    for value, hour in ((100.0, 0), (110.0, 1), (40.0, 2), (45.0, 3)):
        await write(client, (labels(), [(value, AT + hour * HOUR)]))
    assert (await used(client))[-1] == 15


async def test_series_that_are_no_usage_are_left_alone(client: httpx.AsyncClient) -> None:
    for version in (1, 2):
        answer = await write(client, ({"__name__": "up", "job": "x"}, [(1.0, AT), (math.nan, AT + 1)]), version=version)
        assert answer.status_code == 204
        assert written(answer) == (2, 0, 0, 0, 0, 2)  # a sender of 2.0 takes 0 samples written for a failure
    assert "tallystick_prometheus_ignored_samples_total 4.0" in (await client.get("/metrics")).text
    assert await quarantined(client) == []
    assert (await client.get("/api/v1/customers")).json()["items"] == []


async def test_projects_outside_the_whitelist_are_ignored(service: Service) -> None:
    listed = dataclasses.replace(service, prometheus=Reader(SeriesMap(OPENSTACK, frozenset({"in"}))))
    async with asking(listed) as client:
        answer = await write(client, totals(1, 2, project="in"), totals(1, 2, project="out"))
        assert (answer.status_code, written(answer)) == (204, (4, 0, 0, 2, 0, 2))
        assert [each["key"] for each in (await client.get("/api/v1/customers")).json()["items"]] == ["in"]


@pytest.mark.parametrize("version", [1, 2])
async def test_a_bad_sample_is_kept_and_harms_no_other(client: httpx.AsyncClient, version: int) -> None:
    answer = await write(client, totals(1, math.nan, 3), totals(5, 6, project="b"), version=version)
    assert answer.status_code == 400  # which says: do not send it again
    assert answer.headers["content-type"] == "application/problem+json"
    assert written(answer) == (4, 0, 0, 4, 0, 0)
    said = answer.json()
    assert said["code"] == "invalid_value"
    assert said["rejected"] == [{"index": 1, "code": "invalid_value", "detail": said["rejected"][0]["detail"]}]
    assert "4 samples are written" in said["detail"]
    assert (await used(client), await used(client, "b")) == ([2], [1])
    (piece,) = await quarantined(client)
    assert (piece["source"], piece["code"]) == ("prometheus", "invalid_value")
    again = await write(client, totals(1, math.nan, 3), version=version)
    assert (again.status_code, len(await quarantined(client))) == (400, 1)


async def test_a_mended_piece_is_charged(client: httpx.AsyncClient) -> None:
    await write(client, totals(1, math.nan))
    (piece,) = await quarantined(client)
    path = f"/api/v1/quarantine/{piece['id']}"
    assert (await client.post("/api/v1/quarantine/replay", json={})).json()["recorded"] == 0
    raw = (await client.get(path)).json()["raw"]
    await client.put(path, content=raw.replace('"nan"', "4.5").encode())
    for recorded in (1, 0):
        assert (await client.post("/api/v1/quarantine/replay", json={})).json()["recorded"] == recorded
    assert await used(client) == [3.5]


async def test_usage_of_a_meter_that_is_not_there_yet_waits(client: httpx.AsyncClient, service: Service) -> None:
    """A running total must not become a sum of deltas because its meter is not there yet."""
    async with service.pool.connection() as conn, conn.transaction():
        for table, column in (("prices", "meter"), ("resource_kinds", "meter"), ("meters", "key")):
            await conn.execute(f"delete from {table} where {column} = 'project_vcpu_usage'")
        await conn.execute("update catalogue set version = version + 1")
    long = labels() | {"note": "x" * 300}
    answer = await write(client, (long, [(1.0, AT), (3.0, AT + 1)]))
    assert (answer.status_code, answer.json()["code"], written(answer)[0]) == (400, "unknown_meter", 0)
    await client.put("/api/v1/meters/project_vcpu_usage", json={"kind": "counter", "name": "cpu"})
    price = {"meter": "project_vcpu_usage", "effective_from": "2000-01-01T00:00:00Z"}
    await client.post("/api/v1/prices", json=price | {"model": {"type": "per_unit", "amount": "2"}})
    assert (await client.post("/api/v1/quarantine/replay", json={})).json()["recorded"] == 2
    assert await used(client) == [4]


async def test_stale_markers_histograms_exemplars_and_metadata_cost_nothing(client: httpx.AsyncClient) -> None:
    assert (await write(client, totals(1, STALE, 3))).status_code == 204
    named = [{"name": name, "value": value} for name, value in labels().items()]
    exemplars = [{"value": 99.0, "timestamp": AT + 5 * HOUR}]
    samples = [{"value": 4.0, "timestamp": AT + 4 * HOUR}]
    request = WriteRequest(timeseries=[{"labels": named, "samples": samples, "exemplars": exemplars}])
    answer = await send(client, compressed(request.SerializeToString()))
    assert (answer.status_code, written(answer)) == (204, (1, 0, 1, 1, 0, 0))
    histograms = [{"sum": 99.0, "count_int": 3, "timestamp": AT + 6 * HOUR}]
    request = WriteRequest(timeseries=[{"labels": named, "histograms": histograms}])
    answer = await send(client, compressed(request.SerializeToString()))
    assert (answer.status_code, answer.json()["code"], written(answer)) == (400, "histogram", (0, 0, 0, 0, 0, 0))
    answer = await send(client, compressed(v1(metadata=[{"metric_family_name": "x"}])))
    assert (answer.status_code, written(answer)) == (204, (0, 0, 0, 0, 0, 0))
    assert (await used(client))[-1] == 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"Content-Type": "application/x-protobuf;proto=prometheus.WriteRequest"}, 204),
        ({"Content-Type": 'Application/X-Protobuf; proto="prometheus.WriteRequest"'}, 204),
        ({"Content-Encoding": "Snappy"}, 204),
        ({"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"}, 415),
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "zstd"}, 415),
    ],
)
async def test_the_headers_say_what_the_body_is(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    answer = await send(client, compressed(v1(totals(1))), HEADERS_V1 | headers)
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["code"] == "unsupported_media_type"


async def test_a_body_may_come_without_its_encoding_and_a_1_0_body_as_2_0_is_empty(client: httpx.AsyncClient) -> None:
    plain = {name: value for name, value in HEADERS_V1.items() if name != "Content-Encoding"}
    assert (await send(client, compressed(v1(totals(1))), plain)).status_code == 204
    answer = await send(client, compressed(v1(totals(1, 2))), HEADERS_V2)
    assert written(answer) == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("body", [b"", b"garbage", v1(totals(1)), compressed(b"\x0a\xff"), compressed(b"\xff" * 30)])
async def test_what_is_no_message_must_not_be_sent_again(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await send(client, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_message")
    assert await quarantined(client) == []


async def test_a_request_has_limits_before_and_after_it_is_decompressed(service: Service) -> None:
    async with asking(service, max_body_bytes=2048, max_events=3) as client:
        for body in (b"x" * 2049, compressed(b"\x00" * 2049), compressed(v1(totals(1, 2, 3, 4)))):
            answer = await send(client, body)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert (await write(client, totals(1, 2, 3))).status_code == 204


@pytest.mark.parametrize(
    ("failure", "retry_after"),
    [(Overloaded("too much waits", retry_after_seconds=2), "2"), (Unavailable("the database is away"), None)],
)
async def test_what_may_succeed_later_is_answered_so_that_it_is_sent_again(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, failure: Exception, retry_after: str | None
) -> None:
    """Senders must repeat what got 5xx; after 429 they do so only if they are told to."""

    async def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr(IntakeQueue, "submit", failing)
    answer = await write(client, totals(1))
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, retry_after)


async def test_a_key_is_asked_for(service: Service) -> None:
    async with asking(service, dev=False, api_keys="k") as client:
        assert (await write(client, totals(1))).status_code == 401
        assert (await write(client, totals(1), Authorization="Bearer wrong")).status_code == 403
        assert (await write(client, totals(1), Authorization="Bearer k")).status_code == 204


hostile = (
    st.binary(max_size=100)
    | st.binary(max_size=100).map(compressed)
    | st.builds(
        lambda at, noise: compressed(v2(totals(1, 2))[: at % 200] + noise), st.integers(0), st.binary(max_size=5)
    )
)


async def test_hostile_bodies_are_refused(client: httpx.AsyncClient) -> None:
    rounds = []

    @settings(max_examples=100, database=None)
    @given(hostile)
    def collect(body: bytes) -> None:
        rounds.append(body)

    collect()
    for body in rounds:
        for headers in (HEADERS_V1, HEADERS_V2):
            answer = await send(client, body, headers)
            assert answer.status_code in (204, 400, 413), (answer.status_code, body)
