"""Everything is killed at a random moment, again and again; nothing is lost, and nothing happens twice."""

from __future__ import annotations

import os
import random
import time

import httpx
import pytest

from tests.system import load
from tests.system.conftest import MakeServer, Server
from tests.system.load import Sender

pytestmark = pytest.mark.integration

ROUNDS = int(os.environ.get("TALLY_CRASH_ROUNDS", "5"))
SEED = int(os.environ.get("TALLY_CRASH_SEED", "1"))
SENDERS = 6
MOST_ANSWERS = 100
"""A crash comes after so many answers at the latest: early in a round, or well within it."""


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_every_measurement_and_bill_counts_once_however_often_everything_is_killed(server: Server) -> None:
    dice = random.Random(SEED)
    load.set_up(server)
    senders = [Sender(f"sender-{number}", SEED) for number in range(SENDERS)]

    for number in range(ROUNDS):
        with load.under_load(senders, [server.url]) as work:
            work.wait_for(dice.randrange(MOST_ANSWERS))
            if number == ROUNDS // 2:
                _give_late_usage_its_price(server)
            time.sleep(dice.uniform(0, 0.03))  # to hit any step of a transaction
            server.kill()
        if number % 2:
            _kill_while_it_starts(server, dice.uniform(0, 1.5))
        server.start()

    assert httpx.post(f"{server.url}/api/v1/prices", json=load.price("late")).status_code in (201, 409)
    for sender in senders:
        sender.finish(server.url)
    accountant = load.assert_everything_is_charged_once(server, senders)
    assert accountant.waiting == 0, "late usage has its price by now"


def test_a_start_that_is_killed_at_any_moment_leaves_nothing_in_the_way_of_the_next(make_server: MakeServer) -> None:
    """The very first start, in which folders, database and tables are made."""
    dice = random.Random(SEED)
    server = make_server()
    for latest in (0.5, 3):
        _kill_while_it_starts(server, dice.uniform(0, latest))
    server.start()
    load.set_up(server)
    load.assert_everything_is_charged_once(server, [])


def _kill_while_it_starts(server: Server, seconds: float) -> None:
    server.launch()
    time.sleep(seconds)
    server.kill()


def _give_late_usage_its_price(server: Server) -> None:
    """What waited for it is charged in several transactions, of which the crash may come in the middle of any."""
    try:
        httpx.post(f"{server.url}/api/v1/prices", json=load.price("late"), timeout=0.05)
    except httpx.TransportError:
        return  # it goes on all the same
