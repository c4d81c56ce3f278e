"""``POST /api/v1/events``: what it reads, what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tallystick.kernel.errors import Overloaded, Unavailable
from tallystick.metering.model import Batch, Receipt
from tallystick.metering.service import IntakeQueue
from tallystick.service import Service
from tests.web.conftest import asking

EVENTS = "/api/v1/events"


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"e-{number}", "subject": "ada", "type": "tokens", "data": {"value": number}} | more


def cloud_event(number: int) -> dict[str, Any]:
    return event(number, specversion="1.0", source="/test")


async def send(client: httpx.AsyncClient, body: object, content_type: str = "application/json") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post(EVENTS, content=content, headers={"Content-Type": content_type})


async def test_every_format_is_read(client: httpx.AsyncClient) -> None:
    lines = b"\n".join(json.dumps(event(number)).encode() for number in (10, 11))
    for body, content_type, accepted in (
        (event(1), "application/json", 1),
        ([event(2), event(3)], "application/json; charset=utf-8", 2),
        (cloud_event(4), "application/cloudevents+json", 1),
        ([cloud_event(5), cloud_event(6)], "application/cloudevents-batch+json", 2),
        (lines, "application/x-ndjson", 2),
        ([], "application/json", 0),
    ):
        answer = await send(client, body, content_type)
        assert answer.status_code == 200
        assert answer.json() == {"accepted": accepted, "duplicates": 0, "unpriced": accepted, "rejected": []}
    (usage,) = (await client.get("/api/v1/customers/ada/usage")).json()["lines"]
    assert (usage["quantity"], usage["measurements"]) == ("42", 8)


async def test_an_event_in_binary_mode_is_read(client: httpx.AsyncClient) -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/test",
        "ce-type": "tokens",
        "ce-subject": "zo%C3%AB",
        "content-type": "application/json",
    }
    answer = await client.post(EVENTS, content=b'{"value": 0.1}', headers=headers)
    assert answer.json() == {"accepted": 1, "duplicates": 0, "unpriced": 1, "rejected": []}
    (usage,) = (await client.get("/api/v1/customers/zoë/usage")).json()["lines"]
    assert usage["quantity"] == "0.1"
    del headers["ce-id"]
    assert (await client.post(EVENTS, content=b'{"value": 1}', headers=headers)).json()["detail"] == "id is required"


async def test_sending_again_changes_nothing(client: httpx.AsyncClient) -> None:
    assert (await send(client, [event(1), event(1), event(2)])).json()["duplicates"] == 1
    again = await send(client, [event(1), event(2), event(3)])
    assert again.json() == {"accepted": 1, "duplicates": 2, "unpriced": 1, "rejected": []}


async def test_priced_usage_is_charged_when_it_answers(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/meters/tokens", json={})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z"}
    await client.post("/api/v1/prices", json=price | {"model": {"type": "per_unit", "amount": "1", "per": "730"}})
    numbers = b'{"id":"1","subject":"ada","type":"tokens","data":{"value":0.1}}'
    assert (await send(client, numbers)).json() == {"accepted": 1, "duplicates": 0, "unpriced": 0, "rejected": []}
    (balance,) = (await client.get("/api/v1/customers/ada")).json()["balances"]
    assert balance["used"] == "0.000137"


async def test_what_cannot_be_read_is_named_and_kept(client: httpx.AsyncClient) -> None:
    answer = await send(client, [event(1), {"id": "2"}, event(3, data={"value": "1e999999"}), event(4)])
    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], [(refused["index"], refused["code"]) for refused in body["rejected"]]) == (
        2,
        [(1, "missing_field"), (2, "invalid_value")],
    )
    assert "data.value" in body["rejected"][1]["detail"]
    kept = (await client.get("/api/v1/quarantine")).json()["items"]
    assert sorted(piece["code"] for piece in kept) == ["invalid_value", "missing_field"]


async def test_only_a_request_with_nothing_to_read_is_refused(client: httpx.AsyncClient) -> None:
    for number, body in enumerate((b"", b"{", b"nonsense", b"\xff", b"[1,2]", b'{"id":"\\ud800"}', b"null"), start=1):
        answer = await send(client, body)
        assert answer.status_code == 400, body
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["status"], problem["title"]) == (400, "Bad Request")
        first = problem["rejected"][0]
        assert (problem["code"], problem["detail"]) == (first["code"], first["detail"])
        kept = (await client.get("/api/v1/quarantine")).json()["items"]
        assert len(kept) >= number


async def test_a_body_may_be_compressed(service: Service) -> None:
    async with asking(service, max_body_bytes=4096) as client:
        many = json.dumps([event(number) for number in range(20)]).encode()

        async def post(content: bytes, encoding: str = "gzip") -> httpx.Response:
            return await client.post(
                EVENTS, content=content, headers={"Content-Type": "application/json", "Content-Encoding": encoding}
            )

        assert (await post(gzip.compress(many))).json()["accepted"] == 20
        two_members = gzip.compress(b"[" + json.dumps(event(50)).encode()) + gzip.compress(b"]")
        assert (await post(two_members)).json()["accepted"] == 1
        assert (await post(gzip.compress(many * 3))).status_code == 413
        assert (await post(gzip.compress(b"0" * 100_000_000))).status_code == 413
        for broken in (b"no gzip", gzip.compress(many)[:-20], gzip.compress(many) + b"tail"):
            refused = await post(broken)
            assert (refused.status_code, refused.json()["code"]) == (400, "malformed_body")
        other = await post(many, "br")
        assert (other.status_code, other.json()["code"]) == (415, "unsupported_media_type")


async def test_limits(service: Service) -> None:
    async with asking(service, max_body_bytes=20_000, max_events=10) as client:
        announced = await client.post(EVENTS, content=b"x" * 20_001)
        streamed = await client.post(EVENTS, content=_until_refused())
        for answer in (announced, streamed):
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
            assert answer.json()["detail"] == "the body must not be longer than 20000 bytes"
        assert (await send(client, [event(number) for number in range(11)])).status_code == 413
        assert (await send(client, b"{}\n" * 11, "application/x-ndjson")).status_code == 413
        assert (await send(client, b"[" * 10_000)).status_code == 413
        assert (await client.get("/api/v1/customers")).json()["items"] == []


async def _until_refused() -> AsyncIterator[bytes]:
    for _ in range(21):
        yield b" " * 1000
    pytest.fail("more was read than the limit allows")


async def test_a_full_queue_says_when_to_come_again(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(self: IntakeQueue, batch: Batch) -> Receipt:
        raise Overloaded("the intake queue is full", retry_after_seconds=7)

    monkeypatch.setattr(IntakeQueue, "submit", full)
    for path, shape in ((EVENTS, "problem+json"), ("/write", "text/plain")):
        refused = await client.post(path, content=json.dumps(event(1)).encode())
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7")
        assert shape in refused.headers["content-type"]


async def test_a_database_that_is_away_is_503(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: IntakeQueue, batch: Batch) -> Receipt:
        raise Unavailable("the database cannot be reached")

    monkeypatch.setattr(IntakeQueue, "submit", away)
    refused = await send(client, event(1))
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")


async def test_the_same_event_sent_by_many_at_once_counts_once(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(send(client, [event(1), event(2)]) for _ in range(20)))
    assert sum(answer.json()["accepted"] for answer in answers) == 2
    assert sum(answer.json()["duplicates"] for answer in answers) == 38
