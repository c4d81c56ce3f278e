"""Measurements on their way through a batch, and the rows they become."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from tallystick.database.queries import copy_text
from tallystick.kernel.clock import instant_text
from tallystick.metering.directory import Stream, TotalKey, Window
from tallystick.metering.model import Measurement

_NULL = r"\N"
_NOT_CHARGED = "\t".join([_NULL] * 4)


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
    movement: str | None = None


def rows_of(entries: Sequence[Entry], now: datetime) -> str:
    """The rows of ``copy_measurements`` in PostgreSQL's text format."""
    recorded_at = instant_text(now)
    rows = []
    for entry in entries:
        measurement = entry.measurement
        _, period, price, _, _ = entry.total or entry.window.waiting
        charge = (
            _NOT_CHARGED
            if entry.amount is None
            else f"{price}\t{entry.after!s}\t{entry.amount}\t{entry.movement or _NULL}"
        )
        rows.append(
            f"{entry.stream.row}{entry.id.hex()}\t{instant_text(measurement.at)}\t{recorded_at}\t{period}"
            f"\t{copy_text(measurement.sender_id)}\t{measurement.value!s}"
            f"\t{_NULL if measurement.unit_price is None else measurement.unit_price!s}\t{entry.quantity!s}"
            f"\t{_NULL if entry.remark is None else copy_text(entry.remark)}\t{charge}\n"
        )
    return "".join(rows)
