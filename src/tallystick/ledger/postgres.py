"""The ledger engine on PostgreSQL: posts in the caller's transaction, a whole batch in one set of statements.

Batches that move money are serialised by one advisory lock which is held until the transaction ends, so the order of
``sequence`` is the order of commits, no account is ever read while another transaction changes it, and a hot account is
no slower than a cold one. The rules are those of ``model.Books``; the table's constraints guard the limits once more.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, array, uuid_array
from tallystick.kernel.clock import Clock
from tallystick.ledger.contract import Account, AccountFlags, Result, Transfer, TransferFlags
from tallystick.ledger.model import Books

_SQL = Queries(Path(__file__).with_suffix(".sql"))


class PostgresLedger:
    """``contract.Ledger`` on PostgreSQL."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def serialise(self, conn: AsyncConnection) -> None:
        await conn.execute(_SQL.lock)

    async def create_accounts(self, conn: AsyncConnection, accounts: list[Account]) -> None:
        if not accounts:
            return
        await conn.execute(
            _SQL.create_accounts,
            {
                "customer_ids": uuid_array(account.customer_id for account in accounts),
                "ids": uuid_array(account.id for account in accounts),
                "ledgers": array(account.ledger for account in accounts),
                "codes": array(account.code for account in accounts),
                "flags": array(int(account.flags) for account in accounts),
                "now": self._clock.now(),
            },
        )

    async def post(self, conn: AsyncConnection, transfers: list[Transfer]) -> list[Result]:
        if not transfers:
            return []
        touched = {
            (transfer.customer_id, account_id)
            for transfer in transfers
            for account_id in (transfer.debit_account_id, transfer.credit_account_id)
        }
        async with conn.pipeline():  # four questions, one trip; two writes, another
            await self.serialise(conn)
            accounts = await conn.execute(_SQL.accounts, _account_places(touched))
            known = await conn.execute(_SQL.transfers, _transfer_places(transfers))
            sequence = await conn.execute(_SQL.last_sequence)
            books = Books(_read_accounts(await accounts.fetchall()), _read_transfers(await known.fetchall()))
            results = [books.post(transfer) for transfer in transfers]
            (last_sequence,) = await sequence.fetchone() or (0,)
            await self._write(conn, books, last_sequence)
        return results

    async def accounts(self, conn: AsyncConnection, ids: Collection[tuple[UUID, UUID]]) -> dict[UUID, Account]:
        return _read_accounts(await (await conn.execute(_SQL.accounts, _account_places(ids))).fetchall())

    async def _write(self, conn: AsyncConnection, books: Books, last_sequence: int) -> None:
        if not books.posted:
            return
        posted, changed = books.posted, [books.accounts[account_id] for account_id in books.changed]
        await conn.execute(
            _SQL.insert_transfers,
            {
                **_transfer_places(posted),
                "sequence": last_sequence,
                "debits": uuid_array(transfer.debit_account_id for transfer in posted),
                "credits": uuid_array(transfer.credit_account_id for transfer in posted),
                "amounts": array(transfer.amount for transfer in posted),
                "ledgers": array(transfer.ledger for transfer in posted),
                "codes": array(transfer.code for transfer in posted),
                "flags": array(int(transfer.flags) for transfer in posted),
                "causes": array(transfer.cause_id.hex if transfer.cause_id else "NULL" for transfer in posted),
                "now": self._clock.now(),
            },
        )
        await conn.execute(
            _SQL.update_accounts,
            {
                **_account_places([(account.customer_id, account.id) for account in changed]),
                "debits_posted": array(account.debits_posted for account in changed),
                "credits_posted": array(account.credits_posted for account in changed),
            },
        )


def _account_places(ids: Collection[tuple[UUID, UUID]]) -> dict[str, object]:
    return {
        "customer_ids": uuid_array(customer_id for customer_id, _ in ids),
        "ids": uuid_array(account_id for _, account_id in ids),
    }


def _transfer_places(transfers: list[Transfer]) -> dict[str, object]:
    return {
        "customer_ids": uuid_array(transfer.customer_id for transfer in transfers),
        "ids": uuid_array(transfer.id for transfer in transfers),
    }


def _read_accounts(rows: list[tuple[Any, ...]]) -> dict[UUID, Account]:
    return {
        row[1]: Account(row[1], row[0], row[2], row[3], AccountFlags(row[4]), int(row[5]), int(row[6])) for row in rows
    }


def _read_transfers(rows: list[tuple[Any, ...]]) -> dict[UUID, Transfer]:
    return {
        row[1]: Transfer(row[1], row[0], row[2], row[3], int(row[4]), row[5], row[6], TransferFlags(row[7]), row[8])
        for row in rows
    }
