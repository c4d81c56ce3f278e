"""What operators of the OpenStack credits service watch and turn: /stats, /metrics, /logconfig, /api/doc."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tallystick.service import Service
from tallystick.web.app import create_app
from tests.web.conftest import asking, serving, settings

EVENT = {"id": "1", "subject": "ada", "type": "tokens", "data": {"value": 1200}}
SHORTEST = {"version": 1, "root": {"level": "DEBUG"}}
KEYS = {"api_keys": "shop", "admin_api_keys": "boss"}  # pragma: allowlist secret

SCRAPE_SECONDS = 60

NO_ROOT = "Unable to configure root logger"
NOT_TAKEN = "Extra inputs are not permitted"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# /stats


async def test_stats_has_the_fields_that_its_readers_know(client: httpx.AsyncClient) -> None:
    short = await client.get("/stats")
    assert (short.status_code, short.headers["content-type"]) == (200, "application/json")
    stats = short.json()
    assert list(stats) == ["number_of_workers", "queue_size", "number_of_locks", "uptime"]
    assert all(type(stats[name]) is int for name in ("number_of_workers", "queue_size", "number_of_locks"))
    assert re.fullmatch(r"\d+:[0-5]\d:[0-5]\d\.\d{6}", stats["uptime"])


@pytest.mark.parametrize(
    ("query", "verbose"),
    [("", False), ("?verbose=", False), ("?verbose=false", False), ("?verbose=true", True), ("?verbose=0", True)],
)
async def test_stats_tells_more_to_anything_but_nothing_and_false(
    client: httpx.AsyncClient, query: str, verbose: bool
) -> None:
    stats = (await client.get(f"/stats{query}")).json()
    assert ("task_stacks" in stats) is ("group_locks" in stats) is verbose
    if verbose:
        assert set(stats["task_stacks"]) == {f"worker-{number + 1}" for number in range(stats["number_of_workers"])}
        assert all(isinstance(stack, str) for stack in stats["task_stacks"].values())


# /metrics


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(client: httpx.AsyncClient, **headers: str) -> Series:
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(series: Series, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """The values of one metric by those of its labels."""
    return {
        tuple(dict(given)[label] for label in labels): value for (one, given), value in series.items() if one == name
    }


async def test_requests_are_told_by_template_and_never_by_path(client: httpx.AsyncClient) -> None:
    await client.get("/api/v1/customers/secret-customer")
    await client.get("/api/v1/customers/other-secret")
    await client.get("/secret-path")
    await client.request("BREW", "/ping")
    await client.post("/api/v1/events", json={"id": "secret-event"})
    text = (await client.get("/metrics")).text
    assert "secret" not in text
    series = await scraped(client)
    requests = of(series, "tallystick_http_request_duration_seconds_count", "route", "method", "status")
    assert requests == {
        ("/api/v1/customers/{key}", "GET", "4xx"): 2,
        ("unmatched", "GET", "4xx"): 1,
        ("/ping", "other", "4xx"): 1,
        ("/api/v1/events", "POST", "4xx"): 1,
        ("/metrics", "GET", "2xx"): 1,
    }
    errors = of(series, "tallystick_http_errors_total", "code")
    assert errors == {("not_found",): 3, ("method_not_allowed",): 1, ("missing_field",): 1}


async def test_errors_of_every_surface_are_told_by_their_code(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    async with asking(service, dev=False, **KEYS) as client:
        await client.get("/api/v1/verify", headers=bearer("shop"))
        await client.get("/api/v1/customers")
        await client.post("/api/v1/balance", headers=bearer("shop"), json={"user_id": "nobody"})
        await client.get("/api/credits_history/nobody", headers=bearer("shop"))
        monkeypatch.setattr(service.customers, "get", broken)
        await client.get("/api/v1/customers/ada", headers=bearer("shop"))
        series = await scraped(client, **bearer("shop"))
    errors = of(series, "tallystick_http_errors_total", "code")
    assert errors == {("key_refused",): 1, ("key_missing",): 1, ("not_found",): 2, ("internal_error",): 1}


async def test_usage_shows_up_in_the_metrics(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/events", json=[EVENT, EVENT, EVENT | {"id": "2", "data": {}}])
    await client.post("/write", content=b"project_vcpu_usage,project_name=p,location_id=1 value=1 1546905600000000000")
    series = await scraped(client)

    def count(name: str, door: str) -> float:
        return series[f"tallystick_intake_{name}_total", frozenset({("door", door)})]

    assert [count(name, "events") for name in ("accepted", "duplicates", "unpriced", "rejected")] == [1, 1, 1, 1]
    assert [count(name, "line-protocol") for name in ("accepted", "charged", "rejected")] == [1, 1, 0]


async def test_a_real_prometheus_scrapes_with_a_key(service: Service, tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus comes with the package `prometheus`")
    app = create_app(dataclasses.replace(service, settings=settings(dev=False, **KEYS)))
    async with serving(app) as url, httpx.AsyncClient(timeout=SCRAPE_SECONDS) as client:
        recorded = await client.post(f"{url}/api/v1/events", json=[EVENT], headers=bearer("shop"))
        assert recorded.json()["accepted"] == 1
        with prometheus(program, tmp_path, url.removeprefix("http://"), key="shop") as observer:
            query = f'{observer}/api/v1/query?query=tallystick_intake_accepted_total{{door="events"}}'
            async with asyncio.timeout(SCRAPE_SECONDS):
                while not (found := await results(client, query)):  # noqa: ASYNC110 (it does not call back)
                    await asyncio.sleep(0.1)
            targets = (await client.get(f"{observer}/api/v1/targets")).json()["data"]["activeTargets"]
    assert [result["value"][1] for result in found] == ["1"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]


async def results(client: httpx.AsyncClient, query: str) -> list[Any]:
    """What Prometheus has; nothing while it starts."""
    try:
        answer = await client.get(query)
    except httpx.TransportError:
        return []
    return list(answer.json()["data"]["result"]) if answer.is_success else []


@contextmanager
def prometheus(program: str, folder: Path, target: str, key: str) -> Iterator[str]:
    """The URL of a Prometheus that scrapes ``target`` and keeps what it finds in ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job = {
        "job_name": "tallystick",
        "authorization": {"credentials": key},
        "static_configs": [{"targets": [target]}],
    }
    config = folder / "prometheus.yml"  # YAML is JSON, and more
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(SCRAPE_SECONDS)


