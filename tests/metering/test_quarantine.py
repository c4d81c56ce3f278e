"""What nobody could read is kept as it came, once, and can be listed, mended and closed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.kernel.ids import NIL
from tallystick.kernel.paging import next_cursor
from tallystick.metering import quarantine
from tallystick.metering.model import Unreadable
from tallystick.metering.quarantine import MAX_PIECE_BYTES, Quarantined
from tallystick.service import Service
from tests.metering.books import batch, fetch, measurement
from tests.metering.conftest import NOW, StartService


def piece(raw: bytes, *, code: str = "not_json", reader: str | None = None) -> Unreadable:
    return Unreadable(0, raw, code, "an event must be JSON", reader)


async def send(service: Service, *pieces: Unreadable, source: str = "events") -> None:
    await service.intake.submit(batch([], unreadable=pieces, source=source))


async def listed(service: Service, *, replayed: bool = False) -> list[Quarantined]:
    async with service.pool.connection() as conn:
        return (await quarantine.page(conn, None, 100, replayed=replayed)).items


async def test_a_piece_is_kept_as_it_came_with_its_reason(service: Service) -> None:
    raw = bytes(range(256)) * 5000  # more than a mended piece may have
    await send(service, piece(raw))
    (kept,) = await listed(service)
    assert (kept.raw, kept.current, kept.repaired, kept.replayed_at) == (raw, raw, None, None)
    assert (kept.source, kept.code, kept.detail) == ("events", "not_json", "an event must be JSON")
    assert kept.received_at == NOW


async def test_the_same_bytes_for_the_same_reader_are_kept_once(
    service: Service, start_service: StartService, clock: TestClock
) -> None:
    other = await start_service()
    await asyncio.gather(*(send(process, piece(b"?"), piece(b"?")) for process in (service, other) for _ in range(5)))
    clock.advance(timedelta(hours=1))
    await send(service, piece(b"?", code="other_reason"))
    await send(service, piece(b"?"), source="line-protocol")
    await send(service, piece(b"?", reader="line-protocol"))
    rows = await fetch(service, "select source, code, received_at from quarantine order by received_at")
    assert rows == [("events", "not_json", NOW), ("line-protocol", "not_json", NOW + timedelta(hours=1))]


async def test_it_is_kept_together_with_what_could_be_read(service: Service) -> None:
    """Both or neither: a piece must not be lost, nor kept from a batch that is refused as a whole."""
    async with service.pool.connection() as conn, conn.transaction(force_rollback=True):
        await service.intake._intake.record(conn, [batch([measurement()], unreadable=[piece(b"?")])])
    assert await listed(service) == []


async def test_what_was_mended_is_replayed_and_closed_but_never_lost(service: Service, clock: TestClock) -> None:
    await send(service, piece(b"?"), piece(b"!"))
    first, second = await listed(service)
    async with service.pool.connection() as conn:
        mended = await quarantine.repair(conn, first.id, b"{}")
        assert (mended.raw, mended.repaired, mended.current) == (first.raw, b"{}", b"{}")
        clock.advance(timedelta(hours=1))
        await quarantine.close(conn, [first.id], clock.now())
    assert await listed(service) == [second]
    (closed,) = await listed(service, replayed=True)
    assert (closed.id, closed.raw, closed.replayed_at) == (first.id, first.raw, clock.now())

    async with service.pool.connection() as conn:
        await quarantine.close(conn, [first.id], clock.now() + timedelta(hours=1))
        assert (await quarantine.get(conn, first.id)).replayed_at == clock.now(), "the first time counts"
        await quarantine.repair(conn, first.id, b"[]")
    assert {waits.id for waits in await listed(service)} == {first.id, second.id}


async def test_what_does_not_exist_or_is_too_long_is_refused(service: Service) -> None:
    await send(service, piece(b"?"))
    (kept,) = await listed(service)
    async with service.pool.connection() as conn:
        with pytest.raises(NotFound):
            await quarantine.get(conn, NIL)
        with pytest.raises(NotFound):
            await quarantine.repair(conn, NIL, b"")
        assert (await quarantine.repair(conn, kept.id, b" " * MAX_PIECE_BYTES)).repaired == b" " * MAX_PIECE_BYTES
        with pytest.raises(InvalidInput):
            await quarantine.repair(conn, kept.id, b" " * (MAX_PIECE_BYTES + 1))


async def test_pages_are_in_the_order_of_arrival_and_leave_nothing_out(service: Service, clock: TestClock) -> None:
    expected: list[UUID] = []
    for number in range(4):
        await send(service, *(piece(b"%d %d" % (number, part)) for part in range(3)))
        clock.advance(timedelta(microseconds=1))
        expected += sorted(waits.id for waits in await listed(service) if waits.id not in expected)
    seen: list[UUID] = []
    cursor = None
    async with service.pool.connection() as conn:
        for _ in range(5):
            page = await quarantine.page(conn, cursor, 2, replayed=False)
            seen += [waits.id for waits in page.items]
            cursor = page.next
            await send(service, piece(b"later %d" % len(seen)))
            clock.advance(timedelta(microseconds=1))
    assert seen == expected[:10]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", next_cursor("a"), next_cursor("a", "b"), next_cursor("2026-01-01", "b"), next_cursor("b", str(NIL))],
)
async def test_a_made_up_cursor_is_refused(service: Service, cursor: str) -> None:
    async with service.pool.connection() as conn:
        with pytest.raises(InvalidInput):
            await quarantine.page(conn, cursor, 10, replayed=False)
