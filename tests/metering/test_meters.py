"""Meters: created, changed until they are in use, and followed by every process at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import get_args

import msgspec
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.text import TextEmpty, TextNotStorable, TextTooLong
from tallystick.metering.model import Meter, OnGap
from tallystick.service import Service
from tests.metering.books import batch, fetch, measurement, put_meter, quantity, submit
from tests.metering.conftest import StartService

PEAK = Meter("peak", "gauge", "max", unit="GiB", name="memory", description="highest of the month")


async def test_a_meter_is_what_was_put_last(service: Service) -> None:
    assert await put_meter(service, PEAK) == PEAK
    changed = msgspec.structs.replace(PEAK, aggregation="latest", unit="MiB", name="ram", description="")
    await put_meter(service, changed)
    async with service.pool.connection() as conn:
        assert await service.meters.get(conn, "peak") == changed
        assert await service.meters.find(conn, "no such meter") is None
        with pytest.raises(NotFound, match="'no such meter'"):
            await service.meters.get(conn, "no such meter")


@pytest.mark.parametrize(
    ("meter", "error", "field"),
    [
        (Meter(""), TextEmpty, "key"),
        (Meter(" \t"), TextEmpty, "key"),
        (Meter("k" * 257), TextTooLong, "key"),
        (Meter("k\0"), TextNotStorable, "key"),
        (Meter("k", unit="u" * 257), TextTooLong, "unit"),
        (Meter("k", name="\ud800"), TextNotStorable, "name"),
        (Meter("k", description="d" * 257), TextTooLong, "description"),
        (Meter("k", "counter", "max"), InvalidInput, "aggregation"),
        (Meter("k", on_gap="held"), InvalidInput, "on_gap"),
        (Meter("k", "gauge", "max", on_gap="held"), InvalidInput, "on_gap"),
        (Meter("k", interval_minutes=30), InvalidInput, "interval_minutes"),
        (Meter("k", "gauge", "latest", interval_minutes=30), InvalidInput, "interval_minutes"),
        (Meter("k", "gauge", interval_minutes=0), InvalidInput, "interval_minutes"),
        (Meter("k", "gauge", interval_minutes=10), InvalidInput, "interval_minutes"),
        (Meter("k", "gauge", interval_minutes=21), InvalidInput, "interval_minutes"),
        (Meter("k", "gauge", interval_minutes=1443), InvalidInput, "interval_minutes"),
        (Meter("k", "gauge", max_gap_hours=0), InvalidInput, "max_gap_hours"),
        (Meter("k", "gauge", max_gap_hours=2305), InvalidInput, "max_gap_hours"),
        (Meter("k", "gauge", on_gap="held", max_gap_hours=97), InvalidInput, "max_gap_hours"),
        (Meter("k", "gauge", on_gap="held", max_gap_hours=25, interval_minutes=15), InvalidInput, "max_gap_hours"),
        (Meter("k", "gauge", on_gap="held", max_gap_hours=23, interval_minutes=1440), InvalidInput, "max_gap_hours"),
    ],
)
async def test_a_meter_that_breaks_a_rule_is_refused(
    service: Service, meter: Meter, error: type[InvalidInput], field: str
) -> None:
    with pytest.raises(error) as refused:
        await put_meter(service, meter)
    assert refused.value.field == field


@pytest.mark.parametrize("change", [{"kind": "counter"}, {"aggregation": "max"}, {"on_drop": "from_zero"}])
async def test_how_a_meter_counts_is_fixed_once_it_has_measurements(service: Service, change: dict[str, str]) -> None:
    await submit(service, measurement(meter="m"))
    with pytest.raises(Conflict) as refused:
        await put_meter(service, msgspec.structs.replace(Meter("m"), **change))
    assert refused.value.field == "kind"
    described = Meter("m", unit="h", name="hours", description="may change at any time")
    assert await put_meter(service, described) == described


@pytest.mark.parametrize(
    "meter",
    [
        Meter("k", "gauge", interval_minutes=3),
        Meter("k", "gauge", on_gap="held", max_gap_hours=96),
        Meter("k", "gauge", on_gap="interpolated", max_gap_hours=24, interval_minutes=15),
        Meter("k", "gauge", on_gap="held", max_gap_hours=2304, interval_minutes=1440),
    ],
)
async def test_intervals_and_gaps_within_their_limits(service: Service, meter: Meter) -> None:
    assert await put_meter(service, meter) == meter
    async with service.pool.connection() as conn:
        assert await service.meters.get(conn, "k") == meter


async def test_the_interval_of_a_gauge_is_fixed_once_it_has_measurements(service: Service) -> None:
    await put_meter(service, Meter("m", "gauge"))
    await submit(service, measurement(meter="m"))
    with pytest.raises(Conflict, match="interval_minutes cannot change") as refused:
        await put_meter(service, Meter("m", "gauge", interval_minutes=30))
    assert refused.value.field == "kind"


async def test_gaps_may_come_to_be_filled_but_not_become_free_again(service: Service) -> None:
    """What was estimated would be counted again once its value comes late, and nobody would know the levels between."""
    await put_meter(service, Meter("m", "gauge"))
    await submit(service, measurement(meter="m"))
    for change in ({"on_gap": "held"}, {"on_gap": "interpolated", "max_gap_hours": 3}):
        await put_meter(service, Meter("m", "gauge", **change))
    with pytest.raises(Conflict, match="cannot become free") as refused:
        await put_meter(service, Meter("m", "gauge"))
    assert refused.value.field == "on_gap"


async def test_since_when_gaps_are_filled_is_noted_if_there_was_usage_before(
    service: Service, clock: TestClock
) -> None:
    """Levels know nothing of that usage; a meter without any has had levels from the beginning."""
    for key in ("used", "unused"):
        await put_meter(service, Meter(key, "gauge"))
    await submit(service, measurement(meter="used"))
    clock.advance(timedelta(hours=1))
    since = clock.now()
    for on_gap in get_args(OnGap)[1:]:
        for key in ("used", "unused", "new"):
            await put_meter(service, Meter(key, "gauge", on_gap=on_gap))
        clock.advance(timedelta(hours=1))
    noted = dict(await fetch(service, "select key, gaps_filled_since from meters where on_gap <> 'free'"))
    assert noted == {"used": since, "unused": None, "new": None}


async def test_a_meter_never_changes_between_two_of_its_measurements(
    service: Service, start_service: StartService
) -> None:
    """A change races with usage at another process: it comes before all of it, or is refused."""
    other = await start_service()
    for number in range(12):
        key = f"m{number}"
        await put_meter(service, Meter(key))
        usage = [submit(other, measurement(meter=key, value=7)) for _ in range(3)]
        change = put_meter(service, Meter(key, "counter"))
        *_, outcome = await asyncio.gather(*usage[: number % 3], change, *usage[number % 3 :], return_exceptions=True)
        assert not isinstance(outcome, BaseException)
    rows = await fetch(
        service,
        "select mt.kind, count(m.remark), count(*) from meters as mt join series as s on s.meter = mt.key"
        " join measurements as m on m.customer_id = s.customer_id and m.series_id = s.id group by mt.key, mt.kind",
    )
    assert len(rows) == 12
    for kind, counted_by_a_counter, measurements in rows:
        assert (counted_by_a_counter, measurements) == (3 if kind == "counter" else 0, 3)


async def test_what_waits_in_quarantine_does_not_fix_a_meter(service: Service) -> None:
    lines = [measurement(meter="m", source="line-protocol")]
    await service.intake.submit(batch(lines, creates_meters=False))
    assert await put_meter(service, Meter("m")) == Meter("m")
    assert await put_meter(service, Meter("m", "counter")) == Meter("m", "counter")


async def test_every_process_counts_by_a_new_meter_at_once(service: Service, start_service: StartService) -> None:
    other = await start_service()
    for process in (service, other):  # both know their customers and streams
        await submit(process, measurement(meter="known"))
    await put_meter(other, PEAK)
    for process, value in ((service, 5), (other, 3), (service, 7)):
        await submit(process, measurement("bob", value, meter="peak"))
    assert await quantity(service, "bob") == 7


async def test_a_meter_that_usage_creates_in_one_process_is_known_to_the_other(
    service: Service, start_service: StartService
) -> None:
    other = await start_service()
    await submit(service, measurement(meter="new"))
    receipt = await other.intake.submit(batch([measurement(meter="new")], creates_meters=False))
    assert (receipt.accepted, receipt.rejected) == (1, [])


async def test_pages_are_in_the_order_of_keys_and_leave_nothing_out(service: Service) -> None:
    keys = sorted(["a", "B", "b", "\u00e4", "z" * 256, " x"])
    for key in keys:
        await put_meter(service, Meter(key))
    seen: list[str] = []
    cursor = None
    async with service.pool.connection() as conn:
        while True:
            page = await service.meters.page(conn, cursor, 3)
            assert 1 <= len(page.items) <= 3
            seen += [meter.key for meter in page.items]
            if (cursor := page.next) is None:
                break
        with pytest.raises(InvalidInput):
            await service.meters.page(conn, "no cursor", 3)
    assert sorted(seen) == sorted([*keys, "project_mb_usage", "project_vcpu_usage"])
    assert seen == [key for (key,) in await fetch(service, "select key from meters order by key")]
