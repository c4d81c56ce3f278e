"""Reading quarantined pieces again: once mended, or once what they lacked exists.

A piece is read by the reader of its source as if it came for the first time, but the instant at which it really came
stands in for a time that it does not name. So replaying it twice records it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from uuid import UUID

import msgspec

from tallystick.database.pool import Pool
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput, TallyError
from tallystick.kernel.text import check_key, check_text
from tallystick.metering import quarantine
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.quarantine import Quarantined
from tallystick.metering.senders import limited
from tallystick.metering.service import IntakeQueue
from tallystick.metering.sources import cloud_events, line_protocol, prometheus
from tallystick.metering.sources.line_protocol import MAX_NATURAL_KEY_CHARACTERS
from tallystick.metering.sources.prometheus import Reader
from tallystick.metering.sources.values import Refused, check_unit_price, check_value

MAX_PIECES = 1000
"""Pieces of one replay."""

PIECES_AT_ONCE = 100
"""Pieces that are read and submitted together."""

PieceReader = Callable[[Quarantined], Batch]

MEASUREMENT = "measurement"
"""The source of pieces that were read once already and wait for their meter."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one piece. It is ``recorded`` if all of it is; else ``code`` and ``detail`` say why it waits."""

    id: UUID
    recorded: bool
    accepted: int
    duplicates: int
    code: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of some pieces, and the cursor at which the next ones start, if more wait."""

    pieces: list[Replayed]
    next: str | None


async def replay(
    pool: Pool,
    clock: Clock,
    intake: IntakeQueue,
    ids: list[UUID] | None = None,
    cursor: str | None = None,
    *,
    series: Reader | None = None,
) -> Replay:
    """Reads these pieces again, or, without ids, a page of those that wait; what is recorded is closed.

    ``series`` reads pieces of Prometheus; without it, they stay.

    Raises ``NotFound`` for an id that nothing has, ``InvalidInput`` for more than ``MAX_PIECES`` ids, ``Overloaded``
    and ``Unavailable`` as intake does; it may then be repeated.
    """
    if ids is not None and len(ids) > MAX_PIECES:
        raise InvalidInput(f"ids must be at most {MAX_PIECES}", field="ids")
    async with pool.connection() as conn:
        if ids is None:
            page = await quarantine.page(conn, cursor, MAX_PIECES, replayed=False)
            pieces, following = page.items, page.next
        else:
            pieces, following = [await quarantine.get(conn, piece_id) for piece_id in dict.fromkeys(ids)], None
    readers = dict(_READERS)
    if series is not None:
        readers[prometheus.SOURCE] = partial(_read_series, series)
    replayed: list[Replayed] = []
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        together = pieces[start : start + PIECES_AT_ONCE]
        outcomes = await asyncio.gather(*(_replay_piece(intake, readers, piece) for piece in together))
        async with pool.connection() as conn:
            await quarantine.close(conn, [outcome.id for outcome in outcomes if outcome.recorded], clock.now())
        replayed += outcomes
    return Replay(replayed, following)


async def _replay_piece(intake: IntakeQueue, readers: dict[str, PieceReader], piece: Quarantined) -> Replayed:
    reader = readers.get(piece.source)
    if reader is None:
        return Replayed(piece.id, False, 0, 0, "unknown_source", f"nothing reads what came from {piece.source!r}")
    try:
        batch = limited(reader(piece), piece.sender)
    except TallyError as error:
        return Replayed(piece.id, False, 0, 0, error.code, error.detail)
    # What is still unreadable waits here already; only what could be read goes in.
    receipt = await intake.submit(msgspec.structs.replace(batch, unreadable=[]))
    reason: Unreadable | None = next(iter(batch.unreadable), None)
    refused = reason or next(iter(receipt.rejected), None)
    return Replayed(
        piece.id,
        refused is None,
        receipt.accepted,
        receipt.duplicates,
        refused.code if refused else None,
        refused.detail if refused else None,
    )


def _read_events(piece: Quarantined) -> Batch:
    return cloud_events.read(piece.current, "application/json", piece.received_at)


def _read_cloud_events(piece: Quarantined) -> Batch:
    return cloud_events.read(piece.current, "application/cloudevents+json", piece.received_at)


def _read_lines(piece: Quarantined, *, precision: str) -> Batch:
    batch = line_protocol.read(piece.current, piece.received_at, precision=precision)
    return msgspec.structs.replace(batch, creates_meters=False)


def _read_series(series: Reader, piece: Quarantined) -> Batch:
    return series.read_piece(piece.current)


def _read_measurement(piece: Quarantined) -> Batch:
    return Batch(MEASUREMENT, [_measurement(piece.current)], [0], [], creates_meters=False)


_READERS: dict[str, PieceReader] = {
    cloud_events.SOURCE: _read_events,
    cloud_events.STRICT_SOURCE: _read_cloud_events,
    **{
        line_protocol.reader(precision) or line_protocol.SOURCE: partial(_read_lines, precision=precision)
        for precision in line_protocol.NANOSECONDS
    },
    MEASUREMENT: _read_measurement,
}


def _measurement(raw: bytes) -> Measurement:
    """The measurement kept as JSON, checked anew because somebody may have mended it. Raises ``InvalidInput``."""
    try:
        read = msgspec.json.decode(raw, type=Measurement)
        at = read.at.astimezone(UTC)
    except (ValueError, OverflowError, RecursionError) as error:
        raise Refused("invalid_measurement", f"the piece must be a measurement as JSON: {error}") from None
    if read.at.tzinfo is None:
        raise Refused("invalid_time", "at must be an RFC 3339 instant with a zone", field="at")
    for name in ("source", "customer", "meter"):
        check_key(getattr(read, name), name)
    check_key(read.sender_id, "sender_id", MAX_NATURAL_KEY_CHARACTERS)
    for name in ("kind", "resource", "agent"):
        check_text(getattr(read, name), name)
    return msgspec.structs.replace(
        read,
        at=at,
        value=check_value(read.value),
        unit_price=None if read.unit_price is None else check_unit_price(check_value(read.unit_price, "unit_price")),
    )