# /logconfig


async def test_logging_is_changed_by_administrators_only(service: Service) -> None:
    """[B] of 1.2: theirs asked nobody who he is."""
    async with asking(service, dev=False, **KEYS) as client:
        answers = [
            await client.post("/logconfig", json=SHORTEST, headers=headers)
            for headers in ({}, bearer("nobody"), bearer("shop"), bearer("boss"))
        ]
        assert [answer.status_code for answer in answers] == [401, 403, 403, 204]
        assert answers[2].text == "403: Admin API key required for this endpoint"
        assert (answers[3].content, logging.root.level) == (b"", logging.DEBUG)
        for path in ("/stats", "/metrics"):
            statuses = [
                (await client.get(path, headers=headers)).status_code
                for headers in ({}, bearer("nobody"), bearer("shop"), bearer("boss"))
            ]
            assert statuses == [401, 403, 200, 200], path


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "400: the body must be JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"level=DEBUG", 400, "400: the body must be JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{}", 400, "400: version: Field required"),
        (b'{"version": 1, "root": {"handlers": ["a"]}}', 400, f"400: {NO_ROOT}: Unable to add handler 'a'"),
        (b'{"version": 1, "handlers": {"a": {"()": "os.abort"}}}', 400, f"400: handlers.a.(): {NOT_TAKEN}"),
        (b'{"version": 1}' + b" " * (256 << 10), 413, "413: the body must not be longer than 262144 bytes"),
    ],
)
async def test_a_document_that_is_refused_changes_nothing(
    client: httpx.AsyncClient, body: bytes, status: int, text: str
) -> None:
    level, handlers = logging.root.level, logging.root.handlers[:]
    refused = await client.post("/logconfig", content=body)
    assert (refused.status_code, refused.text) == (status, text)
    assert refused.headers["content-type"].startswith("text/plain")
    assert (logging.root.level, logging.root.handlers) == (level, handlers)


async def test_pages_of_others_cannot_change_it_in_a_browser(client: httpx.AsyncClient) -> None:
    """With --dev nobody needs a key; a browser sends a form or a text to anywhere, but names where it comes from."""
    body = json.dumps(SHORTEST).encode()
    foreign = {"Origin": "https://elsewhere.example", "Content-Type": "text/plain"}
    assert (await client.post("/logconfig", content=body, headers=foreign)).status_code == 415
    assert logging.root.level != logging.DEBUG
    assert (await client.post("/logconfig", content=body)).status_code == 204
    assert logging.root.level == logging.DEBUG


async def test_wrong_methods_are_refused_in_the_words_of_the_surface(client: httpx.AsyncClient) -> None:
    allowed = {"/stats": "GET", "/metrics": "GET", "/logconfig": "POST"}
    for path, method in allowed.items():
        refused = await client.request("DELETE", path)
        assert (refused.status_code, refused.text) == (405, "405: Method Not Allowed")
        assert refused.headers["allow"] == method


# /api/doc


async def test_api_doc_is_a_page_that_describes_these_routes(client: httpx.AsyncClient) -> None:
    page = await client.get("/api/doc")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "swagger-ui" in page.text
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert (await client.get(name)).status_code == 200, name
    described = (await client.get("/openapi.json")).json()["paths"]
    for method, path in (
        ("get", "/ping"),
        ("post", "/write"),
        ("get", "/api/credits_history/{project_name}"),
        ("get", "/api/metrics"),
        ("post", "/api/costs_per_hour"),
        ("get", "/stats"),
        ("post", "/logconfig"),
        ("get", "/metrics"),
    ):
        assert described[path][method]["tags"] == ["OpenStack credits"]
        assert described[path][method]["description"]
