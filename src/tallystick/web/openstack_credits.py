"""The OpenStack credits service's surface: usage as line protocol, the history of a project's credits, costs.

Refusals are ``text/plain``, ``<status>: <reason>``. (The original put the reason into the status line as well; ASGI has
no way to.)
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tallystick.kernel.errors import InvalidInput, NotFound, TallyError
from tallystick.kernel.ids import NIL
from tallystick.kernel.money import format_amount
from tallystick.kernel.text import check_text
from tallystick.metering.model import Batch, Meter
from tallystick.metering.senders import limited
from tallystick.metering.sources import line_protocol
from tallystick.pricing.functions import price_function
from tallystick.service import Service
from tallystick.web.body import exact_json, read_body
from tallystick.web.gate import caller_of
from tallystick.web.routes import LeanRoute
from tallystick.web.values import JsonNumber

LEDGER = 1
"""The ledger number of CREDIT."""

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

MAX_ESTIMATED_AMOUNT = 10**18

router = APIRouter(tags=["OpenStack credits"], route_class=LeanRoute)


class BadRequest(TallyError):
    """A parameter or the body breaks its rule."""

    code = "bad_request"
    status = 400


def refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says about the refusals of a route."""
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content} for status in (*statuses, 401, 403, 503)
    }


@router.get("/ping", response_class=PlainTextResponse)
async def ping(request: Request) -> Response:
    """Says that the service runs."""
    return PlainTextResponse("Pong")


# Usage


_LINES = {
    "requestBody": {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}},
    "parameters": [
        {"name": "precision", "in": "query", "schema": {"enum": list(line_protocol.NANOSECONDS), "default": "ns"}},
        {"name": "db", "in": "query", "schema": {"type": "string"}, "description": "ignored"},
    ],
}


@router.post("/write", status_code=202, response_class=Response, responses=refuses(400, 413, 429), openapi_extra=_LINES)
async def write(request: Request) -> Response:
    """Records lines of the InfluxDB line protocol.

    Once this answers, the lines are durable and charged. Lines that cannot be read, or whose measurement is no meter,
    are kept in quarantine and harm no other.
    """
    await _record(request)
    return Response(status_code=202)


@router.post(
    "/api/v2/write", status_code=204, response_class=Response, responses=refuses(400, 413, 429), openapi_extra=_LINES
)
async def write_v2(request: Request) -> Response:
    """The same for clients of InfluxDB 2, which write to this path."""
    await _record(request)
    return Response(status_code=204)


async def _record(request: Request) -> None:
    service: Service = request.app.state.service
    settings = service.settings
    body = await read_body(request, settings.max_body_bytes)
    precision = request.query_params.get("precision", "ns")
    if precision not in line_protocol.NANOSECONDS:
        raise BadRequest(f"precision must be one of {', '.join(line_protocol.NANOSECONDS)}")
    batch = line_protocol.read(body, service.clock.now(), precision=precision, max_lines=settings.max_events)
    batch = limited(_of_whitelisted(batch, settings.whitelist), caller_of(request).sender)
    await service.intake.submit(msgspec.structs.replace(batch, creates_meters=False))


def _of_whitelisted(batch: Batch, projects: frozenset[str] | None) -> Batch:
    if projects is None:
        return batch
    kept = [pair for pair in zip(batch.measurements, batch.indexes, strict=True) if pair[0].customer in projects]
    return msgspec.structs.replace(
        batch, measurements=[measurement for measurement, _ in kept], indexes=[index for _, index in kept]
    )


# History


class History(BaseModel):
    """Columns for a chart: the first element of each is its name."""

    timestamps: list[str]
    credits: list[str | JsonNumber]
    metrics: list[str]


_HISTORY: dict[str, Any] = {
    "parameters": [
        {"name": "project_name", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "start_date", "in": "query", "schema": {"type": "string", "example": "2019-01-08 00:00:00"}},
        {"name": "end_date", "in": "query", "schema": {"type": "string", "example": "2019-01-09 00:00:00"}},
        {
            "name": "view",
            "in": "query",
            "schema": {"enum": ["left", "used"], "default": "left"},
            "description": "credits left, newest first; or credits used, oldest first",
        },
    ]
}


