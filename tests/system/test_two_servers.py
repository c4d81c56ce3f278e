"""Two server processes on one database keep the books of one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.system import load
from tests.system.conftest import Server, making_servers
from tests.system.load import Request, Sender

pytestmark = pytest.mark.integration

SEED = 1
ENOUGH = 60
"""Requests that are answered before the next thing happens: the load is on by then."""


@dataclass
class Pair:
    """Two servers, a third to be killed, and whoever has ever sent anything to them."""

    servers: list[Server]
    short_lived: Server
    senders: list[Sender] = field(default_factory=list)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def assert_everything_is_charged_once(self) -> None:
        for server in self.servers:
            load.assert_everything_is_charged_once(server, self.senders)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """All of them work on the embedded PostgreSQL of the first."""
    with making_servers() as make:
        first = make().start()
        url = (first.data_dir / "database-url").read_text()
        load.set_up(first)
        yield Pair([first, make(url).start()], make(url))


def test_they_take_in_different_and_overlapping_usage_at_the_same_time(pair: Pair) -> None:
    """Senders go to one server and the other in turn; some have a twin at the other one that sends the same."""
    senders = [Sender(f"overlap-{name}", SEED) for name in ("a", "a", "b", "b", "c", "d")]
    pair.senders += senders
    with load.under_load(senders, pair.urls) as work:
        work.wait_for(ENOUGH)
        pair.servers[1].post("/api/v1/prices", load.price("late"))  # while both take in what waits for it
        work.wait_for(ENOUGH)
    pair.assert_everything_is_charged_once()


def test_the_same_new_usage_sent_to_both_at_once_counts_once(pair: Pair) -> None:
    """Nobody knows its customers and streams yet: the servers race to create them."""
    sender = Sender("race", SEED, customers=("new-1", "new-2", "new-3"))
    requests = [request for request in (sender.think() for _ in range(ENOUGH)) if request.path == "/api/v1/events"]
    receipts = _send_to_both_at_once(pair, requests)
    assert sum(receipt["accepted"] for receipt in receipts) == sum(len(request.measurements) for request in requests)
    pair.senders.append(Sender("race", SEED, answered=requests))
    pair.assert_everything_is_charged_once()


def test_one_idempotency_key_at_both_bills_once_and_gets_one_answer(pair: Pair) -> None:
    pair.servers[0].post("/api/v1/accounts", {"user_id": "idempotent", "initial_balance": 10})
    request = Request("/api/v1/bill", b'{"user_id":"idempotent","amount":0.0025}', "application/json", "once")
    answers = _send_to_both_at_once(pair, [request] * 10)
    answer = {"user_id": "idempotent", "amount_billed": Decimal("0.0025"), "new_balance": Decimal("9.9975")}
    assert answers == [answer] * 20


def test_what_one_is_told_the_other_knows_at_once(pair: Pair) -> None:
    first, second = pair.servers
    first.put("/api/v1/meters/peak", {"kind": "gauge", "aggregation": "max"})
    for number, server in enumerate((second, first, second)):
        event = {"id": str(number), "subject": "told", "type": "peak", "data": {"value": 5 - number}}
        assert server.post("/api/v1/events", event)["unpriced"] == 1
    price = {"meter": "peak", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    second.post("/api/v1/prices", price)
    event = {"id": "3", "subject": "told", "type": "peak", "data": {"value": 7}}
    assert first.post("/api/v1/events", event)["unpriced"] == 0
    assert [server.get("/api/v1/customers/told")["balances"][0]["used"] for server in pair.servers] == ["14", "14"]


def test_one_that_is_killed_leaves_the_others_and_the_books_in_order(pair: Pair) -> None:
    killed = pair.short_lived.start()
    senders = [Sender(f"survivor-{name}", SEED) for name in ("a", "b", "c", "d")]
    pair.senders += senders
    with load.under_load(senders, [pair.servers[0].url, killed.url]) as work:
        work.wait_for(ENOUGH)
        killed.kill()
        work.wait_for(ENOUGH)
    for sender in senders:
        sender.finish(pair.servers[1].url)
    pair.assert_everything_is_charged_once()


def _send_to_both_at_once(pair: Pair, requests: list[Request]) -> list[Any]:
    """Sends all requests to each server, in an order of its own. Returns all answers, with numbers read exactly."""

    def send(number: int, url: str) -> list[Any]:
        with httpx.Client(base_url=url, timeout=60) as client:
            responses = [request.send(client) for request in random.Random(number).sample(requests, len(requests))]
        assert all(response.is_success for response in responses)
        return [response.json(parse_float=Decimal) for response in responses]

    with ThreadPoolExecutor() as threads:
        return [answer for answers in threads.map(send, range(len(pair.urls)), pair.urls) for answer in answers]
