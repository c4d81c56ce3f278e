"""The OpenStack stack as it really runs: exporter, Prometheus, InfluxDB, and the service behind both of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tallystick.metering.model import Measurement
from tallystick.metering.series import OPENSTACK, SeriesMap
from tallystick.metering.sources.prometheus import Reader
from tallystick.metering.sources.prometheus_query import open_prometheus, pull
from tests.doubles.usage_exporter import PROJECT, UsageExporter
from tests.system.conftest import MakeServer, Server, making_servers
from tests.system.monitoring import InfluxDB, eventually, running_influxdb, running_prometheus

pytestmark = pytest.mark.integration

SECOND = timedelta(seconds=1)

STORED = """
    select s.meter, m.at, m.value, m.sender_id
    from measurements m join series s on s.customer_id = m.customer_id and s.id = m.series_id
    where s.customer_id = (select id from customers where key = %s)
    order by m.at
"""


@dataclass
class Stack:
    exporter: UsageExporter
    prometheus: str
    direct: Server
    mirrored: Server
    both: Server
    influxdb: InfluxDB

    def measure(self, vcpu_hours: str, mib_hours: str) -> None:
        self.exporter.mib_hours, self.exporter.vcpu_hours = mib_hours, vcpu_hours


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three services: one gets remote write, one InfluxDB's subscription, one both of them."""
    folder = tmp_path_factory.mktemp("monitoring")
    with ExitStack() as resources:
        make: MakeServer = resources.enter_context(making_servers())
        direct, mirrored, both = (make().start() for _ in range(3))
        influxdb = resources.enter_context(running_influxdb(folder, mirrored.url))
        influxdb.query(f"CREATE SUBSCRIPTION both ON prometheus.autogen DESTINATIONS ALL '{both.url}'")
        exporter = resources.enter_context(UsageExporter("100.1", "4096"))
        writes = [f"{server.url}/api/v1/prometheus/write" for server in (direct, both)]
        prometheus = resources.enter_context(
            running_prometheus(folder, exporter.address, *writes, influxdb.remote_write_url)
        )
        yield Stack(exporter, prometheus, direct, mirrored, both, influxdb)


def used(server: Server) -> Decimal | None:
    """Credits that the project has used; None before it is known."""
    answer = httpx.get(f"{server.url}/api/v1/customers/{PROJECT}", timeout=30)
    if answer.status_code == 404:
        return None
    return sum((Decimal(balance["used"]) for balance in answer.json()["balances"]), Decimal(0))


def stored(server: Server) -> list[tuple[str, datetime, Decimal, str]]:
    with psycopg.connect((server.data_dir / "database-url").read_text()) as connection:
        return connection.execute(STORED, [PROJECT]).fetchall()


def has_baselines(server: Server) -> bool:
    return len({row[0] for row in stored(server)}) == 2


def test_the_stack_charges_what_was_used_by_whichever_way_it_comes(stack: Stack) -> None:
    """The totals rise by 42.4 vCPU hours and 2048 MiB hours: 42.4 + 0.6 credits, however often they were scraped."""
    servers = {"remote write": stack.direct, "InfluxDB": stack.mirrored, "both": stack.both}
    for name, server in servers.items():
        eventually(lambda server=server: has_baselines(server), f"first totals by way of {name}")  # type: ignore[misc]
    stack.measure("120.3", "5120")
    stack.measure("142.5", "6144")
    for name, server in servers.items():
        eventually(lambda server=server: used(server) == Decimal("43"), f"right charge by way of {name}")  # type: ignore[misc]
        assert server.get("/api/v1/verify")["holds"]
    rows = {name: stored(server) for name, server in servers.items()}
    ids = {name: {row[3] for row in rows[name]} for name in servers}
    # The same samples under the same names, and none of them twice where both ways lead.
    assert ids["remote write"] & ids["InfluxDB"]
    assert len(rows["both"]) == len({row[:2] for row in rows["both"]})
    values = {name: {row[3]: row[2] for row in rows[name]} for name in servers}
    for sample in ids["remote write"] & ids["InfluxDB"]:
        assert values["remote write"][sample] == values["InfluxDB"][sample]
    # It counts what was answered with 202 as failed, for which it looks for 204; both say that it was sent.
    posted = {
        row["tags"]["destination"]: sum(row["values"][0])
        for row in stack.influxdb.query("SHOW STATS FOR 'subscriber'")
        if "tags" in row
    }
    assert min(posted[server.url] for server in (stack.mirrored, stack.both)) > 0


