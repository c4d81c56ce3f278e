"""What operators look at: whether it works, whether the books hold, why a charge is what it is."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import psycopg
from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse
from starlette.responses import Response

from tallystick.metering.charges import ChargeId
from tallystick.operations.verify import snapshot
from tallystick.web.native import DecimalText, Serving, Shown, refusals
from tallystick.web.routes import ExactRoute
from tallystick.web.values import Key

HEALTH_TIMEOUT_SECONDS = 2

router = APIRouter(prefix="/api/v1", tags=["Operations"], route_class=ExactRoute)


class Health(Shown):
    status: Literal["healthy", "unhealthy"]
    database: Literal["reachable", "unreachable"]


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(service: Serving) -> Response:
    """Whether the service works, and its database answers within two seconds."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS), service.pool.connection() as conn:
            await conn.execute("select 1")
    except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError):
        return JSONResponse({"status": "unhealthy", "database": "unreachable"}, 503)
    return JSONResponse({"status": "healthy", "database": "reachable"})


class CheckShown(Shown):
    name: str
    holds: bool
    checked: int
    detail: str


class VerdictShown(Shown):
    holds: bool
    checks: list[CheckShown]


@router.get("/verify", responses=refusals(404))
async def verify(service: Serving, customer: Key | None = None) -> VerdictShown:
    """Proves the books, of everybody or of one customer: about three seconds per million measurements."""
    async with snapshot(service.pool) as conn:
        return VerdictShown.model_validate(await service.verify.run(conn, customer))


class ChargeExplained(Shown):
    """The trail of a charge, as facts and, in ``lines``, as sentences with their arithmetic."""

    id: str
    measurement: dict[str, Any]
    quantity: DecimalText
    remark: str | None
    period: str
    total_before: DecimalText | None
    total_after: DecimalText | None
    price: dict[str, Any] | None
    asset: str | None
    amount: DecimalText | None
    arithmetic: list[str]
    transfers: list[dict[str, Any]]
    missing: str | None
    lines: list[str]


@router.get("/charges/{charge_id}", responses=refusals(404))
async def explain_charge(charge_id: Annotated[str, Path(max_length=200)], service: Serving) -> ChargeExplained:
    """One charge explained, from the measurement through quantity, totals, price and arithmetic to the transfer."""
    async with snapshot(service.pool) as conn:
        explanation = await service.explain.charge(conn, ChargeId.parse(charge_id))
    return ChargeExplained.model_validate(explanation.as_json())
