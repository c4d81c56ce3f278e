"""For scale: pgledger (github.com/pgr0ss/pgledger), a ledger in SQL functions, on the same server.

It is given as a checkout; nothing of it is kept here. Every transfer is one statement and one transaction, as its own
performance check does it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Final

import psycopg
from psycopg import AsyncConnection, sql

from bench.client import BenchError
from bench.report import Figure

BENCHMARK: Final = "pgledger"
DATABASE: Final = "pgledger"
SOURCES: Final = (
    "vendor/scoville-pgsql-ulid/ulid-to-uuid.sql",
    "vendor/scoville-pgsql-ulid/uuid-to-ulid.sql",
    "pgledger.sql",
)
ACCOUNTS: Final = 1_000
CONNECTIONS: Final = 20
"""As many as its own performance check uses."""


async def singles(url: str, checkout: Path, seconds: int) -> list[Figure]:
    """Single transfers between accounts at random, then all out of one account."""
    accounts = await _install(url, checkout)
    figures = []
    for name, hot in (("single transfers", False), ("single transfers, one hot account", True)):
        rate = await _rate(url, accounts, seconds, hot=hot)
        figures.append(Figure(benchmark=BENCHMARK, name=name, value=rate, unit="/s", note=f"{CONNECTIONS} connections"))
    return figures


async def _install(url: str, checkout: Path) -> list[str]:
    try:
        scripts = [(checkout / source).read_text() for source in SOURCES]
    except OSError as error:
        raise BenchError(f"{checkout} is no checkout of pgledger: {error}") from error
    async with await AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(DATABASE)))
        await conn.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    async with await AsyncConnection.connect(url, dbname=DATABASE) as conn:
        for script in scripts:
            await conn.execute(script.encode())
        cursor = await conn.execute(
            "select (pgledger_create_account('account ' || n, 'USD')).id from generate_series(1, %s) as n", (ACCOUNTS,)
        )
        return [account for (account,) in await cursor.fetchall()]


async def _rate(url: str, accounts: list[str], seconds: int, *, hot: bool) -> float:
    random, done = Random(2026), 0
    connections = [
        await AsyncConnection.connect(url, dbname=DATABASE, autocommit=True, prepare_threshold=0)
        for _ in range(CONNECTIONS)
    ]
    began = time.perf_counter()

    async def work(conn: psycopg.AsyncConnection) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            debit, credit = random.sample(accounts, 2)
            # In the order of ids, or two of them would wait for each other's accounts in a circle.
            debit, credit = (accounts[0], random.choice(accounts[1:])) if hot else sorted((debit, credit))
            await conn.execute("select id from pgledger_create_transfer(%s, %s, 7)", (debit, credit))
            done += 1

    try:
        await asyncio.gather(*(work(conn) for conn in connections))
        return done / (time.perf_counter() - began)
    finally:
        for conn in connections:
            await conn.close()
