"""Input that nobody could read: kept as it came, listed, mended, and sent through the same door again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.kernel.ids import NIL, derived_id
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.metering.model import Sender, Unreadable

_SQL = Queries(Path(__file__).with_name("quarantine.sql"))

MAX_PIECE_BYTES = 1 << 20
"""A mended piece may be this long; what comes in is limited by the size of its request."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One piece. ``source`` names its reader; ``raw`` is what came, ``repaired`` what somebody made of it.

    ``sender`` is for whom alone it may be recorded; ``None``: for everybody.
    """

    id: UUID
    source: str
    code: str
    detail: str
    raw: bytes
    repaired: bytes | None
    received_at: datetime
    replayed_at: datetime | None
    sender: Sender | None

    @property
    def current(self) -> bytes:
        """What a replay reads."""
        return self.raw if self.repaired is None else self.repaired


async def quarantine(conn: AsyncConnection, source: str, pieces: list[Unreadable], now: datetime) -> None:
    """Keeps pieces with their reasons. The same bytes from the same source and sender are kept once."""
    if not pieces:
        return
    await conn.execute(
        _SQL.keep,
        {
            "ids": array(_id(source, piece) for piece in pieces),
            "sources": [piece.reader or source for piece in pieces],
            "codes": [piece.code for piece in pieces],
            "details": [piece.detail for piece in pieces],
            "raws": [piece.raw for piece in pieces],
            "customer_ids": UuidArray([piece.sender.customer_id if piece.sender else None for piece in pieces]),
            "agent_ids": UuidArray([piece.sender.agent_id if piece.sender else None for piece in pieces]),
            "now": now,
        },
    )


async def page(conn: AsyncConnection, cursor: str | None, limit: int, *, replayed: bool) -> Page[Quarantined]:
    """Pieces in the order in which they came: those that wait, or those that were replayed."""
    after_time, after_id = read_cursor(cursor, 2) or ("-infinity", str(NIL))
    try:
        after = (
            UUID(after_id),
            after_time if after_time == "-infinity" else datetime.fromisoformat(after_time).isoformat(),
        )
    except ValueError:
        raise InvalidInput("cursor must be one that a page of this list gave", field="cursor") from None
    rows = await (
        await conn.execute(
            _SQL.page, {"after_id": after[0], "after_time": after[1], "limit": limit + 1, "replayed": replayed}
        )
    ).fetchall()
    pieces = [_piece(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(pieces, next_cursor(pieces[-1].received_at.isoformat(), str(pieces[-1].id)) if more else None)


async def get(conn: AsyncConnection, piece_id: UUID) -> Quarantined:
    """One piece. Raises ``NotFound``."""
    row = await (await conn.execute(_SQL.get, {"id": piece_id})).fetchone()
    if row is None:
        raise NotFound(f"there is nothing in quarantine under {piece_id}", field="id")
    return _piece(row)


async def repair(conn: AsyncConnection, piece_id: UUID, mended: bytes) -> Quarantined:
    """Keeps what somebody made of a piece, beside what came. Raises ``NotFound``, ``InvalidInput`` if too long."""
    if len(mended) > MAX_PIECE_BYTES:
        raise InvalidInput(f"a repaired piece must not be longer than {MAX_PIECE_BYTES} bytes", field="body")
    await get(conn, piece_id)
    await conn.execute(_SQL.repair, {"id": piece_id, "repaired": mended})
    return await get(conn, piece_id)


async def close(conn: AsyncConnection, piece_ids: list[UUID], now: datetime) -> None:
    """Notes that pieces were read and recorded."""
    await conn.execute(_SQL.close, {"ids": piece_ids, "now": now})


def _id(source: str, piece: Unreadable) -> UUID:
    sender = piece.sender
    names = (sender.customer_id, sender.agent_id or NIL) if sender else ()
    return derived_id("quarantine", piece.reader or source, piece.raw, *names)


def _piece(row: TupleRow) -> Quarantined:
    *facts, customer_id, key, agent_id, email = row
    sender = Sender(customer_id, key, agent_id, email) if customer_id else None
    return Quarantined(*(*facts, sender))
