"""``tally ledger copy``: the books move to TigerBeetle. Needs a server: TIGERBEETLE_BIN names its program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest

from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import Account, Result, Status, Transfer
from tallystick.ledger.home import LedgerElsewhere
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.tigerbeetle.client import TigerBeetleClient
from tallystick.service import open_service
from tallystick.settings import Settings
from tests.cli.conftest import Tally
from tests.ledger.tigerbeetle.server import CLUSTER_ID, Server, given_binary, running
from tests.ledger.workload import Batch, workload

BINARY = given_binary()
needs_tigerbeetle = pytest.mark.skipif(BINARY is None, reason="no TigerBeetle: set TIGERBEETLE_BIN to its program")

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)

Answer = TypeVar("Answer")
Sent = list[tuple[Transfer, Result]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An empty cluster."""
    assert BINARY is not None
    with running(BINARY, tmp_path / "tigerbeetle") as started:
        yield started


def cluster(server: Server) -> str:
    return f"tigerbeetle://{CLUSTER_ID}@{server.address}"


def with_client(server: Server, work: Callable[[TigerBeetleClient], Coroutine[Any, Any, Answer]]) -> Answer:
    async def run() -> Answer:
        client = TigerBeetleClient(CLUSTER_ID, server.address)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def fill(url: str, seed: int, transfers: int) -> Sent:
    """Books with every flag and every kind of failure in them; what was sent, and what was answered."""

    async def run() -> Sent:
        ledger, sent = PostgresLedger(TestClock(NOW)), Sent()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
            for batch in workload(seed, transfers):
                sent += await _post(ledger, conn, batch)
        return sent

    return asyncio.run(run())


async def _post(ledger: PostgresLedger, conn: Connection, batch: Batch) -> Sent:
    async with conn.transaction():
        await ledger.create_accounts(conn, batch.opens)
        results = await ledger.post(conn, batch.transfers)
    return list(zip(batch.transfers, results, strict=True))


@needs_tigerbeetle
def test_the_books_move(books: Tally, database_url: str, server: Server) -> None:
    """Whoever repeats something hears from TigerBeetle what PostgreSQL would have said."""
    sent = fill(database_url, seed=5, transfers=6_000)
    copied = books("ledger", "copy", "--to", cluster(server), "--json")
    assert (copied.code, copied.document["equal"], copied.document["differences"]) == (0, True, [])
    assert copied.document["transfers"] == len({t.id for t, r in sent if r.status is Status.CREATED})
    assert copied.document["failures"] > 0
    alone = [t for t, _ in sent if not t.flags & 1][:2_000]

    async def repeat(client: TigerBeetleClient) -> list[Result]:
        return await client.create_transfers(alone)

    async def repeat_here() -> list[Result]:
        async with await psycopg.AsyncConnection.connect(database_url) as conn:
            return await PostgresLedger(TestClock(NOW)).post(conn, alone)

    assert with_client(server, repeat) == asyncio.run(repeat_here())


@needs_tigerbeetle
def test_a_copy_goes_on_where_it_was_stopped(
    books: Tally, database_url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database_url, seed=6, transfers=3_000)
    monkeypatch.setattr("tallystick.ledger.tigerbeetle.copying.BATCH_MAX", 200)
    real = TigerBeetleClient.create_transfers
    asked: list[UUID] = []

    async def breaks(self: TigerBeetleClient, transfers: list[Transfer]) -> list[Result]:
        asked.extend(transfer.id for transfer in transfers)
        results = await real(self, transfers)
        if len(asked) > 1_000:
            raise ConnectionError("the line is cut")
        return results

    with monkeypatch.context() as patch:
        patch.setattr(TigerBeetleClient, "create_transfers", breaks)
        assert books("ledger", "copy", "--to", cluster(server)).code == 3
    before = set(asked)

    async def counts(self: TigerBeetleClient, transfers: list[Transfer]) -> list[Result]:
        asked.extend(transfer.id for transfer in transfers)
        return await real(self, transfers)

    asked.clear()
    monkeypatch.setattr(TigerBeetleClient, "create_transfers", counts)
    assert books("ledger", "copy", "--to", cluster(server), "--json").document["equal"] is True
    assert asked
    assert not before & set(asked), "what was copied is not sent again"


@needs_tigerbeetle
def test_a_difference_is_found_and_named(books: Tally, database_url: str, server: Server) -> None:
    fill(database_url, seed=7, transfers=500)
    execute(
        database_url,
        "update ledger_accounts set credits_posted = credits_posted + 1 where id = (select min(id::text)::uuid from"
        " ledger_accounts where flags = 0)",
    )
    copied = books("ledger", "copy", "--to", cluster(server), "--json")
    assert (copied.code, copied.document["equal"], copied.document["different"]) == (1, False, 1)
    assert "credits_posted" in copied.document["differences"][0]
    shown = books("ledger", "copy", "--to", cluster(server))
    assert shown.code == 1
    assert "NOT equal" in shown.out
    assert "credits_posted" in shown.out


@needs_tigerbeetle
def test_it_refuses_a_cluster_with_accounts_of_others(books: Tally, database_url: str, server: Server) -> None:
    stranger = Account(uuid4(), uuid4(), 1, 1)
    with_client(server, lambda client: client.create_accounts([stranger]))
    refused = books("ledger", "copy", "--to", cluster(server), "--json")
    assert refused.code == 1
    assert str(stranger.id) in refused.document["error"]["detail"]


@needs_tigerbeetle
def test_it_refuses_while_something_waits_to_be_posted(books: Tally, database_url: str, server: Server) -> None:
    books("migrate")
    execute(
        database_url,
        "insert into ledger_outbox (customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags,"
        " intent, created_at) select u, u, u, u, 1, 1, 1, 0, false, now() from gen_random_uuid() as u",
    )
    refused = books("ledger", "copy", "--to", cluster(server), "--json")
    assert (refused.code, refused.document["error"]["code"]) == (1, "conflict")


@needs_tigerbeetle
async def test_after_the_copy_the_books_are_opened_on_tigerbeetle_only(
    database_url: str, server: Server, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_DATABASE_URL", database_url)
    await asyncio.to_thread(fill, database_url, 8, 300)
    moved = Settings(database_pool_size=4, ledger=cluster(server))
    with pytest.raises(LedgerElsewhere):
        async with open_service(moved, database_url):
            pass
    copied = await asyncio.to_thread(tally, "ledger", "copy", "--to", cluster(server))
    assert copied.code == 0
    assert f"TALLY_LEDGER={cluster(server)}" in copied.out
    with pytest.raises(LedgerElsewhere):
        async with open_service(Settings(database_pool_size=4), database_url):
            pass
    again = await asyncio.to_thread(tally, "ledger", "copy", "--to", cluster(server), "--json")
    assert again.code == 1
    async with open_service(moved, database_url) as service:
        assert service.settings.tigerbeetle is not None


def test_it_must_be_told_where_to(books: Tally) -> None:
    untold = books("ledger", "copy", "--json")
    assert (untold.code, untold.document["error"]["field"]) == (2, "to")
    for wrong in ("tigerbeetle://x@host:1", "tigerbeetle://0@", "postgres", "tigerbeetle://0@host:99999"):
        assert books("ledger", "copy", "--to", wrong).code == 2
