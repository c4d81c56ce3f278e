"""What every request passes: its id, the gate, the log, and the last net."""

from __future__ import annotations

import asyncio
import logging

import httpx
import psycopg
import pytest
from psycopg_pool import PoolTimeout, TooManyRequests
from structlog.testing import capture_logs

from tallystick.customers.service import Customers
from tallystick.service import Service
from tests.web.conftest import asking


async def test_administrators_and_clients_have_their_own_routes(service: Service) -> None:
    async with asking(service, dev=False, api_keys="shop", admin_api_keys="boss") as client:  # pragma: allowlist secret

        async def status(method: str, path: str, key: str | None) -> int:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return (await client.request(method, path, headers=headers, json={"key": f"c-{key}"})).status_code

        for method, path in (("POST", "/api/v1/customers"), ("GET", "/api/v1/verify"), ("GET", "/api/v1/quarantine")):
            assert [await status(method, path, key) for key in (None, "nobody", "shop")] == [401, 403, 403]
            assert await status(method, path, "boss") in (200, 201)
        for path in ("/api/v1/customers", "/api/v1/meters", "/api/v1/prices"):
            assert [await status("GET", path, key) for key in (None, "nobody", "shop", "boss")] == [401, 403, 200, 200]
        for path in ("/ping", "/api/v1/health", "/openapi.json", "/docs"):
            assert await status("GET", path, None) == 200
        refused = await client.get("/api/v1/verify", headers={"Authorization": "Bearer shop"})
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json() == {
            "type": "about:blank",
            "title": "Forbidden",
            "status": 403,
            "detail": "Admin API key required for this endpoint",
            "code": "key_refused",
        }
        # An encoded path is the path that is routed, so it cannot slip past the gate.
        assert await status("GET", "/api/v1/%76erify", "shop") in (403, 404)


async def test_a_request_keeps_its_id_or_gets_one(client: httpx.AsyncClient) -> None:
    assert (await client.get("/ping", headers={"X-Request-ID": "abc-123"})).headers["x-request-id"] == "abc-123"
    made = {(await client.get("/ping")).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for odd in ("", "a b", "x" * 129, "ü".encode("latin-1"), '"quoted"'):
        answer = await client.get(
            "/nothing", headers=[(b"X-Request-ID", odd if isinstance(odd, bytes) else odd.encode())]
        )
        assert len(answer.headers["x-request-id"]) == 32


async def test_the_log_names_templates_and_never_what_was_sent(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        await client.get("/api/v1/customers/secret-customer", headers={"X-Request-ID": "r1"})
        await client.post("/api/v1/events", json={"id": "secret-event"})
        await client.get("/secret-path?q=secret-query")
    told = [log for log in logs if log["event"] == "http.request"]
    assert [(log["method"], log["route"], log["status"]) for log in told] == [
        ("GET", "/api/v1/customers/{key}", 404),
        ("POST", "/api/v1/events", 400),
        ("GET", None, 404),
    ]
    assert told[0]["request_id"] == "r1"
    assert all(log["duration_ms"] >= 0 for log in told)
    assert "secret" not in str(logs)


async def test_paths_and_methods_that_do_not_exist(client: httpx.AsyncClient) -> None:
    for path in ("/api", "/api/v1/nothing", "/api/v1/customers/a/b", "/api/v1/meters/", "/%00", "/%ff", "/a%2Fb"):
        missing = await client.get(path)
        assert missing.status_code == 404, path
        assert missing.headers["content-type"] == "application/problem+json"
        assert missing.json()["code"] == "not_found"
    wrong = await client.delete("/api/v1/prices")
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "GET, POST")


async def test_a_defect_tells_nothing_about_the_inside(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(Customers, "find", broken)
    monkeypatch.setattr(Customers, "get", broken)
    text = "Internal server error - please try again later"
    with capture_logs() as logs:
        native = await client.get("/api/v1/customers/a")
        credits_service = await client.post("/api/v1/balance", json={"user_id": "a"})
        openstack = await client.get("/api/credits_history/a")
    assert native.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": text,
        "code": "internal_error",
    }
    assert (credits_service.status_code, credits_service.json()) == (500, {"detail": text})
    assert (openstack.status_code, openstack.text) == (500, f"500: {text}")
    assert all(answer.headers["x-request-id"] for answer in (native, credits_service, openstack))
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["http.failure"] * 3


async def test_a_database_that_fails_is_unavailable(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status, code in (
        (psycopg.OperationalError("server closed the connection: secret"), 503, "unavailable"),
        (psycopg.InterfaceError("the connection is closed"), 503, "unavailable"),
        (PoolTimeout("no connection within 10 s"), 503, "unavailable"),
        (TooManyRequests("1000 wait"), 429, "overloaded"),
    ):

        async def failing(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Customers, "get", failing)
        refused = await client.get("/api/v1/customers/a")
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert "secret" not in refused.text


async def test_health_says_when_the_database_is_away(client: httpx.AsyncClient, service: Service) -> None:
    healthy = await client.get("/api/v1/health")
    said = healthy.json()
    assert (healthy.status_code, said["status"], said["database"]["status"]) == (200, "healthy", "healthy")
    assert said["intake"] == {"queued": 0}
    await service.pool.close()
    unhealthy = await client.get("/api/v1/health")
    said = unhealthy.json()
    assert (unhealthy.status_code, said["status"], said["database"]["status"]) == (503, "unhealthy", "unhealthy")


async def test_native_bodies_must_be_json(client: httpx.AsyncClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused = await client.post("/api/v1/customers", content=b'{"key":"a"}', headers={"Content-Type": content_type})
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    for body in (b"", b"{", b'{"key":NaN}', b"\xff", b'{"key":1e99999999999999999999}'):
        refused = await client.post("/api/v1/customers", content=body, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed_body"), body
    for body in (b"[]", b"null", b'"key"', b"1"):
        refused = await client.post("/api/v1/customers", content=body, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input"), body


async def test_a_caller_that_leaves_in_the_middle_harms_nothing(server: str) -> None:
    url = httpx.URL(server)
    for sent in (b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"GET /ping HT"):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        await writer.drain()
        writer.close()
    async with httpx.AsyncClient(base_url=server) as client:
        assert (await client.get("/ping")).text == "Pong"


async def test_a_body_that_is_too_long_is_refused_while_it_is_sent(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(server)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 40000000\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
