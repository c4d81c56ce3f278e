"""What Prometheus is told is what happened."""

from __future__ import annotations

import asyncio
import dataclasses
import platform
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import cast

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

import tallystick
from tallystick.billing.instructions import Instruction
from tallystick.database.pool import Connection
from tallystick.kernel.ids import new_id
from tallystick.ledger.contract import Ledger
from tallystick.ledger.desk import MAX_QUEUED
from tallystick.ledger.tigerbeetle.promises import Lag
from tallystick.metering.model import Meter, Unreadable
from tallystick.operations import metrics
from tallystick.operations.metrics import Metrics
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import batch, create_price, measurement, put_meter, submit

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with open_service(Settings(dev=True, database_pool_size=4), database_url) as service:
        yield service


async def scraped(service: Service) -> Series:
    """Every series with its value, as a reader of the format finds it."""
    text = (await service.metrics.text()).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(series: Series, name: str, **labels: str) -> float:
    return series[name, tuple(sorted(labels.items()))]


async def test_usage_is_counted_by_door_once_it_is_recorded(service: Service) -> None:
    await put_meter(service, Meter("tokens"))
    same = measurement(value=2)
    await submit(service, same)
    await create_price(service)
    await submit(service, same, measurement(value=3), measurement(value=4))
    piece = Unreadable(0, b"nonsense", "bad_line", "nobody can read this")
    await service.intake.submit(batch([], unreadable=[piece], source="line-protocol"))
    series = await scraped(service)
    counted = {
        name: (one(series, f"tallystick_intake_{name}_total", door="events"))
        for name in ("accepted", "charged", "unpriced", "duplicates", "rejected")
    }
    assert counted == {"accepted": 3, "charged": 2, "unpriced": 1, "duplicates": 1, "rejected": 0}
    assert one(series, "tallystick_intake_rejected_total", door="line-protocol") == 1
    assert one(series, "tallystick_quarantine_pieces") == 1