@router.get(
    "/api/credits_history/{project_name:key}",
    response_model=History,
    responses={204: {"description": "Nothing was charged in this range"}, **refuses(400, 404)},
    openapi_extra=_HISTORY,
)
async def credits_history(request: Request) -> Response:
    """The credits of a project after each charge."""
    service: Service = request.app.state.service
    project = _project(request)
    view = request.query_params.get("view", "left")
    if view not in ("left", "used"):
        raise BadRequest("view must be left or used")
    since, until = _range(request)
    async with service.pool.connection() as conn:
        found = await service.customers.find(conn, [project])
        if not found or not await service.charges.any(conn, found[project][0]):
            raise NotFound(f"There is no history for project {project}")
        points = await service.charges.history(conn, found[project][0], LEDGER, since, until)
    if not points:
        return Response(status_code=204)
    if view == "used":
        points.reverse()
    columns = {
        "timestamps": ["timestamps", *(point.at.strftime(TIME_FORMAT) for point in points)],
        "credits": ["credits", *(_number(point.left if view == "left" else point.used) for point in points)],
        "metrics": ["metrics", *(point.meter_name for point in points)],
    }
    return Response(msgspec.json.encode(columns), media_type="application/json")


def _project(request: Request) -> str:
    project: str = request.path_params["project_name"]
    if not project.strip() or project == "{project_name}":  # which is what Swagger UI sends for a field left empty
        raise BadRequest("Project name must not be blank")
    try:
        return check_text(project, "Project name")
    except InvalidInput as error:
        raise BadRequest(error.detail) from None


def _range(request: Request) -> tuple[datetime | None, datetime | None]:
    start, end = _time(request, "start_date"), _time(request, "end_date")
    if start is not None and end is not None and end <= start:
        raise BadRequest("end_date must be later than start_date")
    # Times are given and shown to the second, so the last second belongs to the range as a whole.
    return start, None if end is None else end + timedelta(microseconds=999_999)


def _time(request: Request, name: str) -> datetime | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise BadRequest(f"{name} must be a time as 2019-01-08 00:00:00") from None


def _number(microcredits: int) -> msgspec.Raw:
    return msgspec.Raw(format_amount(microcredits, places=1).encode())


# Costs


@router.get("/api/metrics", responses=refuses())
async def metrics(request: Request) -> Response:
    """The counters that are measured, by their friendly names."""
    service: Service = request.app.state.service
    async with service.pool.connection() as conn:
        counters = _counters(await service.meters.all(conn))
    described = {
        name: {"type": "int", "description": meter.description, "name": meter.key, "friendly_name": name}
        for name, meter in counters.items()
    }
    return Response(msgspec.json.encode(described), media_type="application/json")


_AMOUNTS = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "additionalProperties": {"type": "integer"}, "example": {"cpu": 16}}
            }
        },
    }
}


@router.post("/api/costs_per_hour", response_model=JsonNumber, responses=refuses(400, 404, 413), openapi_extra=_AMOUNTS)
async def costs_per_hour(request: Request) -> Response:
    """What resources cost in an hour at today's general prices: the sum of the costs, each rounded by itself."""
    service: Service = request.app.state.service
    amounts = _amounts(await read_body(request, service.settings.max_body_bytes))
    now = service.clock.now()
    async with service.pool.connection() as conn:
        counters = _counters(await service.meters.all(conn))
        prices = await service.pricing.price_list(conn)
    quantum = Decimal(1).scaleb(-service.settings.os_credits_precision)
    total = 0
    for name, amount in amounts.items():
        if name not in counters:
            raise NotFound(f"There is no metric {name}")
        price = prices.at(counters[name].key, "", NIL, now).price
        if price is None:
            raise NotFound(f"There is no price for metric {name}")
        total += price_function(price.model, quantum)(Decimal(amount))
    return Response(format_amount(total), media_type="application/json")


def _amounts(body: bytes) -> dict[str, int]:
    amounts = exact_json(body)
    if not isinstance(amounts, dict):
        raise BadRequest("The body must be a JSON object")
    for name, amount in amounts.items():
        if type(amount) is not int or abs(amount) > MAX_ESTIMATED_AMOUNT:
            raise BadRequest(f"The amount of {name} must be an integer of at most {MAX_ESTIMATED_AMOUNT}")
    return amounts


def _counters(meters: dict[str, Meter]) -> dict[str, Meter]:
    """Counters by friendly name. Of several with one name, that with the first key has it; others go by their keys."""
    counters: dict[str, Meter] = {}
    for key in sorted(meters):
        meter = meters[key]
        if meter.kind == "counter":
            counters[meter.name if meter.name and meter.name not in counters else key] = meter
    return counters
