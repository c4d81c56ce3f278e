"""Two server processes on one database keep the books of one."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.system import load
from tests.system.conftest import MakeServer, Server
from tests.system.load import Request, Sender

SEED = 1
SENDERS = 4
ENOUGH = 60
"""Requests that were answered before something happens: the load is on by then."""


@pytest.fixture
def servers(server: Server, make_server: MakeServer) -> list[Server]:
    """The second works on the embedded PostgreSQL of the first."""
    url = (server.data_dir / "database-url").read_text()
    return [server, make_server(url).start()]


def test_they_take_in_different_and_overlapping_usage_at_the_same_time(servers: list[Server]) -> None:
    """Each sender has a twin at the other server that sends the same; counters too, so later readings may overtake."""
    urls = [server.url for server in servers]
    load.set_up(servers[0])
    senders = [Sender(f"sender-{number}", SEED) for number in range(SENDERS)]
    with load.under_load(senders, urls) as answers:
        while answers.total() < ENOUGH:
            time.sleep(0.001)
        servers[1].post("/api/v1/prices", load.price("late"))  # while both take in what waits for it
        while answers.total() < 2 * ENOUGH:
            time.sleep(0.001)

    everything = [request for sender in senders for request in sender.answered]
    _send_to_both_at_once(urls, everything)
    for server in servers:
        load.assert_everything_is_charged_once(server, senders)


def test_the_same_new_usage_sent_to_both_at_once_counts_once(servers: list[Server]) -> None:
    """Nobody knows any of its customers, meters or streams yet: the servers race to create them."""
    urls = [server.url for server in servers]
    load.set_up(servers[0])
    sender = Sender("twin", SEED)
    requests = [sender.think() for _ in range(ENOUGH)]
    requests = [request for request in requests if request.path != "/write?precision=s"]
    receipts = _send_to_both_at_once(urls, requests)

    sender.answered += requests
    accepted = sum(receipt["accepted"] for receipt in receipts if "accepted" in receipt)
    assert accepted == sum(len(request.measurements) for request in requests)
    load.assert_everything_is_charged_once(servers[1], [sender])
    assert servers[0].get("/api/v1/verify") == servers[1].get("/api/v1/verify")


def test_one_idempotency_key_at_both_bills_once_and_gets_one_answer(servers: list[Server]) -> None:
    servers[0].post("/api/v1/accounts", {"user_id": "ada", "initial_balance": 10})
    request = Request(
        "/api/v1/bill",
        b'{"user_id":"ada","amount":0.0025}',
        {"Content-Type": "application/json", "Idempotency-Key": "once"},
    )
    answers = _send_to_both_at_once([server.url for server in servers], [request] * 10)
    assert answers == [{"user_id": "ada", "amount_billed": Decimal("0.0025"), "new_balance": Decimal("9.9975")}] * 20


def test_what_one_is_told_the_other_knows_at_once(servers: list[Server]) -> None:
    first, second = servers
    first.put("/api/v1/meters/peak", {"kind": "gauge", "aggregation": "max"})
    first.post("/api/v1/customers", {"key": "ada"})
    for number, server in enumerate((second, first, second)):
        event = {"id": str(number), "subject": "ada", "type": "peak", "data": {"value": 5 - number}}
        assert server.post("/api/v1/events", event)["unpriced"] == 1
    price = {"meter": "peak", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    second.post("/api/v1/prices", price)
    event = {"id": "3", "subject": "ada", "type": "peak", "data": {"value": 7}}
    assert first.post("/api/v1/events", event)["unpriced"] == 0
    for server in servers:
        assert server.get("/api/v1/customers/ada")["balances"][0]["used"] == "14"


def test_one_that_is_killed_leaves_the_other_and_the_books_in_order(servers: list[Server]) -> None:
    first, second = servers
    load.set_up(first)
    senders = [Sender(f"sender-{number}", SEED) for number in range(SENDERS)]
    with load.under_load(senders, [first.url, second.url]) as answers:
        while answers.total() < ENOUGH:
            time.sleep(0.001)
        second.kill()
        others = [senders[0].name, senders[2].name]
        reached = sum(answers[name] for name in others)
        while sum(answers[name] for name in others) < reached + ENOUGH:
            time.sleep(0.001)
    for sender in senders:
        sender.finish(first.url)
    first.post("/api/v1/prices", load.price("late"))
    load.assert_everything_is_charged_once(first, senders)


def _send_to_both_at_once(urls: list[str], requests: list[Request]) -> list[Any]:
    """Sends all requests to each server, in an order of its own. Returns all answers, with numbers read exactly."""

    def send(number: int, url: str) -> list[Any]:
        shuffled = random.Random(number).sample(requests, len(requests))
        with httpx.Client(base_url=url, timeout=60) as client:
            responses = [client.post(r.path, content=r.content, headers=r.headers) for r in shuffled]
        assert all(response.is_success for response in responses)
        return [response.json(parse_float=Decimal) for response in responses if response.content]

    with ThreadPoolExecutor(2 * len(urls)) as threads:
        sent = [threads.submit(send, number, url) for number, url in enumerate(urls)]
        return [answer for each in sent for answer in each.result()]
