"""Worker and server are killed while months are posted, late usage comes in, and readings are taken.

What the books hold in the end is what they hold after the same story undisturbed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import uvloop

from tallystick.customers.model import NewCustomer
from tallystick.metering.cloud_foundry import install_cloud_foundry_meters
from tallystick.service import Service, open_service
from tests.conftest import new_database
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi
from tests.metering.books import batch, create_price, measurement
from tests.web.conftest import settings

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("TALLY_CRASH_ROUNDS", "5"))
SEED = int(os.environ.get("TALLY_CRASH_SEED", "1"))
PAYERS, PAID_FOR = 2_000, 400
"""Customers who are posted monthly, and further ones, for whom the first hundred of them pay."""
LATE_REQUESTS, LATE_EVENTS = 25, 20
APPS, SERVICES = 300, 100
SERVE = ("serve", "--dev", "--no-worker", "--port")
RESTART_SECONDS = 0.05
"""Between two attempts to reach a server that is down."""
PATIENCE_SECONDS = 120
"""A net under waiting for what does not come; a test that needs it has failed."""

DEFER_READING = """
    select procrastinate_defer_jobs_v1(
        array[row('measure-usage', 'measure-usage', 0, null, null, '{}', null)::procrastinate_job_to_defer_v1]
    )
"""
UNFINISHED = """
    select (select count(*) from procrastinate_jobs where status in ('todo', 'doing'))
        + (select count(*) from unposted_usage where period < '2025-01-01')
"""
SERIES = "measurements as m join series as s on s.customer_id = m.customer_id and s.id = m.series_id"
WATCHED = (
    ("select count(*) from postings", PAYERS),
    (f"select count(*) from {SERIES} where s.source = 'events:late'", LATE_REQUESTS * LATE_EVENTS),
    (f"select count(*) from {SERIES} where s.meter like 'cf%'", 2 * (APPS + SERVICES)),
)
"""How far posting, late usage and readings have come, and how much further they go in a round."""

RESULTS = {
    "totals": "select c.key, t.meter, t.kind, case when t.period < '2025-01-01' then t.period end,"
    " sum(t.quantity), sum(t.measurements) from usage_totals as t join customers as c on c.id = t.customer_id"
    " group by 1, 2, 3, 4",
    "postings": "select c.key, p.period, p.ledger, sum(p.amount), max(p.number) = count(*) - 1"
    " from postings as p join customers as c on c.id = p.customer_id group by 1, 2, 3",
    "lines": "select c.key, l.period, l.meter, l.kind, sum(l.amount), max(l.quantity_after), max(l.number) = count(*)"
    " from posting_lines as l join customers as c on c.id = l.customer_id group by 1, 2, 3, 4",
    "balances": "select c.key, a.ledger, a.code, a.credits_posted - a.debits_posted"
    " from ledger_accounts as a join customers as c on c.id = a.customer_id where a.credits_posted <> a.debits_posted",
    "readings": "select source, state, counts::text, count(*) from readings group by 1, 2, 3",
    "resources": f"select s.meter, s.kind, s.resource, count(*), sum(m.value) from {SERIES} where s.meter like 'cf%'"
    " group by 1, 2, 3",
    "jobs": "select task_name, status::text, count(*) from procrastinate_jobs where task_name = 'measure-usage'"
    " group by 1, 2",
}
"""What must be the same, by names of customers. Supplements are cut otherwise if something else was late."""


def month_of(number: int) -> datetime:
    """Noon of a day in the month that is posted in a round."""
    return datetime(2021 + number // 12, number % 12 + 1, 10, 12, tzinfo=UTC)


# The books at the beginning


@pytest.fixture
def capi() -> Iterator[Capi]:
    platform = Capi()
    platform.tell("populate", apps=APPS, services=SERVICES)
    yield platform
    platform.close()


@pytest.fixture
def two_books(database_url: str, database_server: str) -> Iterator[tuple[str, str]]:
    """Two databases with the same customers, prices, and usage of months that are not posted."""
    uvloop.run(_prepare(database_url))
    with new_database(database_server, urlsplit(database_url).path[1:]) as other:
        yield database_url, other


async def _prepare(url: str) -> None:
    async with open_service(settings(database_pool_size=4), url) as service:
        async with service.pool.connection() as conn, conn.transaction():
            await install_cloud_foundry_meters(conn, service.meters)
            for number in range(PAYERS):
                await service.customers.create(conn, NewCustomer(f"payer-{number}", posting_policy="monthly"))
            for number in range(PAID_FOR):
                await service.customers.create(conn, NewCustomer(f"paid-{number}", payer=f"payer-{number % 100}"))
        await create_price(service, "tokens", {"type": "per_unit", "amount": "1", "per": "730"})
        await create_price(service, "cfapps", {"type": "per_unit", "amount": "1", "per": "730"})
        await create_price(service, "cfservices", {"type": "per_unit", "amount": "3"}, kind="plan")
        for number in range(ROUNDS):
            await _use(service, month_of(number))


async def _use(service: Service, at: datetime) -> None:
    used = [measurement(key, 1 + place % 700, at=at, sender_id=f"{at}") for place, key in enumerate(_customers())]
    await service.intake.submit(batch(used))


def _customers() -> list[str]:
    return [f"payer-{number}" for number in range(PAYERS)] + [f"paid-{number}" for number in range(PAID_FOR)]


# The processes


@dataclass
class Process:
    """``tally serve`` or ``tally worker``, which says where it is once it is ready."""

    words: tuple[str, ...]
    environment: dict[str, str]
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> dict[str, Any]:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.small_steps", *self.words, "--json"],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready, f"it did not start:\n{self.log.read_text(errors='replace')[-3000:]}"
        said: dict[str, Any] = json.loads(ready)
        return said

    def kill(self) -> None:
        """Safe to call on one that does not run."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


