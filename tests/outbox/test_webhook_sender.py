"""One attempt: what is sent, and what becomes of it when the other side does what it should not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from tallystick.outbox.webhooks import network
from tallystick.outbox.webhooks import sender as module
from tallystick.outbox.webhooks.queue import Claimed, Outcome
from tallystick.outbox.webhooks.sender import Sender
from tallystick.outbox.webhooks.signing import new_secret
from tallystick.outbox.webhooks.territory import LOOPBACK, Territory
from tests.doubles.webhook_receiver import HUGE_BYTES, NAME, Receiver
from tests.outbox.rabbitmq import free_port

pytestmark = pytest.mark.integration

KEY, FORMER = new_secret(), new_secret()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """One that may go to the loopback."""
    async with Sender.opened(Territory(LOOPBACK), 10) as sender:
        yield sender


def claimed(url: str, **chosen: Any) -> Claimed:
    facts = Claimed(
        UUID(int=1), UUID(int=2), UUID(int=3), "account.created", '{"a": "größer"}', 1, datetime.now(UTC), url, (KEY,)
    )
    return replace(facts, **chosen)


async def tried(sender: Sender, url: str) -> tuple[int | None, str | None]:
    outcome = await sender.send(claimed(url))
    return outcome.status, outcome.error


async def test_what_is_sent_is_what_the_specifications_library_accepts(receiver: Receiver, sender: Sender) -> None:
    outcome = await sender.send(claimed(f"{receiver.url}/in?a=b", keys=(KEY, FORMER)))
    assert (outcome.status, outcome.error, outcome.is_gone) == (200, None, False)
    (request,) = receiver.received()
    for secret in (KEY, FORMER):
        assert Webhook(secret).verify(request["body"], request["headers"]) == {"a": "größer"}
    assert request["path"] == "/in?a=b"
    assert request["headers"]["host"] == f"127.0.0.1:{receiver.port}"
    assert request["headers"]["webhook-id"] == str(UUID(int=3))
    assert request["headers"]["content-type"] == "application/cloudevents+json"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_status_of_success_will_do(receiver: Receiver, sender: Sender, status: int) -> None:
    receiver.behave("/in", status)
    assert await tried(sender, f"{receiver.url}/in") == (status, None)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
async def test_every_other_status_is_a_failure(receiver: Receiver, sender: Sender, status: int) -> None:
    receiver.behave("/in", status)
    outcome = await sender.send(claimed(f"{receiver.url}/in"))
    assert (outcome.status, outcome.error) == (status, f"it answered {status}")
    assert outcome.is_gone is (status == 410)


async def test_a_redirect_is_not_followed(receiver: Receiver, sender: Sender) -> None:
    """Whither it leads was not asked for, and may lie inside."""
    receiver.behave("/in", 307, Location=f"{receiver.url}/elsewhere")
    assert await tried(sender, f"{receiver.url}/in") == (307, "it answered 307; redirects are not followed")
    assert receiver.received("/elsewhere") == []


@pytest.mark.parametrize(
    ("status", "text", "seconds"),
    [(429, "120", 120), (503, " 7 ", 7), (503, "soon", 0), (503, "9" * 10, 0), (500, "120", 0), (200, "120", 0)],
)
async def test_a_busy_endpoint_may_ask_for_a_pause(
    receiver: Receiver, sender: Sender, status: int, text: str, seconds: int
) -> None:
    receiver.behave("/in", status, Retry_After=text)
    assert (await sender.send(claimed(f"{receiver.url}/in"))).pause_seconds == seconds


@pytest.mark.parametrize("manner", ["reset", "close", "garbage", "cut", "endless head"])
async def test_a_broken_connection_is_a_failure(receiver: Receiver, sender: Sender, manner: str) -> None:
    receiver.behave("/in", manner)
    _, error = await tried(sender, f"{receiver.url}/in")
    assert error == "the connection broke, or what came was not HTTP"
    assert await tried(sender, f"{receiver.url}/well") == (200, None)


async def test_an_answer_without_end_is_not_read_to_its_end(receiver: Receiver, sender: Sender) -> None:
    receiver.behave("/in", "huge")
    assert await tried(sender, f"{receiver.url}/in") == (200, None)
    assert await tried(sender, f"{receiver.url}/well") == (200, None)
    assert receiver.tell("sent") < HUGE_BYTES


async def test_an_endpoint_that_is_slow_has_failed(
    receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    receiver.behave("/in", "slow")
    assert await tried(sender, f"{receiver.url}/in") == (None, "it took longer than 0.2 seconds")


async def test_nobody_listens(sender: Sender) -> None:
    assert await tried(sender, f"http://127.0.0.1:{free_port()}/") == (None, "no connection: it was refused")


async def test_what_was_wrong_says_nothing_of_what_is_secret(receiver: Receiver, sender: Sender) -> None:
    for manner in ("reset", "garbage", "302", "500"):
        receiver.behave("/in?word=swordfish", manner)
        one = claimed(f"{receiver.url}/in?word=swordfish")
        said = f"{await sender.send(one)}{one}"
        assert "swordfish" not in said
        assert KEY not in said


# Networks


class Resolver:
    """Answers one list of addresses after the other, the last one for ever; and keeps what it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if not (found := self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
            raise socket.gaierror
        return found


INSIDE = "it leads into a network that webhooks must not reach"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["169.254.169.254"], ["fe80::1%lo"]],
)
async def test_a_name_that_leads_inside_is_not_met(receiver: Receiver, addresses: list[str]) -> None:
    async with Sender.opened(Territory(), 1, resolve=Resolver(addresses)) as sender:
        assert await tried(sender, f"https://{NAME}:{receiver.port}/in") == (None, INSIDE)
    assert receiver.received() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001"])
