"""Measurements on their way through a batch, and the rows they become."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

import msgspec

from tallystick.database.binary import NULL, date_field, numeric_field, text_field, timestamp_field, uuid_field
from tallystick.metering.directory import Stream, TotalKey, Window
from tallystick.metering.model import Measurement

_NOT_CHARGED = NULL * 4


class Entry(msgspec.Struct, gc=False, eq=False):
    """One measurement on its way through a batch."""

    batch: int
    id: bytes
    measurement: Measurement
    stream: Stream
    window: Window
    quantity: Decimal
    remark: str | None = None
    total: TotalKey | None = None  # the total it went to; None until then
    after: Decimal | None = None
    amount: int | None = None
    movement: bytes | None = None  # the transfer


def rows_of(entries: Sequence[Entry], now: datetime) -> bytes:
    """The rows of ``copy_measurements`` in PostgreSQL's binary format."""
    recorded_at = timestamp_field(now)
    fields: list[bytes] = []
    for entry in entries:
        measurement = entry.measurement
        _, period, price, _, _ = entry.total or entry.window.waiting
        fields += (
            entry.stream.row,
            uuid_field(entry.id),
            timestamp_field(measurement.at),
            recorded_at,
            date_field(period),
            text_field(measurement.sender_id),
            numeric_field(str(measurement.value)),
            NULL if measurement.unit_price is None else numeric_field(str(measurement.unit_price)),
            numeric_field(str(entry.quantity)),
            NULL if entry.remark is None else text_field(entry.remark),
        )
        if entry.amount is None:
            fields.append(_NOT_CHARGED)
        else:
            fields += (
                _id_field(price),
                numeric_field(str(entry.after)),
                numeric_field(str(entry.amount)),
                NULL if entry.movement is None else uuid_field(entry.movement),
            )
    return b"".join(fields)


@lru_cache(1000)
def _id_field(text: str) -> bytes:
    return uuid_field(UUID(text).bytes)
