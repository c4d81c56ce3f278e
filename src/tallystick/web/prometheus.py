"""Prometheus remote write, 1.0 and 2.0: ``POST /api/v1/prometheus/write``.

A sender takes 2xx and most of 4xx for the last word, and sends again what was answered with 5xx. So whatever may
succeed later is 503 here, also a service that has too much to do: senders by default do not repeat what got 429.

Source: "Prometheus Remote-Write" 1.0 and 2.0, prometheus.io/docs/specs/prw.
"""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from tallystick.kernel.errors import Overloaded
from tallystick.metering.model import Receipt
from tallystick.metering.senders import limited
from tallystick.metering.sources.prometheus import V1, V2, Received, Version, decompress
from tallystick.service import Service
from tallystick.web.body import UnsupportedMedia, read_sent
from tallystick.web.gate import caller_of
from tallystick.web.native import refusals
from tallystick.web.problems import Busy, Refusal, Surface, say
from tallystick.web.routes import LeanRoute

MAX_NAMED_REJECTIONS: Final = 20
"""What was rejected is named up to this many; all of it is in quarantine."""

PROTOBUF: Final = "application/x-protobuf"

router = APIRouter(prefix="/api/v1/prometheus", tags=["Usage"], route_class=LeanRoute)


_BODY = {
    "required": True,
    "description": f"a message of Prometheus remote write as one block of Snappy; proto={V2} in Content-Type is 2.0",
    "content": {PROTOBUF: {"schema": {"type": "string", "format": "binary"}}},
}
_WRITTEN = {
    f"X-Prometheus-Remote-Write-{name}-Written": {"schema": {"type": "integer"}}
    for name in ("Samples", "Histograms", "Exemplars")
}


@router.post(
    "/write",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Everything that is usage is charged", "headers": _WRITTEN}, **refusals(body=True)},
    openapi_extra={"requestBody": _BODY},
)
async def write(request: Request) -> Response:
    """Records samples of Prometheus. Once this answers, they are durable and charged; sent again, they change nothing.

    Rules say which series are usage (`TALLY_SERIES_FILE`; by default those of the OpenStack exporter), others are left
    alone. Samples of such series that cannot be charged are kept in quarantine and answered with 400, beside which the
    others are recorded.
    """
    service: Service = request.app.state.service
    settings = service.settings
    version = _version(request.headers)
    body = decompress(await read_sent(request, settings.max_body_bytes), settings.max_body_bytes)
    received = service.prometheus.read(body, version, settings.max_events)
    try:
        receipt = await service.intake.submit(limited(received.batch, caller_of(request).sender))
    except Overloaded as error:
        raise Busy(error.detail, retry_after_seconds=error.retry_after_seconds) from None
    headers = _written(received, receipt)
    if receipt.rejected:
        return _partly(receipt, headers)
    return Response(status_code=204, headers=headers)


def _version(headers: Headers) -> Version:
    """The message that the headers announce. Raises ``UnsupportedMedia``.

    A type must be given: pages of others, which browsers let post without one, must not reach a service without keys.
    """
    if headers.get("content-encoding", "snappy").strip().lower() != "snappy":
        raise UnsupportedMedia("Content-Encoding must be snappy")
    media_type, *parameters = (part.strip() for part in headers.get("content-type", "").split(";"))
    if media_type.lower() != PROTOBUF:
        raise UnsupportedMedia(f"Content-Type must be {PROTOBUF}")
    named = [
        text.strip().strip('"') for name, _, text in (each.partition("=") for each in parameters) if name == "proto"
    ]
    match named:
        case [] | ["prometheus.WriteRequest"]:
            return V1
        case ["io.prometheus.write.v2.Request"]:
            return V2
    raise UnsupportedMedia(f"the parameter proto of Content-Type must be {V1} or {V2}")


def _written(received: Received, receipt: Receipt) -> dict[str, str]:
    """What senders of 2.0 want to know. What is no usage, and is left alone as it should be, counts as written:

    a sender takes an answer without anything written for a failure of the whole request.
    """
    without_meter = len(receipt.rejected) - len(received.batch.unreadable)
    return {
        "X-Prometheus-Remote-Write-Samples-Written": str(received.samples - received.refused_samples - without_meter),
        "X-Prometheus-Remote-Write-Histograms-Written": str(received.histograms - received.refused_histograms),
        "X-Prometheus-Remote-Write-Exemplars-Written": str(received.exemplars),
        "X-Tallystick-Accepted": str(receipt.accepted),
        "X-Tallystick-Duplicates": str(receipt.duplicates),
        "X-Tallystick-Ignored": str(received.ignored),
    }


def _partly(receipt: Receipt, headers: dict[str, str]) -> Response:
    first = receipt.rejected[0]
    written = headers["X-Prometheus-Remote-Write-Samples-Written"]
    kept = f"{len(receipt.rejected)} series or samples are kept in quarantine"
    detail = f"{kept}, {written} samples are written: {first.detail}"
    named = msgspec.to_builtins(receipt.rejected[:MAX_NAMED_REJECTIONS])
    return say(Surface.NATIVE, Refusal(400, first.code, detail, headers=headers, more={"rejected": named}))
