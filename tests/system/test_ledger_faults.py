"""Whatever dies between any two steps of what moves money: nothing is lost, and nothing happens twice.

Each statement, each piece of a COPY, the moment before a commit and the one after it is a step. The same is done again
and again, and one thing goes wrong: at the first step, at the second, and so on, until a run ends before that.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tallystick.billing.instructions import Instruction
from tallystick.database.embedded import EmbeddedPostgres
from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import new_id
from tallystick.ledger.wallets import Balance, InsufficientCredits
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import assert_books_hold, balance, create_customer, create_price, grant, measurement, submit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
UNIT = 1_000_000
CREDITS = 1
LEAST_STATEMENTS = 6
"""Of anything that moves money. Fewer would mean that some are not seen."""

Outcome = int | type[BaseException]


class Died(Exception):
    """Stands for the end of the process: nobody in it tries again."""


@dataclass
class Server:
    """A PostgreSQL of this module's own, to be stopped and started."""

    folder: Path
    running: EmbeddedPostgres

    def restart(self) -> None:
        url = self.running.url
        self.running.stop()
        self.running = EmbeddedPostgres.start(self.folder)
        assert self.running.url == url


@dataclass
class Steps:
    """Counts the steps of a run, and lets a fault happen at one of them, once."""

    fault: Callable[[Connection], Awaitable[None]] | None = None
    at: int = 0
    count: int = 0
    counting: bool = False
    happened: list[str] = field(default_factory=list)

    async def step(self, conn: Connection, name: str) -> None:
        """``name`` is what is about to be done. After a commit no error tells the caller, unless its answer is lost."""
        outside = conn.pgconn.transaction_status == TransactionStatus.IDLE and name != "after commit"
        if not self.counting or outside:  # the pool tries out connections that have said something
            return
        self.count += 1
        if self.fault is not None and self.count == self.at:
            self.counting = False  # what is done about it is no step of the run
            self.happened.append(name)
            await self.fault(conn)
            if name == "after commit":
                raise psycopg.OperationalError("server closed the connection unexpectedly")