class Story:
    """A service on books of its own, and what is asked of it: each request again and again, until it is answered."""

    def __init__(self, url: str, capi: Capi, folder: Path) -> None:
        account = {"CF_API_URL": capi.url, "CF_CLIENT_ID": CLIENT_ID, "CF_CLIENT_SECRET": CLIENT_SECRET}
        jobs = {"WORKER_LOST_SECONDS": "1", "JOB_RETRY_SECONDS": "0", "JOB_ATTEMPTS": "100"}
        environment = {f"TALLY_{name}": value for name, value in (account | jobs | {"DATABASE_URL": url}).items()}
        self.over = threading.Event()
        self.books = psycopg.connect(url, autocommit=True)
        self.server = Process((*SERVE, "0"), environment, folder / "server.log")
        self.worker = Process(("worker",), environment, folder / "worker.log")

    def start(self, *names: str) -> None:
        if "server" in names:
            self.url = str(self.server.start()["url"])
            self.server.words = (*SERVE, str(urlsplit(self.url).port))  # where it will be found again
        if "worker" in names:
            self.worker.start()

    def kill(self, *names: str) -> None:
        for name in names:
            {"server": self.server, "worker": self.worker}[name].kill()

    def close(self) -> None:
        self.kill("server", "worker")
        self.books.close()

    def count(self, query: str) -> int:
        ((number,),) = self.books.execute(query).fetchall()
        return int(number)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, "it does not come"
            time.sleep(0.001)

    def post(self, path: str, body: object, **headers: str) -> Any:
        """Until it is answered: a server that is killed is started again, and one that is busy says so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not self.over.is_set():
            try:
                response = httpx.post(self.url + path, json=body, headers=headers, timeout=PATIENCE_SECONDS)
            except httpx.TransportError:
                time.sleep(RESTART_SECONDS)
                continue
            if response.is_success:
                return response.json()
            assert response.status_code in (409, 429, 503), f"{path}: {response.status_code} {response.text}"
            time.sleep(RESTART_SECONDS)
        raise AssertionError(f"{path} was never answered")

    def ask_for_posting(self, number: int) -> None:
        self.post("/api/v1/postings", {"month": f"{month_of(number):%Y-%m}"})

    def send_late_usage(self, number: int) -> None:
        """Usage of this month, which is being posted, and of those before it, which are: the same in each story."""
        dice = random.Random(f"{SEED}-{number}")
        for request in range(LATE_REQUESTS):
            events = [
                {
                    "specversion": "1.0",
                    "id": f"{number}-{request}-{event}",
                    "source": "late",
                    "subject": dice.choice(_customers()),
                    "type": "tokens",
                    "time": month_of(dice.randrange(number + 1)).isoformat(),
                    "data": {"value": dice.randrange(1, 1000)},
                }
                for event in range(LATE_EVENTS)
            ]
            self.post("/api/v1/events", events)

    def take_reading(self, number: int) -> None:
        self.post("/api/v1/readings", {"source": "cloud-foundry"}, **{"Idempotency-Key": f"reading {number}"})

    def results(self) -> dict[str, list[Any]]:
        return {name: sorted(self.books.execute(query).fetchall(), key=repr) for name, query in RESULTS.items()}


@contextmanager
def telling(url: str, capi: Capi, folder: Path) -> Iterator[Story]:
    folder.mkdir()
    story = Story(url, capi, folder)
    try:
        story.start("server", "worker")
        yield story
    finally:
        story.close()


def tell(story: Story, disturb: Callable[[Story, int], None]) -> dict[str, list[Any]]:
    """All rounds, in each of which something is done to the processes; then what is left is done by fresh ones."""
    with ThreadPoolExecutor(4 * ROUNDS) as threads, ExitStack() as last:
        last.callback(story.over.set)  # whoever asks must not go on if something fails
        asked: list[Future[None]] = []
        for number in range(ROUNDS):
            story.books.execute(DEFER_READING)
            for ask in (story.ask_for_posting, story.send_late_usage, story.take_reading):
                asked.append(threads.submit(ask, number))
            disturb(story, number)
        for each in asked:
            each.result()
        story.kill("server", "worker")
        story.start("server", "worker")
        story.ask_for_posting(ROUNDS - 1)
        story.until(lambda: story.count(UNFINISHED) == 0)
        verdict = httpx.get(f"{story.url}/api/v1/verify", timeout=PATIENCE_SECONDS)
        assert verdict.json().get("holds"), verdict.text
        return story.results()


@pytest.mark.timeout(240 + 30 * ROUNDS)
def test_whoever_is_killed_the_books_come_to_the_same(two_books: tuple[str, str], capi: Capi, tmp_path: Path) -> None:
    with telling(two_books[0], capi, tmp_path / "undisturbed") as story:
        undisturbed = tell(story, lambda *_: None)
    assert len(undisturbed["postings"]) == PAYERS * ROUNDS
    assert [(source, state) for source, state, _, _ in undisturbed["readings"]] == [("cloud-foundry", "complete")]
    assert sum(count for *_, count in undisturbed["readings"]) == 2 * ROUNDS

    killer = Killer()
    with telling(two_books[1], capi, tmp_path / "killed") as story:
        killed = tell(story, killer)
    assert killer.in_the_middle_of_a_month, "no month was being posted when something was killed"
    for name, rows in undisturbed.items():
        assert killed[name] == rows, name
    for name in ("postings", "lines"):
        assert all(are_numbered for *_, are_numbered in killed[name]), f"{name} are not numbered one after the other"


class Killer:
    """Kills worker, server or both as soon as one thing has come so far; what and how far, dice say."""

    def __init__(self) -> None:
        self._dice = random.Random(SEED)
        self.in_the_middle_of_a_month = 0

    def __call__(self, story: Story, number: int) -> None:
        watched, more = WATCHED[number % len(WATCHED)]
        enough = story.count(watched) + self._dice.randrange(1, more)
        victims = self._dice.choice((["worker"], ["server"], ["worker", "server"]))
        story.until(lambda: story.count(watched) >= enough)
        story.kill(*victims)
        month = f"period = '{month_of(number):%Y-%m}-01' and number = 0"
        posted = story.count(f"select count(*) from postings where {month}")
        self.in_the_middle_of_a_month += "worker" in victims and 0 < posted < PAYERS
        story.start(*victims)