async def test_usage_that_was_not_recorded_is_not_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*_: object) -> None:
        raise RuntimeError("the database has failed in the middle")

    monkeypatch.setattr(service.wallets, "charge", failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        await submit(service, measurement())
    assert ("tallystick_intake_accepted_total", (("door", "events"),)) not in await scraped(service)


async def test_large_batches_are_counted_whole_though_lanes_share_them(service: Service) -> None:
    await submit(service, *(measurement(f"customer-{number}") for number in range(400)))
    series = await scraped(service)
    assert one(series, "tallystick_intake_accepted_total", door="events") == 400
    groups = {
        lane.name: (
            one(series, "tallystick_group_items_count", queue=lane.name),
            one(series, "tallystick_group_items_sum", queue=lane.name),
        )
        for lane in service.intake.lanes
    }
    assert groups.pop("intake-small") == (0, 0)
    assert [count for count, _ in groups.values()] == [1, 1, 1, 1]
    assert sum(items for _, items in groups.values()) == 400


async def test_doors_are_few_whatever_sources_call_themselves(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallystick.metering.service.MAX_DOORS", 2)
    for source in ("door-0:this", "door-0:that", "door-1", "door-2", "door-3:x"):
        await service.intake.submit(batch([measurement()], source=source))
    series = await scraped(service)
    doors = {labels: value for (name, labels), value in series.items() if name == "tallystick_intake_accepted_total"}
    assert doors == {(("door", "door-0"),): 2, (("door", "door-1"),): 1, (("door", "other"),): 2}


async def test_orders_pass_a_queue_of_their_own(service: Service) -> None:
    await service.instructions.carry_out(Instruction(new_id(service.clock.now()), "open", "ada", 1, 5_000_000))
    series = await scraped(service)
    assert one(series, "tallystick_group_items_sum", queue="desk") == 1
    assert one(series, "tallystick_group_seconds_count", queue="desk") == 1
    assert one(series, "tallystick_queue_items", queue="desk") == 0
    assert one(series, "tallystick_queue_limit_items", queue="desk") == MAX_QUEUED


async def test_buckets_hold_all_that_lies_below_their_bound(service: Service) -> None:
    for seconds in (0.001, 0.002, 0.3, 99):
        service.traffic.note("/ping", "GET", 200, seconds, None)
    series = await scraped(service)
    labels = {"route": "/ping", "method": "GET", "status": "2xx"}
    name = "tallystick_http_request_duration_seconds"
    expected = {"0.001": 1, "0.0025": 2, "0.5": 3, "10": 3, "+Inf": 4}
    assert {bound: one(series, f"{name}_bucket", **labels, le=bound) for bound in expected} == expected
    assert one(series, f"{name}_count", **labels) == 4
    assert one(series, f"{name}_sum", **labels) == pytest.approx(99.303)


async def test_the_process_and_its_connections(service: Service) -> None:
    series = await scraped(service)
    assert one(series, "tallystick_build_info", version=tallystick.__version__, python=platform.python_version()) == 1
    assert one(series, "tallystick_database_up") == 1
    assert one(series, "tallystick_database_pool_connections") == 4
    assert one(series, "tallystick_database_pool_idle_connections") == 4
    assert one(series, "tallystick_database_pool_requests_total") > 0
    assert one(series, "process_resident_memory_bytes") > 1 << 20
    assert any(name == "python_gc_collections_total" for name, _ in series)
    assert one(series, "tallystick_jobs", job="prune-jobs", state="dead") == 0


async def test_without_a_database_the_rest_is_told(service: Service) -> None:
    await submit(service, measurement())
    await service.pool.close()
    series = await scraped(service)
    assert one(series, "tallystick_database_up") == 0
    assert one(series, "tallystick_intake_accepted_total", door="events") == 1
    stored = ("tallystick_ledger", "tallystick_quarantine")
    assert not [name for name, _ in series if name.startswith(stored)]


async def test_a_database_that_is_slow_does_not_hold_up_a_scrape(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "PATIENCE_SECONDS", 0.01)
    taken = [await service.pool.getconn() for _ in range(service.pool.max_size)]
    series = await scraped(service)
    for connection in taken:
        await service.pool.putconn(connection)
    assert one(series, "tallystick_database_up") == 0
    assert one(series, "tallystick_database_pool_idle_connections") == 0


async def test_counting_the_quarantine_has_an_end(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [Unreadable(number, b"%d" % number, "bad_line", "nobody can read this") for number in range(5)]
    await service.intake.submit(batch([], unreadable=pieces))
    monkeypatch.setattr(metrics, "MAX_QUARANTINE_COUNTED", 3)
    assert one(await scraped(service), "tallystick_quarantine_pieces") == 3


class Behind:
    """Stands for a cluster that is away."""

    away = True

    async def lag(self, conn: Connection) -> Lag:
        return Lag(waiting=7, oldest_seconds=90, refused=1)


async def test_a_ledger_in_the_database_is_never_behind(service: Service) -> None:
    series = await scraped(service)
    assert one(series, "tallystick_ledger_up") == 1
    for name in ("lag_seconds", "waiting_transfers", "refused_transfers"):
        assert one(series, f"tallystick_ledger_{name}") == 0


async def test_a_ledger_elsewhere_says_how_far_it_is_behind(service: Service) -> None:
    elsewhere = Metrics(service.pool, service.intake, service.desk, cast(Ledger, Behind()), service.traffic)
    series = await scraped(dataclasses.replace(service, metrics=elsewhere))
    told = [
        one(series, f"tallystick_ledger_{name}")
        for name in ("up", "lag_seconds", "waiting_transfers", "refused_transfers")
    ]
    assert told == [0, 90, 7, 1]


async def test_other_rooms_add_what_stands_in_their_tables(service: Service) -> None:
    async def customers(conn: Connection) -> list[Metric]:
        ((count,),) = await (await conn.execute("select count(*) from customers")).fetchall()
        return [GaugeMetricFamily("tallystick_customers", "Customers.", value=count)]

    telling = Metrics(service.pool, service.intake, service.desk, service.ledger, service.traffic, [customers])
    await submit(service, measurement("ada"), measurement("bob"))
    assert one(await scraped(dataclasses.replace(service, metrics=telling)), "tallystick_customers") == 2


async def test_two_services_in_one_process_count_apart(service: Service, database_url: str) -> None:
    await submit(service, measurement())
    async with open_service(Settings(dev=True, database_pool_size=4), database_url) as other:
        assert ("tallystick_intake_accepted_total", (("door", "events"),)) not in await scraped(other)


async def test_promtool_finds_nothing_to_say(service: Service) -> None:
    """Prometheus's own judge of names, types and texts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool comes with the package `prometheus`")
    await submit(service, measurement())
    service.traffic.note("/ping", "GET", 404, 0.001, "not_found")
    text = await service.metrics.text()
    judged = await asyncio.to_thread(subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")
