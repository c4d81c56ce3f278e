"""Readings of sources that are pulled: what became of each, and one by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from starlette.requests import Request

from tallystick.kernel.ids import derived_id
from tallystick.metering.reading_model import Counts, Reading, State
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
from tallystick.web.values import IDEMPOTENCY_KEY, Key, idempotency_key

router = routes_of("/readings", "Readings")

_NAMED: dict[str, Any] = {
    "parameters": [
        IDEMPOTENCY_KEY | {"description": "The same key for the same source is the same reading, which counts once."}
    ]
}


class CountsShown(Shown):
    """`items` = `recorded` + `repeated` + `quarantined`. `without_customer` are among those in quarantine; `unpriced`
    had no price when they were recorded; of `faults`, the source found something missing."""

    items: int
    recorded: int
    repeated: int
    quarantined: int
    without_customer: int
    unpriced: int
    faults: int


class MeterCounts(CountsShown):
    meter: str


class FailureShown(Shown):
    part: str
    detail: str


class FaultShown(Shown):
    meter: str
    resource: str
    detail: str


class ReadingShown(CountsShown):
    """One sweep of a source. `interval_start` is null for one by hand, which stands beside those of the intervals.

    `complete`: everything could be read. `partial`: parts failed, and what was read stands. `failed`: nothing could be
    read. `running`: it has not ended yet, or its process died. All but a complete one can be taken again within their
    interval.
    """

    id: UUID
    source: str
    interval_start: datetime | None
    at: datetime
    state: State
    attempts: int
    ended_at: datetime | None
    failures: list[FailureShown]


class ReadingInFull(ReadingShown):
    """With the counts of each meter, and the first of those items at which the source found something missing."""

    meters: list[MeterCounts]
    items_with_faults: list[FaultShown]


class ReadingAsked(Asked):
    source: Key


@router.get("")
async def list_readings(
    service: Serving,
    source: Annotated[Key | None, Query(description="Only those of this source")] = None,
    state: State | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[ReadingShown]:
    """Readings, newest first."""
    async with transaction(service) as conn:
        page = await service.readings.page(conn, cursor, limit, source=source, state=state)
    return Listing(items=[ReadingShown(**_facts(reading)) for reading in page.items], next=page.next)


@router.post("", status_code=201, responses=refusals(404, 409, 429, body=True), openapi_extra=_NAMED)
async def take_reading(body: ReadingAsked, request: Request, service: Serving) -> ReadingInFull:
    """Reads a source now, beside its periodic readings and in addition to them; answers when all is recorded.

    While the source is being read already, it is refused with 409.
    """
    source = service.readings.source(body.source)
    key = idempotency_key(request)
    reading_id = None if key is None else derived_id("manual reading", source.key, key)
    return _in_full(await service.readings.take(source, periodic=False, reading_id=reading_id))


@router.get("/{reading_id}", responses=refusals(404))
async def get_reading(reading_id: UUID, service: Serving) -> ReadingInFull:
    """One reading in full."""
    async with transaction(service) as conn:
        return _in_full(await service.readings.get(conn, reading_id))


def _in_full(reading: Reading) -> ReadingInFull:
    return ReadingInFull(
        **_facts(reading),
        meters=[MeterCounts(meter=meter, **_counts(counts)) for meter, counts in sorted(reading.counts.items())],
        items_with_faults=[FaultShown.model_validate(fault) for fault in reading.faults],
    )


def _facts(reading: Reading) -> dict[str, Any]:
    return {
        "id": reading.id,
        "source": reading.source,
        "interval_start": reading.interval_start,
        "at": reading.at,
        "state": reading.state,
        "attempts": reading.attempts,
        "ended_at": reading.ended_at,
        "failures": [FailureShown.model_validate(failure) for failure in reading.failures],
        **_counts(reading.total),
    }


def _counts(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in Counts.__struct_fields__}