def test_what_is_no_usage_is_left_alone_by_remote_write(stack: Stack) -> None:
    """Prometheus sends `up`, its own figures of each scrape and the exporter's other metrics as well."""
    eventually(lambda: stored(stack.direct), "first totals")
    assert stack.direct.get("/api/v1/quarantine")["items"] == []
    assert [each["key"] for each in stack.direct.get("/api/v1/customers")["items"]] == [PROJECT]


def test_pulling_brings_the_same_totals(stack: Stack) -> None:
    """What a range query gives at each second is what was scraped last: the rise is the same."""
    first, *_ = eventually(lambda: stored(stack.direct), "first totals")
    eventually(lambda: datetime.now(UTC) > first[1] + 2 * SECOND, "whole second behind the first scrape")
    pulled = asyncio.run(pull_all(stack.prometheus, first[1] - 5 * SECOND, datetime.now(UTC)))
    sent = stored(stack.direct)
    for meter in ("project_vcpu_usage", "project_mb_usage"):
        values = [each.value for each in pulled if each.meter == meter]
        assert {*values} <= {row[2] for row in sent if row[0] == meter}
        assert values == sorted(values)
        assert values
    series = {each.sender_id.rpartition(" ")[0] for each in pulled}
    assert series == {row[3].rpartition(" ")[0] for row in sent}
    assert {each.at.microsecond for each in pulled} == {0}


async def pull_all(url: str, since: datetime, until: datetime) -> list[Measurement]:
    reader = Reader(SeriesMap(OPENSTACK))
    measurements: list[Measurement] = []
    async with open_prometheus(url) as client:
        async for pulled in pull(client, reader, since, until, SECOND):
            measurements += [each for batch in pulled.batches for each in batch.measurements]
            assert pulled.batches[0].unreadable == []
    return measurements


def test_the_schedule_pulls_what_the_exporter_said(make_server: MakeServer, tmp_path: Path) -> None:
    """Its test clock goes ahead of Prometheus's: what is scraped after a pull comes late for it, within the overlap."""
    began = datetime.now(UTC).replace(microsecond=0)
    server = make_server()
    with UsageExporter("1", "1024") as exporter, running_prometheus(tmp_path, exporter.address) as prometheus:
        server.options = ("--dev", "--clock", began.isoformat())
        server.settings = {
            "TALLY_PROMETHEUS_URL": prometheus,
            "TALLY_PULL_STEP_SECONDS": "1",
            "TALLY_PULL_OVERLAP_SECONDS": str(3 * 3600),
        }
        server.start()
        for hour, total in enumerate(("1", "3", "4.5"), 1):
            exporter.vcpu_hours = total
            eventually(lambda total=total: latest(prometheus) == total, f"scrape of {total}")  # type: ignore[misc]
            server.put("/api/v1/test-clock", {"now": (began + timedelta(hours=hour)).isoformat()})
            assert used(server) == Decimal(total) - 1
        (pull,) = server.get("/api/v1/pulls")["items"]
        assert datetime.fromisoformat(pull["since"]) == began
        assert {job["state"] for job in server.get("/api/v1/jobs")["items"] if job["name"] == "pull-usage"} == {"done"}
        assert server.get("/api/v1/verify")["holds"]


def test_a_service_that_was_away_gets_what_it_missed(make_server: MakeServer, tmp_path: Path) -> None:
    """Prometheus repeats what was not answered; what had been recorded before counts once."""
    server = make_server().start()
    port = int(server.url.rpartition(":")[2])
    with (
        UsageExporter("1", "1024") as exporter,
        running_prometheus(tmp_path, exporter.address, f"{server.url}/api/v1/prometheus/write") as prometheus,
    ):
        eventually(lambda: has_baselines(server), "first totals")
        server.kill()
        exporter.vcpu_hours = "5"
        eventually(lambda: latest(prometheus) == "5", "scrape of the new total")
        exporter.vcpu_hours = "8"
        eventually(lambda: latest(prometheus) == "8", "scrape of the last total")
        server.port = port
        server.start()
        eventually(lambda: used(server) == 7, "right charge")
        values = {row[2] for row in stored(server) if row[0] == "project_vcpu_usage"}
        assert values == {1, 5, 8}
        assert server.get("/api/v1/verify")["holds"]


def latest(prometheus: str) -> Any:
    """The total as Prometheus has it."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": "project_vcpu_usage"}, timeout=30).json()
    result = answer["data"]["result"]
    return result[0]["value"][1] if result else None