async def test_the_loopback_is_not_met_however_it_is_written(receiver: Receiver, host: str) -> None:
    """By the system's own resolver, which takes all of these."""
    async with Sender.opened(Territory(), 1) as sender:
        assert await tried(sender, f"https://{host}:{receiver.port}/in") == (None, INSIDE)
    assert receiver.received() == []


async def test_a_name_is_resolved_once_and_met_where_it_was_judged(receiver: Receiver) -> None:
    """Whoever answers otherwise the second time (DNS rebinding) is not asked a second time."""
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    async with Sender.opened(Territory([LOOPBACK[0]]), 1, resolve=resolver) as sender:
        assert await tried(sender, f"http://{NAME}:{receiver.port}/in") == (200, None)
    assert resolver.asked == [NAME]
    (request,) = receiver.received()
    assert request["headers"]["host"] == f"{NAME}:{receiver.port}"


async def test_another_address_is_tried_if_one_does_not_answer(receiver: Receiver) -> None:
    async with Sender.opened(Territory(LOOPBACK), 1, resolve=Resolver(["127.0.0.99", "127.0.0.1"])) as sender:
        assert await tried(sender, f"http://{NAME}:{receiver.port}/in") == (200, None)


async def test_an_address_that_does_not_answer_leaves_time_for_another(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket whose queue is full takes no more connections, and says nothing."""
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.2)
    with contextlib.ExitStack() as sockets:
        silent = sockets.enter_context(socket.socket())
        silent.bind(("127.0.0.2", receiver.port))
        silent.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", receiver.port))
        both, silent_only = Resolver(["127.0.0.2", "127.0.0.1"]), Resolver(["127.0.0.2"])
        async with Sender.opened(Territory(LOOPBACK), 1, resolve=both) as sender:
            assert await tried(sender, f"http://{NAME}:{receiver.port}/in") == (200, None)
        async with Sender.opened(Territory(LOOPBACK), 1, resolve=silent_only) as sender:
            refused = (None, "no connection: it took too long")
            assert await tried(sender, f"http://{NAME}:{receiver.port}/in") == refused


async def test_a_defect_of_ours_is_a_failure_too() -> None:
    async def defective(host: str, port: int) -> list[str]:
        raise ZeroDivisionError

    async with Sender.opened(Territory(), 1, resolve=defective) as sender:
        assert await tried(sender, f"https://{NAME}/in") == (None, "it could not be sent: ZeroDivisionError")


async def test_a_name_without_an_address() -> None:
    async with Sender.opened(Territory(), 1, resolve=Resolver([])) as sender:
        assert await tried(sender, f"https://{NAME}/in") == (None, "no connection: the host has no address")


async def test_plain_http_is_not_spoken_where_it_is_not_allowed() -> None:
    async with Sender.opened(Territory(LOOPBACK), 1, resolve=Resolver(["1.1.1.1"])) as sender:
        _, error = await tried(sender, f"http://{NAME}/in")
    assert error == "plain http goes into networks that are allowed by name only; use https"


async def test_tls_checks_the_name_and_not_the_address(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path)
    try:
        here = Resolver(["127.0.0.1"])
        async with Sender.opened(Territory(LOOPBACK), 1, resolve=here, tls=receiver.tls) as sender:
            assert await tried(sender, f"https://{NAME}:{receiver.port}/in") == (200, None)
            _, error = await tried(sender, f"https://other.example:{receiver.port}/in")
            assert error is not None
            assert error.startswith("no connection: its certificate: Hostname mismatch")
        async with Sender.opened(Territory(LOOPBACK), 1, resolve=here, tls=ssl.create_default_context()) as sender:
            _, error = await tried(sender, f"https://{NAME}:{receiver.port}/in")
            assert error is not None
            assert error.startswith("no connection: its certificate: self")
    finally:
        receiver.close()


async def test_many_are_sent_beside_each_other(receiver: Receiver, sender: Sender) -> None:
    receiver.behave("/slow", "slow")
    slow = asyncio.create_task(sender.send(claimed(f"{receiver.url}/slow")))
    await asyncio.to_thread(receiver.tell, "wait", path="/slow", times=1)
    fast: list[Outcome] = await asyncio.gather(*[sender.send(claimed(f"{receiver.url}/{n}")) for n in range(20)])
    assert {outcome.status for outcome in fast} == {200}
    assert not slow.done()
    receiver.behave("/slow", 200)
    assert (await slow).status == 200
