"""The description of the routes, its page, and requests made up from it."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tallystick.service import Service
from tallystick.web.app import ROUTERS
from tests.metering.sources.remote_write import compressed
from tests.web.conftest import SAYS_500, asking

EXAMPLES_PER_ROUTE = 12

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@schemathesis.serializer("application/x-protobuf")
def _as_snappy(_: object, value: object) -> bytes:
    """What is made up for remote write, compressed as it asks: what is in it is looked at then."""
    return compressed(value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape"))


ISSUE_2 = """
GET /ping  GET /api/v1/health
POST /api/v1/accounts  POST /api/v1/balance  POST /api/v1/topup  POST /api/v1/bill
POST /write  GET /api/credits_history/{project_name}  GET /api/metrics  POST /api/costs_per_hour
POST /api/v1/events  PUT /api/v1/meters/{key}  GET /api/v1/meters/{key}  POST /api/v1/prices  GET /api/v1/prices
POST /api/v1/customers  GET /api/v1/customers  GET /api/v1/customers/{key}  POST /api/v1/customers/{key}/grants
GET /api/v1/customers/{key}/usage  GET /api/v1/customers/{key}/charges  GET /api/v1/customers/{key}/bill
GET /api/v1/charges/{charge_id}  GET /api/v1/verify  GET /api/v1/quarantine
"""


async def test_every_route_is_described(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described >= {re.sub(r"\s+", " ", route) for route in re.findall(r"[A-Z]+ \S+", ISSUE_2)}
    routes = {
        f"{method} {route.path_format}"  # type: ignore[attr-defined]
        for router in ROUTERS
        for route in router.routes
        if route.include_in_schema  # type: ignore[attr-defined]
        for method in route.methods  # type: ignore[attr-defined]
    }
    assert described == routes
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


async def test_the_description_says_where_a_key_is_asked_for(service: Service, client: httpx.AsyncClient) -> None:
    async with asking(service, dev=False, api_keys="k") as closed:
        document = (await closed.get("/openapi.json")).json()
    asking_for_keys = {
        path for path, methods in document["paths"].items() if any("security" in m for m in methods.values())
    }
    assert set(document["paths"]) - asking_for_keys == {"/", "/ping", "/api/v1/health"}
    open_to_all = (await client.get("/openapi.json")).json()
    assert not any("security" in m for methods in open_to_all["paths"].values() for m in methods.values())


async def test_the_page_needs_nobody_else(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://", page.text)
    assert not re.search(r"<script(?! src=)", page.text)
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert (await client.get(name)).status_code == 200, name
    assert "SwaggerUIBundle" in (await client.get("/docs/swagger-ui-bundle.js")).text
    assert (await client.get("/docs/../app.py")).status_code == 404
    assert (await client.get("/api/doc")).content == page.content


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
async def test_requests_made_up_from_the_description_never_break_the_service(
    server: str, mode: schemathesis.GenerationMode
) -> None:
    """As it describes them, and as it does not."""
    async with httpx.AsyncClient(base_url=server) as client:
        document: dict[str, Any] = (await client.get("/openapi.json")).json()
        await client.put("/api/v1/meters/tokens", json={})
        await client.post("/api/v1/customers", json={"key": "ada"})
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(result, Ok)

        @settings(
            max_examples=EXAMPLES_PER_ROUTE,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=result.ok().as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(base_url=server, checks=CHECKS[1:] if case.path in SAYS_500 else CHECKS)

        with suppress(Unsatisfiable):  # nothing about this route can be done wrong
            await asyncio.to_thread(ask)
