"""TigerBeetle through our adapter, and through its own client as it comes."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import tigerbeetle

from bench.client import BenchError
from bench.ledger.loads import Load, insist, settle_memory
from bench.report import Figure, at_least
from tallystick.ledger.contract import BATCH_MAX, Account, Transfer
from tallystick.ledger.tigerbeetle.client import TigerBeetleClient

BENCHMARK: Final = "tigerbeetle"
IN_FLIGHT: Final = 3
BEST: Final = 250_000


async def adapter(cluster_id: int, address: str, seconds: int) -> Figure:
    """Batches of 8,189 through `TigerBeetleClient`, several under way."""
    load = Load()
    client = TigerBeetleClient(cluster_id, address)
    try:
        accounts = [load.bank, *load.accounts]
        for start in range(0, len(accounts), BATCH_MAX):
            await client.create_accounts(accounts[start : start + BATCH_MAX])
        funding = load.funding()
        for start in range(0, len(funding), BATCH_MAX):
            insist(await client.create_transfers(funding[start : start + BATCH_MAX]))
        prepared = iter([load.batch(BATCH_MAX) for _ in range(seconds * BEST * 2 // BATCH_MAX)])
        settle_memory()
        began, posted = time.perf_counter(), 0

        async def post() -> None:
            nonlocal posted
            for transfers in prepared:
                insist(await client.create_transfers(transfers))
                posted += len(transfers)
                if time.perf_counter() - began > seconds:
                    return

        await asyncio.gather(*(post() for _ in range(IN_FLIGHT)))
        rate = posted / (time.perf_counter() - began)
    finally:
        await client.close()
    return Figure(
        benchmark=BENCHMARK,
        name=f"batches of {BATCH_MAX:,} through our adapter",
        value=rate,
        unit="/s",
        target=at_least(BEST),
        note=f"{IN_FLIGHT} batches under way, from Transfer objects to Results",
    )


async def stock(cluster_id: int, address: str, seconds: int) -> Figure:
    """The same load through the client of the `tigerbeetle` package, objects and all."""
    load = Load()
    async with tigerbeetle.ClientAsync(cluster_id=cluster_id, replica_addresses=address) as client:
        for start in range(0, len(load.accounts), BATCH_MAX):
            await client.create_accounts([_stock_account(a) for a in load.accounts[start : start + BATCH_MAX]])
        await client.create_accounts([_stock_account(load.bank)])
        funding = load.funding()
        for start in range(0, len(funding), BATCH_MAX):
            await client.create_transfers([_stock_transfer(t) for t in funding[start : start + BATCH_MAX]])
        prepared = iter([load.batch(BATCH_MAX) for _ in range(max(4, seconds * 100_000 // BATCH_MAX))])
        settle_memory()
        began, posted = time.perf_counter(), 0

        async def post() -> None:
            nonlocal posted
            for transfers in prepared:
                results = await client.create_transfers([_stock_transfer(transfer) for transfer in transfers])
                if any(result.status is not tigerbeetle.CreateTransferStatus.CREATED for result in results):
                    raise BenchError("the stock client's transfers were not created")
                posted += len(transfers)
                if time.perf_counter() - began > seconds:
                    return

        await asyncio.gather(*(post() for _ in range(IN_FLIGHT)))
        rate = posted / (time.perf_counter() - began)
    return Figure(
        benchmark=BENCHMARK,
        name=f"batches of {BATCH_MAX:,} through the stock client",
        value=rate,
        unit="/s",
        note="the same Transfer objects made into its own",
    )


def _stock_account(account: Account) -> tigerbeetle.Account:
    return tigerbeetle.Account(
        id=account.id.int, ledger=account.ledger, code=account.code, flags=tigerbeetle.AccountFlags(int(account.flags))
    )


def _stock_transfer(transfer: Transfer) -> tigerbeetle.Transfer:
    return tigerbeetle.Transfer(
        id=transfer.id.int,
        debit_account_id=transfer.debit_account_id.int,
        credit_account_id=transfer.credit_account_id.int,
        amount=transfer.amount,
        ledger=transfer.ledger,
        code=transfer.code,
    )
