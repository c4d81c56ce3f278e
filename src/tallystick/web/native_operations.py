"""What operators look at: whether it works, whether the books hold, why a charge is what it is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from tallystick.kernel.errors import Overloaded
from tallystick.metering.charges import ChargeId
from tallystick.operations.health import Status
from tallystick.operations.verify import snapshot
from tallystick.web.gate import caller_of
from tallystick.web.native import DecimalText, Serving, Shown, refusals
from tallystick.web.routes import ExactRoute
from tallystick.web.values import Key

VERIFY_AGAIN_SECONDS = 10

router = APIRouter(prefix="/api/v1", tags=["Operations"], route_class=ExactRoute)


class DatabaseShown(Shown):
    status: Status
    version: str | None = None
    latency_ms: int | None = None


class IntakeShown(Shown):
    queued: int


class LedgerShown(Shown):
    status: Status
    waiting: int
    oldest_seconds: int
    refused: int


class EventsShown(Shown):
    status: Status


class Health(Shown):
    status: Status
    database: DatabaseShown
    intake: IntakeShown
    ledger: LedgerShown | None = None
    events: EventsShown | None = None


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(service: Serving) -> Response:
    """Whether the service can do its work: its database answers within two seconds."""
    condition = await service.health.check(service.pool)
    return JSONResponse(condition, 503 if condition["status"] == "unhealthy" else 200)


class CheckShown(Shown):
    name: str
    holds: bool
    checked: int
    detail: str


class VerdictShown(Shown):
    holds: bool
    checks: list[CheckShown]


@router.get("/verify", responses=refusals(404, 429))
async def verify(service: Serving, customer: Key | None = None) -> VerdictShown:
    """Proves the books, of everybody or of one customer: about three seconds per million measurements.

    One proof runs at a time; whoever asks meanwhile gets 429.
    """
    if service.proving.locked():
        raise Overloaded("the books are being verified already", retry_after_seconds=VERIFY_AGAIN_SECONDS)
    async with service.proving, snapshot(service.pool) as conn:
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
    postings: list[dict[str, Any]]
    is_noted: bool
    transfers: list[dict[str, Any]]
    missing: str | None
    lines: list[str]


@router.get("/charges/{charge_id}", responses=refusals(404))
async def explain_charge(
    charge_id: Annotated[str, Path(max_length=200)], request: Request, service: Serving
) -> ChargeExplained:
    """One charge explained, from the measurement through quantity, totals, price and arithmetic to the transfer."""
    charge = ChargeId.parse(charge_id)
    caller_of(request).need_customer_of_id(charge.customer_id)
    async with snapshot(service.pool) as conn:
        explanation = await service.explain.charge(conn, charge)
    return ChargeExplained.model_validate(explanation.as_json())
