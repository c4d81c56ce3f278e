"""Real client libraries of others, talking to the real server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS, WriteOptions
from influxdb_client.domain.write_precision import WritePrecision

AT = datetime(2026, 11, 2, 12, 30, 15, 123456, UTC)


def attributes(event_id: str) -> dict[str, Any]:
    return {"id": event_id, "source": "/sdk", "type": "tokens", "subject": "Zoë & Søn"}


async def send(server: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=server) as client:
        answer = await client.post("/api/v1/events", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def test_the_cloudevents_sdk_is_understood_in_both_modes(server: str) -> None:
    event = CloudEvent({**attributes("1"), "time": AT, "datacontenttype": "application/json"}, {"value": 12.5})
    messages: list[HTTPMessage] = [to_structured_event(event), to_binary_event(event)]
    first, again = [await send(server, message.headers, message.body) for message in messages]
    assert (first["accepted"], again["duplicates"]) == (1, 1)
    async with httpx.AsyncClient(base_url=server) as client:
        (charge,) = (await client.get("/api/v1/customers/Zo%C3%AB%20%26%20S%C3%B8n/charges")).json()["items"]
    assert (charge["value"], charge["at"]) == ("12.5", "2026-11-02T12:30:15.123456Z")


async def test_events_of_the_cloudevents_sdk_are_understood_as_a_batch(server: str) -> None:
    events = [CloudEvent(attributes(str(number)), {"value": number}) for number in range(3)]
    batch = b"[" + b",".join(to_structured_event(event).body for event in events) + b"]"
    answer = await send(server, {"content-type": "application/cloudevents-batch+json"}, batch)
    assert (answer["accepted"], answer["rejected"]) == (3, [])


@pytest.mark.parametrize("gzip", [False, True])
async def test_the_influxdb_client_writes_here(server: str, gzip: bool) -> None:
    points = [
        Point("project_vcpu_usage")
        .tag("location_id", "8676")
        .tag("project_name", "os credits, 1")
        .field("value", value)
        .time(datetime(2026, 11, 2, hour, tzinfo=UTC), WritePrecision.S)
        for hour, value in ((1, 12.5), (2, 17.25), (3, 20))
    ]

    def write() -> None:
        with InfluxDBClient(url=server, token="any", org="any", enable_gzip=gzip) as influx:
            options = SYNCHRONOUS if gzip else WriteOptions(batch_size=2, flush_interval=10)
            with influx.write_api(write_options=options) as api:
                api.write(bucket="any", record=points, write_precision=WritePrecision.S)

    await asyncio.to_thread(write)
    async with httpx.AsyncClient(base_url=server) as client:
        history = (await client.get("/api/credits_history/os%20credits%2C%201")).json()
    assert history["timestamps"][1:] == ["2026-11-02 03:00:00", "2026-11-02 02:00:00"]
    assert history["credits"][1:] == [-7.5, -4.75]