@dataclass
class Faults:
    """What can go wrong."""

    server: Server

    async def die(self, _conn: Connection) -> None:
        """The process ends."""
        raise Died

    async def cut(self, conn: Connection) -> None:
        """The server ends this connection."""
        async with await psycopg.AsyncConnection.connect(self.server.running.url, autocommit=True) as admin:
            ended = await admin.execute("select pg_terminate_backend(%s, 30000)", [conn.info.backend_pid])
            assert await ended.fetchone() == (True,)

    async def restart(self, _conn: Connection) -> None:
        """The whole server is stopped and started."""
        await asyncio.to_thread(self.server.restart)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Sees every step that this process takes on any of its connections."""
    steps = Steps()

    def watch(kind: type[Any], method: str, connection: Callable[[Any], Connection], name: str) -> None:
        original = getattr(kind, method)

        async def watched(self: Any, *arguments: Any, **named: Any) -> Any:
            await steps.step(connection(self), name)
            return await original(self, *arguments, **named)

        monkeypatch.setattr(kind, method, watched)

    watch(psycopg.AsyncCursor, "execute", lambda cursor: cursor.connection, "statement")
    watch(psycopg.AsyncCopy, "write", lambda copy: copy.connection, "copy")
    original = psycopg.AsyncTransaction.__aexit__

    async def leave(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        if error is not None:
            return await original(self, kind, error, trace)
        try:
            await steps.step(self.connection, "commit")
        except BaseException as fault:
            await original(self, type(fault), fault, fault.__traceback__)
            raise
        done = await original(self, None, None, None)
        await steps.step(self.connection, "after commit")
        return done

    monkeypatch.setattr(psycopg.AsyncTransaction, "__aexit__", leave)
    return steps


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="tally-faults-") as folder:
        server = Server(Path(folder), EmbeddedPostgres.start(Path(folder)))
        yield server
        server.running.stop()


@asynccontextmanager
async def process(server: Server) -> AsyncIterator[Service]:
    """What one server process would be."""
    async with open_service(Settings(database_pool_size=4), server.running.url, TestClock(NOW)) as service:
        yield service


@pytest.fixture
async def database(server: Server) -> None:
    """Takes away what another test has left."""
    async with await psycopg.AsyncConnection.connect(server.running.url, autocommit=True) as conn:
        await conn.execute("drop schema public cascade")
        await conn.execute("create schema public")


def instruction(type_: Any, amount: int, key: str) -> Callable[[Service], Awaitable[int]]:
    """An instruction under an idempotency key: whoever comes back with the key makes another one of it."""

    async def carry_out(service: Service) -> int:
        order = Instruction(new_id(NOW), type_, "ada", CREDITS, amount, "by hand", idempotency_key=key)
        return await service.instructions.carry_out(order)

    return carry_out


def usage(amount: int, key: str) -> Callable[[Service], Awaitable[int]]:
    """Usage of as many units at 1 credit: answers with the measurements of which the service now has one more."""

    async def send(service: Service) -> int:
        receipt = await submit(service, measurement("ada", amount, meter="units", sender_id=key))
        return receipt.accepted + receipt.duplicates

    return send


@dataclass(frozen=True)
class Work:
    """Something that moves money, the change of the balance that it makes, and whether it tells the balance."""

    make: Callable[[str], Callable[[Service], Awaitable[int]]]
    change: int
    refused: type[TallyError] | None = None
    tells_balance: bool = True


WORKS = {
    "top-up": Work(lambda key: instruction("top_up", 3 * UNIT, key), 3 * UNIT),
    "bill": Work(lambda key: instruction("bill", 2 * UNIT, key), -2 * UNIT),
    "bill that is refused": Work(lambda key: instruction("bill", 10**6 * UNIT, key), 0, InsufficientCredits),
    "usage": Work(lambda key: usage(2, key), -2 * UNIT, tells_balance=False),
    "usage beyond the wallet": Work(lambda key: usage(2_000, key), -2_000 * UNIT, tells_balance=False),
}


async def outcome(work: Awaitable[int]) -> Outcome:
    try:
        return await work
    except Exception as error:
        return type(error)


def expected(work: Work, before: Balance) -> Outcome:
    if work.refused:
        return work.refused
    return before.balance + work.change if work.tells_balance else 1


@pytest.mark.parametrize("fault", ["die", "cut", "restart"])
@pytest.mark.parametrize("name", WORKS)
@pytest.mark.usefixtures("database")
async def test_a_fault_at_any_step_loses_nothing_and_doubles_nothing(
    name: str, fault: str, server: Server, steps: Steps
) -> None:
    work = WORKS[name]
    async with process(server) as service, process(server) as other:
        await create_customer(service, "ada", credit_policy="prepaid")
        await grant(service, "ada", 1_000 * UNIT)
        await create_price(service, "units", {"type": "per_unit", "amount": "1"})
        await outcome(work.make("first")(service))  # whatever is only done the first time is done
        at = 0
        while len(steps.happened) == at:
            at += 1
            await outcome(work.make(f"before {at}")(other))  # so that the service remembers no balances, each time
            before = await balance(service, "ada")
            send = work.make(f"at {at}")
            steps.fault, steps.at, steps.count, steps.counting = getattr(Faults(server), fault), at, 0, True
            first = await outcome(send(service))
            steps.counting = False

            assert first in (expected(work, before), *([Died] if fault == "die" else []))
            assert [await outcome(send(other)), await outcome(send(service))] == [expected(work, before)] * 2
            after = await balance(other, "ada")
            assert after.balance - before.balance == work.change
            assert after.wallet == 0 or after.arrears == 0
            await assert_books_hold(other)
    *inside, last_but_one, last = steps.happened
    assert (last_but_one, last) == ("commit", "after commit")
    assert set(inside) == ({"statement", "copy"} if name.startswith("usage") else {"statement"})
    assert len(inside) >= LEAST_STATEMENTS


@pytest.mark.parametrize("fault", ["die", "cut", "restart"])
@pytest.mark.usefixtures("database")
async def test_a_fault_in_a_group_of_many_orders_harms_none_of_them_for_good(
    fault: str, server: Server, steps: Steps
) -> None:
    """Fifty bills of 1.00 on a wallet of 10.00: ten are paid and forty refused, at whatever step it happens."""
    async with process(server) as service:
        for number in range(6):
            customer, at = f"c{number}", 3 * number + 1
            await create_customer(service, customer, credit_policy="prepaid")
            await grant(service, customer, 10 * UNIT)
            orders = [
                Instruction(new_id(NOW), "bill", customer, CREDITS, UNIT, idempotency_key=f"{customer} {order}")
                for order in range(50)
            ]
            steps.fault, steps.at, steps.count, steps.counting = getattr(Faults(server), fault), at, 0, True
            firsts = await asyncio.gather(*(outcome(service.instructions.carry_out(order)) for order in orders))
            steps.counting = False
            again = [await outcome(service.instructions.carry_out(order)) for order in orders]
            assert [first for first in firsts if first is not Died] == [
                answer for first, answer in zip(firsts, again, strict=True) if first is not Died
            ]
            assert sorted(answer for answer in again if isinstance(answer, int)) == [UNIT * n for n in range(10)]
            assert again.count(InsufficientCredits) == 40
            assert (await balance(service, customer)).balance == 0
            await assert_books_hold(service)
        assert len(steps.happened) == 6
