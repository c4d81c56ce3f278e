"""To which interval a periodic reading belongs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tallystick.kernel.clock import TestClock
from tallystick.metering.reading_model import interval_of
from tallystick.metering.readings import HOUR, Readings
from tallystick.metering.resources import Resources
from tallystick.service import Service
from tests.doubles.sweepable import Sweepable, item
from tests.metering.books import quantity


def test_intervals_begin_on_the_hour_or_as_they_are_set() -> None:
    at = datetime(2026, 3, 8, 7, 44, 59, 999_999, tzinfo=UTC)
    assert interval_of(at, HOUR) == at.replace(minute=0, second=0, microsecond=0)
    assert interval_of(at, timedelta(minutes=15)) == at.replace(minute=30, second=0, microsecond=0)
    assert interval_of(at, timedelta(days=1)) == datetime(2026, 3, 8, tzinfo=UTC)


async def test_another_interval(service: Service, clock: TestClock) -> None:
    quarters = Readings(
        service.pool,
        clock,
        service.intake,
        Resources(clock, service.customers),
        service.customers,
        interval=timedelta(minutes=15),
    )
    source = Sweepable(items=[item("a", Decimal("0.5"))])
    for _ in range(12):
        await quarters.take(source, periodic=True)
        clock.advance(timedelta(minutes=5))
    assert source.sweeps == 4
    assert await quantity(service, "ada") == 2
