"""The desks of ``examples/``, run as their README says, hear and order what they are there for."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aio_pika.abc import AbstractChannel

from tallystick.service import Service
from tests.outbox.conftest import HEARD_SECONDS
from tests.outbox.test_compliance import is_blocked, is_free, is_listening
from tests.waiting import until
from tests.web.conftest import asking
from tests.web.test_account_management import make, seat

EXAMPLES = Path(__file__).parents[2] / "examples"
QUEUES = ("billing-emea", "success", "compliance")


class Desk:
    """A script that runs."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def says(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(HEARD_SECONDS):
            return (await self._process.stdout.readline()).decode().removesuffix("\n")

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.communicate()


Run = Callable[..., Awaitable[Desk]]


def started(broker_url: str, script: str, *arguments: str) -> Any:
    environment = {**os.environ, "CLOUDAMQP_URL": broker_url}
    return asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / script, *arguments, env=environment, stdout=PIPE, stderr=PIPE
    )


@pytest.fixture
async def run(broker_url: str, channel: AbstractChannel) -> AsyncIterator[Run]:
    """Runs a desk, which listens when this returns."""
    for queue in QUEUES:
        await channel.queue_delete(queue)
    desks: list[Desk] = []

    async def running(script: str, *arguments: str) -> Desk:
        desks.append(Desk(await started(broker_url, script, *arguments)))
        assert " listens to " in await desks[-1].says()
        return desks[-1]

    yield running
    for desk in desks:
        await desk.end()


@pytest.fixture
async def client(service: Service, broker_url: str) -> AsyncIterator[httpx.AsyncClient]:
    assert service.messaging is not None
    async with service.messaging.running(), asking(service) as client:
        await until(lambda: is_listening(broker_url))
        yield client


async def test_the_billing_desk_hears_its_region(run: Run, client: httpx.AsyncClient) -> None:
    desk = await run("billing_desk.py", "emea")
    await make(client, "Bob", region="apac")
    account = await make(client, "Ada", region="emea")
    asked = {"asset": "CREDIT", "amount": "12.5", "category": "paid"}
    (await client.post(f"/api/v1/customers/{account['id']}/grants", json=asked)).raise_for_status()
    await client.put("/api/v1/meters/tokens", json={"unit": "t"})
    price = {"meter": "tokens", "effective_from": "2026-12-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    (await client.post("/api/v1/prices", json={**price, "kind": "gpt"})).raise_for_status()
    await client.delete(f"/accounts/{account['id']}")
    assert [await desk.says() for _ in range(4)] == [
        "open an account for Ada, ada@example.org",
        f"{account['id']} has got 12.5 CREDIT (paid)",
        "tokens gpt costs something else from 2026-12-01T00:00:00+00:00 on",
        f"close the account of {account['id']}",
    ]


async def test_the_success_desk_hears_of_those_who_are_looked_after(run: Run, client: httpx.AsyncClient) -> None:
    desk = await run("success_desk.py")
    await make(client, "Ada", vip=True)
    bob = await make(client, "Bob")
    for vip in (True, False):
        await client.put(f"/accounts/{bob['id']}", json={"vip": vip})
    assert [await desk.says() for _ in range(3)] == [
        "welcome Ada, ada@example.org",
        "look after Bob from now on",
        "Bob is looked after no more",
    ]


async def test_the_compliance_desk_has_an_agent_blocked_and_hears_of_it(
    run: Run, client: httpx.AsyncClient, broker_url: str
) -> None:
    desk = await run("compliance_desk.py")
    agent = await seat(client, await make(client, "Ada"))
    for verb, done in (("block", is_blocked), ("unblock", is_free)):
        ordering = await started(broker_url, "compliance_desk.py", verb, agent["id"])
        assert (await ordering.communicate(), ordering.returncode) == ((b"", b""), 0)
        await until(lambda done=done: done(client, agent))  # type: ignore[misc]
    assert [await desk.says() for _ in range(3)] == [
        f"agent.{what} {agent['id']} of {agent['account_id']}" for what in ("created", "blocked", "unblocked")
    ]


async def test_what_happens_while_a_desk_is_down_waits_for_it(run: Run, client: httpx.AsyncClient) -> None:
    await (await run("success_desk.py")).end()
    await make(client, "Ada", vip=True)
    assert await (await run("success_desk.py")).says() == "welcome Ada, ada@example.org"


@pytest.mark.integration
@pytest.mark.parametrize("script", ["billing_desk.py", "compliance_desk.py"])
async def test_a_desk_that_is_asked_for_what_it_cannot_do_says_how_it_is_used(script: str) -> None:
    process = await started("amqp://broker.example", script, "mars")
    _, said = await process.communicate()
    assert (process.returncode, "Usage:" in said.decode()) == (1, True)
