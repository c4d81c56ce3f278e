"""Usage comes in: ``POST /api/v1/events``, CloudEvents or plain JSON of the same fields."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tallystick.metering.model import Receipt
from tallystick.metering.senders import limited
from tallystick.metering.sources import cloud_events
from tallystick.service import Service
from tallystick.web.body import read_body
from tallystick.web.gate import caller_of
from tallystick.web.native import refusals
from tallystick.web.problems import Refusal, Surface, say
from tallystick.web.routes import LeanRoute
from tallystick.web.values import NUMBER_SCHEMA

router = APIRouter(prefix="/api/v1", tags=["Usage"], route_class=LeanRoute)


class Rejected(BaseModel):
    index: int
    code: str
    detail: str


class Recorded(BaseModel):
    accepted: int
    duplicates: int
    unpriced: int
    rejected: list[Rejected]


_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "subject", "type", "data"],
    "properties": {
        "specversion": {"type": "string", "const": "1.0"},
        "id": {"type": "string", "description": "the sender's id; with source and subject it names the event for ever"},
        "source": {"type": "string"},
        "subject": {"type": "string", "description": "key of the customer"},
        "type": {"type": "string", "description": "key of the meter"},
        "time": {"type": "string", "format": "date-time"},
        "data": {
            "type": "object",
            "required": ["value"],
            "properties": {
                "value": NUMBER_SCHEMA,
                "kind": {"type": "string"},
                "resource": {"type": "string"},
                "agent": {"type": "string"},
                "unit_price": NUMBER_SCHEMA,
            },
        },
    },
}
_EVENTS = {"type": "array", "items": _EVENT}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"anyOf": [_EVENT, _EVENTS]}},
        "application/cloudevents+json": {"schema": _EVENT},
        "application/cloudevents-batch+json": {"schema": _EVENTS},
        "application/x-ndjson": {"schema": {"type": "string"}},
    },
}


@router.post(
    "/events", response_model=Recorded, responses=refusals(429, body=True), openapi_extra={"requestBody": _BODY}
)
async def post_events(request: Request) -> Response:
    """Records usage events. Once this answers, they are durable and charged; sending them again changes nothing.

    What cannot be read is listed under ``rejected`` with its place in the request, and kept in quarantine. The binary
    mode of CloudEvents (attributes in ``ce-`` headers) is understood too.
    """
    service: Service = request.app.state.service
    settings = service.settings
    body = await read_body(request, settings.max_body_bytes)
    headers = request.headers
    content_type = headers.get("content-type", "")
    now = service.clock.now()
    if "ce-specversion" in headers and not content_type.lower().startswith("application/cloudevents"):
        batch = cloud_events.read_binary(headers, body, now)
    else:
        batch = cloud_events.read(body, content_type, now, max_events=settings.max_events)
    batch = limited(batch, caller_of(request).sender)
    receipt = await service.intake.submit(batch)
    if batch.unreadable and not batch.measurements:
        return _nothing_read(receipt)
    return Response(msgspec.json.encode(receipt), media_type="application/json")


def _nothing_read(receipt: Receipt) -> Response:
    first = receipt.rejected[0]
    return say(
        Surface.NATIVE,
        Refusal(400, first.code, first.detail, more={"rejected": msgspec.to_builtins(receipt.rejected)}),
    )
