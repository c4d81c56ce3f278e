"""What tests ask of a batch that has one piece."""

from __future__ import annotations

from tallystick.metering.model import Batch, Measurement, Unreadable


def only_measurement(batch: Batch) -> Measurement:
    assert batch.unreadable == []
    (measurement,) = batch.measurements
    return measurement


def only_unreadable(batch: Batch) -> Unreadable:
    assert batch.measurements == []
    (unreadable,) = batch.unreadable
    return unreadable
