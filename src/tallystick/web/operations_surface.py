"""What operators of the OpenStack credits service watch and turn: statistics, metrics, logging.

Refusals are ``text/plain``, as on the rest of that surface.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from tallystick.operations.logconfig import change_logging
from tallystick.operations.metrics import CONTENT_TYPE
from tallystick.service import Service
from tallystick.web.body import UnsupportedMedia, exact_json, is_json, read_body
from tallystick.web.openstack_credits import refuses
from tallystick.web.routes import LeanRoute

MAX_LOGGING_BYTES = 256 << 10

router = APIRouter(tags=["OpenStack credits"], route_class=LeanRoute)


class Statistics(BaseModel):
    """What this process is doing. Each worker records the usage of some customers; these are locked meanwhile."""

    number_of_workers: int
    queue_size: int
    """Measurements that wait."""
    number_of_locks: int
    """Customers that are being worked on."""
    uptime: str = Field(pattern=r"^\d+:[0-5]\d:[0-5]\d\.\d{6}$", examples=["1:02:03.000004"])
    task_stacks: dict[str, str] | None = None
    """Only if `verbose`: where each worker stands in the code."""
    group_locks: dict[str, str] | None = None
    """Only if `verbose`: who works on which customer; a thousand at most."""


_VERBOSE = {
    "parameters": [
        {
            "name": "verbose",
            "in": "query",
            "schema": {"type": "string", "example": "true"},
            "description": "anything but nothing and `false` says yes",
        }
    ]
}


@router.get("/stats", response_model=Statistics, responses=refuses(), openapi_extra=_VERBOSE)
async def stats(request: Request) -> Response:
    """Statistics of this process at this moment."""
    service: Service = request.app.state.service
    verbose = request.query_params.get("verbose", "") not in ("", "false")
    return Response(msgspec.json.encode(service.stats.snapshot(verbose=verbose)), media_type="application/json")


@router.get("/metrics", response_class=PlainTextResponse, responses=refuses())
async def metrics(request: Request) -> Response:
    """Metrics in the text format of Prometheus (0.0.4)."""
    service: Service = request.app.state.service
    return Response(await service.metrics.text(), media_type=CONTENT_TYPE)


_LEVELS: dict[str, Any] = {"level": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]}}
_NAMED: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "object"}}
_DOCUMENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["version"],
                    "properties": {
                        "version": {"const": 1},
                        "incremental": {"type": "boolean", "default": False},
                        "disable_existing_loggers": {"type": "boolean", "default": False},
                        "formatters": _NAMED,
                        "filters": _NAMED,
                        "handlers": _NAMED,
                        "loggers": {
                            "type": "object",
                            "additionalProperties": {"type": "object", "properties": _LEVELS},
                        },
                        "root": {"type": "object", "properties": _LEVELS},
                    },
                    "additionalProperties": False,
                    "example": {"version": 1, "loggers": {"tallystick.web": {"level": "DEBUG"}}},
                }
            }
        },
    }
}


@router.post(
    "/logconfig", status_code=204, response_class=Response, responses=refuses(400, 413, 415), openapi_extra=_DOCUMENT
)
async def logconfig(request: Request) -> Response:
    """Changes the logging of this process, by a document for Python's `logging.config.dictConfig`.

    Handlers write to stdout or stderr; factories, classes and files are refused. A document that is refused changes
    nothing.
    """
    service: Service = request.app.state.service
    # Clients of the original send no type. A browser names the page that made it send; that one must have been allowed.
    if "origin" in request.headers and not is_json(request):
        raise UnsupportedMedia("Content-Type must be application/json")
    body = await read_body(request, min(MAX_LOGGING_BYTES, service.settings.max_body_bytes))
    change_logging(exact_json(body))
    return Response(status_code=204)
