"""The engines that must do the same: the pure model, PostgreSQL, and a real TigerBeetle where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID

import psycopg

from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import BATCH_MAX, Account, Result, Transfer, TransferFlags
from tallystick.ledger.model import Books
from tallystick.ledger.postgres import PostgresLedger
from tests.ledger.tigerbeetle.server import CLUSTER_ID, given_address, given_binary, running_server

ENGINES = ("model", "postgres", "tigerbeetle")
NO_TIGERBEETLE = "no TigerBeetle: set TIGERBEETLE_BIN to its program or TIGERBEETLE_ADDRESS to a running server"


class Engine(Protocol):
    """What a workload asks of a ledger. Every call is committed when it returns."""

    async def open(self, accounts: Sequence[Account]) -> None: ...
    async def post(self, transfers: Sequence[Transfer]) -> list[Result]: ...
    async def accounts(self, wanted: Collection[Account]) -> dict[UUID, Account]:
        """Those of ``wanted`` that exist, as they stand."""


class ModelEngine:
    """The books in memory, all of them."""

    def __init__(self) -> None:
        self.books = Books()

    async def open(self, accounts: Sequence[Account]) -> None:
        for account in accounts:
            self.books.accounts.setdefault(account.id.int, account)

    async def post(self, transfers: Sequence[Transfer]) -> list[Result]:
        return self.books.post(transfers)

    async def accounts(self, wanted: Collection[Account]) -> dict[UUID, Account]:
        known = self.books.accounts
        return {account.id: known[account.id.int] for account in wanted if account.id.int in known}


class PostgresEngine:
    """PostgreSQL, one transaction per call. Every fourth batch is carried out, taken back, and carried out again."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.ledger = PostgresLedger(TestClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))
        self._batches = 0

    async def open(self, accounts: Sequence[Account]) -> None:
        async with self.conn.transaction():
            await self.ledger.create_accounts(self.conn, accounts)

    async def post(self, transfers: Sequence[Transfer]) -> list[Result]:
        self._batches += 1
        if self._batches % 4 == 0:
            async with self.conn.transaction(force_rollback=True):
                await self.ledger.post(self.conn, transfers)
        async with self.conn.transaction():
            return await self.ledger.post(self.conn, transfers)

    async def accounts(self, wanted: Collection[Account]) -> dict[UUID, Account]:
        return await self.ledger.accounts(self.conn, [(account.customer_id, account.id) for account in wanted])

    async def transfers(self) -> list[Transfer]:
        """All that stand in the table, in order."""
        cursor = await self.conn.execute(
            "select id, customer_id, debit_account_id, credit_account_id, amount::text, ledger, code, flags, cause_id,"
            " pending_id from ledger_transfers order by sequence"
        )
        return [
            Transfer(row[0], row[1], row[2], row[3], int(row[4]), row[5], row[6], TransferFlags(row[7]), row[8], row[9])
            for row in await cursor.fetchall()
        ]

    async def failures(self) -> set[tuple[UUID, UUID, str]]:
        """Customer, id and status of all transfers whose ids stay failed."""
        return set(await (await self.conn.execute("select customer_id, id, status from ledger_failures")).fetchall())


class TigerBeetleEngine:
    """A TigerBeetle cluster, through our own client."""

    def __init__(self, addresses: str) -> None:
        from tallystick.ledger.tigerbeetle.client import TigerBeetleClient  # loads a native library

        self.client = TigerBeetleClient(CLUSTER_ID, addresses, timeout_seconds=60)

    async def open(self, accounts: Sequence[Account]) -> None:
        await self.client.create_accounts(accounts)

    async def post(self, transfers: Sequence[Transfer]) -> list[Result]:
        assert len(transfers) <= BATCH_MAX
        return await self.client.create_transfers(transfers)

    async def accounts(self, wanted: Collection[Account]) -> dict[UUID, Account]:
        return await self.client.lookup_accounts([account.id for account in wanted])


@asynccontextmanager
async def engine_named(name: str, database_url: str, folder: Path) -> AsyncIterator[Engine | None]:
    """One of ``ENGINES``: on this migrated database, or with its data in this folder; None if it cannot be had."""
    if name == "model":
        yield ModelEngine()
    elif name == "postgres":
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            yield PostgresEngine(connection)
    else:
        with tigerbeetle_addresses(folder) as addresses:
            if addresses is None:
                yield None
                return
            engine = TigerBeetleEngine(addresses)
            try:
                yield engine
            finally:
                await engine.client.close()


@contextmanager
def tigerbeetle_addresses(folder: Path) -> Iterator[str | None]:
    """The addresses of the server that the environment names, or of one started in ``folder``; None without any."""
    if given := given_address():
        yield given
    elif given_binary() is None:
        yield None
    else:
        with running_server(folder) as address:
            yield address
