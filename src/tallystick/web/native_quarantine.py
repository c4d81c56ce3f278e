"""Input that could not be read: listed, shown, mended and replayed."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field
from starlette.requests import Request

from tallystick.metering import quarantine, replay
from tallystick.metering.quarantine import Quarantined
from tallystick.web.body import read_body
from tallystick.web.native import (
    DEFAULT_LIMIT,
    Asked,
    Cursor,
    Limit,
    Listing,
    Serving,
    Shown,
    refusals,
    routes_of,
    transaction,
)

router = routes_of("/quarantine", "Quarantine")


class PieceShown(Shown):
    id: UUID
    source: str
    code: str
    detail: str
    customer: str | None = Field(description="For whom alone it may be recorded, if a customer's key has sent it")
    size: int
    received_at: datetime
    replayed_at: datetime | None


class PieceWithBytes(PieceShown):
    """Bytes as base64, and as text if they are UTF-8."""

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


@router.get("")
async def list_pieces(
    service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT, replayed: bool = False
) -> Listing[PieceShown]:
    """Pieces in the order in which they came: those that wait, or those that were replayed."""
    async with transaction(service) as conn:
        page = await quarantine.page(conn, cursor, limit, replayed=replayed)
    return Listing(items=[PieceShown(**_facts(piece)) for piece in page.items], next=page.next)


@router.get("/{piece_id}", responses=refusals(404))
async def get_piece(piece_id: UUID, service: Serving) -> PieceWithBytes:
    """One piece with its bytes."""
    async with transaction(service) as conn:
        return _with_bytes(await quarantine.get(conn, piece_id))


_BYTES = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string"}}}}}


@router.put("/{piece_id}", responses=refusals(404, 413), openapi_extra=_BYTES)
async def mend_piece(piece_id: UUID, request: Request, service: Serving) -> PieceWithBytes:
    """Keeps mended bytes, which are the body as it is, beside those that came. The next replay reads them."""
    mended = await read_body(request, quarantine.MAX_PIECE_BYTES)
    async with transaction(service) as conn:
        return _with_bytes(await quarantine.repair(conn, piece_id, mended))


@router.post("/replay", responses=refusals(404, 429, body=True))
async def replay_pieces(body: ReplayAsked, service: Serving) -> ReplayShown:
    """Reads pieces again, those that are named or a page of all that wait. What is recorded is closed."""
    done = await replay.replay(
        service.pool, service.clock, service.intake, body.ids, body.cursor, series=service.prometheus
    )
    pieces = [ReplayedShown.model_validate(piece) for piece in done.pieces]
    return ReplayShown(recorded=sum(piece.recorded for piece in pieces), pieces=pieces, next=done.next)


def _facts(piece: Quarantined) -> dict[str, Any]:
    return {
        "id": piece.id,
        "source": piece.source,
        "code": piece.code,
        "detail": piece.detail,
        "customer": piece.sender and piece.sender.customer,
        "size": len(piece.raw),
        "received_at": piece.received_at,
        "replayed_at": piece.replayed_at,
    }


def _with_bytes(piece: Quarantined) -> PieceWithBytes:
    raw, raw_base64 = _shown(piece.raw)
    repaired, repaired_base64 = _shown(piece.repaired) if piece.repaired is not None else (None, None)
    return PieceWithBytes(
        **_facts(piece), raw=raw, raw_base64=raw_base64, repaired=repaired, repaired_base64=repaired_base64
    )


def _shown(data: bytes) -> tuple[str | None, str]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    return text, base64.b64encode(data).decode()
