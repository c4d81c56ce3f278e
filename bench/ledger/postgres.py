"""The PostgreSQL engine: whole batches as the intake posts them, and single bills as callers ask for them."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Final

from bench.ledger.loads import LEDGER, Load, insist, settle_memory
from bench.report import Figure, at_least
from tallystick.billing.instructions import Instruction
from tallystick.database.pool import Pool
from tallystick.kernel.ids import new_id
from tallystick.ledger.postgres import PostgresLedger
from tallystick.service import Service

BENCHMARK: Final = "postgres"
BATCH: Final = 8_000
AT_ONCE: Final = 2
"""Transactions beside each other: while one posts, the next one prepares."""

CALLERS: Final = 256
WALLETS: Final = 1_000
UNIT: Final = 1_000_000
BEST_BATCHES: Final = 50_000
BEST_SINGLES: Final = 15_000


async def batches(service: Service, seconds: int) -> list[Figure]:
    """Batches of 8,000 limited transfers over 10,000 accounts; then all of them out of one account."""
    load, ledger = Load(), PostgresLedger(service.clock)
    async with service.pool.connection() as conn, conn.transaction():
        await ledger.create_accounts(conn, [load.bank, *load.accounts])
        insist(await ledger.post(conn, load.funding()))
    spread = await _rate(service.pool, ledger, load, seconds, hot=False)
    hot = await _rate(service.pool, ledger, load, seconds, hot=True)
    return [
        Figure(
            benchmark=BENCHMARK,
            name=f"batches of {BATCH:,}, 10,000 accounts",
            value=spread,
            unit="/s",
            target=at_least(BEST_BATCHES),
        ),
        Figure(
            benchmark=BENCHMARK,
            name=f"batches of {BATCH:,}, one hot account",
            value=hot,
            unit="/s",
            target=at_least(spread),
            note="no slower than spread",
        ),
    ]


async def _rate(pool: Pool, ledger: PostgresLedger, load: Load, seconds: int, *, hot: bool) -> float:
    prepared = iter([load.batch(BATCH, hot=hot) for _ in range(seconds * BEST_BATCHES * 2 // BATCH)])
    settle_memory()
    began, posted = time.perf_counter(), 0

    async def post() -> None:
        nonlocal posted
        async with pool.connection() as conn:
            for transfers in prepared:
                async with conn.transaction():
                    results = await ledger.post(conn, transfers)
                insist(results)
                posted += len(transfers)
                if time.perf_counter() - began > seconds:
                    return

    await asyncio.gather(*(post() for _ in range(AT_ONCE)))
    return posted / (time.perf_counter() - began)


async def singles(service: Service, seconds: int) -> list[Figure]:
    """Bills of prepaid wallets from 256 callers, each waiting for its answer before it asks again."""
    customers = [f"bench-{number}" for number in range(WALLETS)]
    opened = (_order(service, "open", customer, UNIT * UNIT) for customer in customers)
    await asyncio.gather(*(service.instructions.carry_out(order) for order in opened))
    return [
        Figure(
            benchmark=BENCHMARK,
            name=f"single bills, {CALLERS} callers, {wallets:,} wallet{'s' * (wallets > 1)}",
            value=await _call(service, customers[:wallets], seconds),
            unit="/s",
            target=at_least(BEST_SINGLES),
        )
        for wallets in (WALLETS, 1)
    ]


async def _call(service: Service, customers: list[str], seconds: int) -> float:
    settle_memory()
    began, answered, turn = time.perf_counter(), 0, count()

    async def caller() -> None:
        nonlocal answered
        while time.perf_counter() - began < seconds:
            await service.instructions.carry_out(_order(service, "bill", customers[next(turn) % len(customers)], 7))
            answered += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answered / (time.perf_counter() - began)


def _order(service: Service, type_: str, customer: str, amount: int) -> Instruction:
    return Instruction(new_id(service.clock.now()), type_, customer, LEDGER, amount)  # type: ignore[arg-type]
