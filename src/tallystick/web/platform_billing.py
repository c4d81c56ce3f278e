"""The surface of the platform's billing, for its administrators: who calls shows a token of the OIDC issuer.

These are the routes that it had, whose answers are ``text/plain``. What it had only drawn stands in ``platform_admin``
and ``platform_customers``, and answers in JSON. Refusals are ``text/plain`` everywhere: the sentence alone.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tallystick.jobs import measuring
from tallystick.kernel.errors import Unavailable
from tallystick.kernel.money import CREDIT
from tallystick.ledger.grant_model import DEFAULT_PRIORITY
from tallystick.metering.sources.cloud_foundry import OneApp
from tallystick.service import Service
from tallystick.web.body import MalformedBody, UnsupportedMedia, is_json, read_body, validated
from tallystick.web.native import Asked, transaction
from tallystick.web.problems import NO_SNIFFING
from tallystick.web.routes import LeanRoute
from tallystick.web.values import Key, Microunits

_BY_HAND = "by hand"

router = APIRouter(prefix="/admin", tags=["Platform billing"], route_class=LeanRoute)


class NewTier(Asked):
    """A tier in the words of that surface; what else a tier has is as native routes have it unless told."""

    name: Key
    credits: Annotated[Microunits, Field(gt=0, description="How much it grants")]


def refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says about the refusals of a route."""
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in (*statuses, 400, 401, 403, 413, 415, 422, 429, 500, 503)
    }


def _asks(model: type[Asked]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


_OF_AN_APP = {"parameters": [{"name": "guid", "in": "path", "required": True, "schema": {"type": "string"}}]}


@router.post("/tier", response_class=PlainTextResponse, responses=refuses(409), openapi_extra=_asks(NewTier))
async def create_tier(request: Request) -> Response:
    """Creates a tier and answers its id, which is its name.

    The same tier again is the same answer; another one under a taken name is refused.
    """
    service: Service = request.app.state.service
    body = await read_body(request, service.settings.max_body_bytes)
    if not body:  # as its first clients called, and got a tier without a name that granted nothing
        raise MalformedBody('a tier needs a name and credits: send JSON, as {"name": "bronze", "credits": "1000"}')
    if not is_json(request):
        raise UnsupportedMedia("Content-Type must be application/json")
    asked = validated(NewTier, body)
    async with transaction(service) as conn:
        tier = await service.tiers.create(conn, asked.name, CREDIT, asked.credits, "promotional", DEFAULT_PRIORITY)
    return PlainTextResponse(tier.name, headers=NO_SNIFFING)


@router.post("/usage/job", response_class=PlainTextResponse, responses=refuses())
async def measure_usage(request: Request) -> Response:
    """Has all sources read soon, beside their readings of every hour; answers the id of the job.

    While one that was asked for like this waits, that one is answered.
    """
    service: Service = request.app.state.service
    async with transaction(service) as conn:
        job_id, is_duplicate = await service.jobs.ensure(conn, measuring.NAME, _BY_HAND)
    text = f"job {job_id}, skipped as duplicate: {str(is_duplicate).lower()}"
    return PlainTextResponse(text, headers=NO_SNIFFING)


@router.post("/usage/app/{guid}", response_class=PlainTextResponse, responses=refuses(), openapi_extra=_OF_AN_APP)
async def read_app(request: Request) -> Response:
    """Reads one app now: that it is there, under the meter ``oneoff``. It takes nobody's hour and may be repeated.

    An app that stands in no known space is kept in quarantine, as in any reading.
    """
    service: Service = request.app.state.service
    if service.cloud_foundry is None:
        raise Unavailable("no platform is configured: set CF_API_URL")
    reading = await service.readings.take(OneApp(service.cloud_foundry, request.path_params["guid"]), periodic=False)
    if reading.state != "complete":
        raise Unavailable(reading.failures[0].detail)
    outcome = "kept until it is known whose it is" if reading.total.without_customer else "recorded"
    return PlainTextResponse(f"reading {reading.id}: the app is {outcome}", headers=NO_SNIFFING)
