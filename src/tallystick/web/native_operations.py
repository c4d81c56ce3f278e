"""What operators look at: one charge explained, the verdict over the books, and what could not be read."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request

from tallystick.metering import quarantine, replay
from tallystick.metering.charges import ChargeId
from tallystick.metering.quarantine import Quarantined
from tallystick.web.body import ExactRoute, Key, read_body
from tallystick.web.native import DEFAULT_LIMIT, Asked, Cursor, Limit, Listing, Serving, Shown, refusals, transaction

router = APIRouter(prefix="/api/v1", route_class=ExactRoute)


class Health(Shown):
    """``unhealthy`` comes with status 503."""

    status: Literal["healthy", "unhealthy"]
    database: Literal["reachable", "unreachable"]


@router.get("/health", tags=["Operations"], responses={503: {"model": Health}})
async def health(service: Serving) -> Response:
    """Whether the service and its database work."""
    try:
        async with service.pool.connection(timeout=HEALTH_TIMEOUT_SECONDS) as conn:
            await conn.execute("select 1")
    except (psycopg.OperationalError, psycopg.InterfaceError):
        return _health("unhealthy", "unreachable", 503)
    return _health("healthy", "reachable", 200)


class PieceShown(Shown):
    """A piece of input; its bytes as text where they are UTF-8, always as base64."""

    id: UUID
    source: str
    code: str
    detail: str
    size: int
    received_at: datetime
    replayed_at: datetime | None


class PieceWithBytes(PieceShown):
    raw: str | None
    raw_base64: str
    repaired: str | None
    repaired_base64: str | None


class ReplayAsked(Asked):
    ids: Annotated[list[UUID] | None, Field(max_length=replay.MAX_PIECES)] = None
    cursor: Annotated[str | None, Field(max_length=4096)] = None


class ReplayedShown(Shown):
    id: UUID
    recorded: bool
    accepted: int
    duplicates: int
    code: str | None
    detail: str | None


class ReplayShown(Shown):
    recorded: int
    pieces: list[ReplayedShown]
    next: str | None


@router.get("/quarantine", tags=["Quarantine"])
async def list_quarantine(
    service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT, replayed: bool = False
) -> Listing[PieceShown]:
    """Input that could not be read, in the order in which it came: what waits, or what was replayed."""
    async with transaction(service) as conn:
        page = await quarantine.page(conn, cursor, limit, replayed=replayed)
    return Listing(items=[PieceShown(**_facts(piece)) for piece in page.items], next=page.next)


@router.get("/quarantine/{piece_id}", tags=["Quarantine"], responses=refusals(404))
async def get_piece(piece_id: UUID, service: Serving) -> PieceWithBytes:
    """One piece with its bytes."""
    async with transaction(service) as conn:
        return _with_bytes(await quarantine.get(conn, piece_id))


@router.put(
    "/quarantine/{piece_id}",
    tags=["Quarantine"],
    responses=refusals(404, 413),
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def mend_piece(piece_id: UUID, request: Request, service: Serving) -> PieceWithBytes:
    """Keeps mended bytes (the body, as it is) beside those that came; the next replay reads them."""
    mended = await read_body(request, quarantine.MAX_PIECE_BYTES)
    async with transaction(service) as conn:
        return _with_bytes(await quarantine.repair(conn, piece_id, mended))


@router.post("/quarantine/replay", tags=["Quarantine"], responses=refusals(404, 429))
async def replay_pieces(body: ReplayAsked, service: Serving) -> ReplayShown:
    """Reads pieces again, those that are named or a page of all that wait. What is recorded is closed."""
    done = await replay.replay(service.pool, service.clock, service.intake, body.ids, body.cursor)
    pieces = [ReplayedShown.model_validate(piece) for piece in done.pieces]
    return ReplayShown(recorded=sum(piece.recorded for piece in pieces), pieces=pieces, next=done.next)


def _facts(piece: Quarantined) -> dict[str, Any]:
    return {name: getattr(piece, name) for name in PieceShown.model_fields if name != "size"} | {"size": len(piece.raw)}


def _with_bytes(piece: Quarantined) -> PieceWithBytes:
    return PieceWithBytes(
        **_facts(piece),
        raw=_text(piece.raw),
        raw_base64=base64.b64encode(piece.raw).decode(),
        repaired=None if piece.repaired is None else _text(piece.repaired),
        repaired_base64=None if piece.repaired is None else base64.b64encode(piece.repaired).decode(),
    )


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
