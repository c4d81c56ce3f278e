"""The ledger engine on PostgreSQL: posts in the caller's transaction, a whole batch in one set of statements.

Batches that move money are serialised by one advisory lock which is held until the transaction ends, so the order of
``sequence`` is the order of commits, no account is ever read while another transaction changes it, and a hot account is
no slower than a cold one. The rules are those of ``model.Books``; the table's constraints guard the limits once more.
"""

from __future__ import annotations

from pathlib import Path
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
        await self.serialise(conn)
        touched = {
            (transfer.customer_id, account_id)
            for transfer in transfers
            for account_id in (transfer.debit_account_id, transfer.credit_account_id)
        }
        books = Books(await self.accounts(conn, list(touched)), await self._known(conn, transfers))
        results = [books.post(transfer) for transfer in transfers]
        await self._write(conn, books)
        return results

    async def accounts(self, conn: AsyncConnection, ids: list[tuple[UUID, UUID]]) -> dict[UUID, Account]:
        cursor = await conn.execute(
            _SQL.accounts,
            {
                "customer_ids": uuid_array(customer_id for customer_id, _ in ids),
                "ids": uuid_array(account_id for _, account_id in ids),
            },
        )
        return {
            row[1]: Account(row[1], row[0], row[2], row[3], AccountFlags(row[4]), int(row[5]), int(row[6]))
            for row in await cursor.fetchall()
        }

    async def _known(self, conn: AsyncConnection, transfers: list[Transfer]) -> dict[UUID, Transfer]:
        cursor = await conn.execute(
            _SQL.transfers,
            {
                "customer_ids": uuid_array(transfer.customer_id for transfer in transfers),
                "ids": uuid_array(transfer.id for transfer in transfers),
            },
        )
        return {
            row[1]: Transfer(row[1], row[0], row[2], row[3], int(row[4]), row[5], row[6], TransferFlags(row[7]), row[8])
            for row in await cursor.fetchall()
        }

    async def _write(self, conn: AsyncConnection, books: Books) -> None:
        if not books.posted:
            return
        posted, changed = books.posted, [books.accounts[account_id] for account_id in books.changed]
        cursor = await conn.execute(_SQL.last_sequence)
        (last_sequence,) = await cursor.fetchone() or (0,)
        await conn.execute(
            _SQL.insert_transfers,
            {
                "customer_ids": uuid_array(transfer.customer_id for transfer in posted),
                "ids": uuid_array(transfer.id for transfer in posted),
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
                "customer_ids": uuid_array(account.customer_id for account in changed),
                "ids": uuid_array(account.id for account in changed),
                "debits_posted": array(account.debits_posted for account in changed),
                "credits_posted": array(account.credits_posted for account in changed),
            },
        )
