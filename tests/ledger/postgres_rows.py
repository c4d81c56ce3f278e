"""What the tests of the PostgreSQL engine share: four accounts, and the rows of the tables read by other means."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

from psycopg import sql

from tallystick.database.pool import Connection
from tallystick.ledger.contract import (
    Account,
    AccountFlags,
    Transfer,
    TransferFlags,
)

CUSTOMER, STRANGER = UUID(int=1), UUID(int=2)
BANK, PURSE, DEBT, SHOP = (UUID(int=number) for number in range(10, 14))
NIL = UUID(int=0)
ACCOUNTS = [
    Account(BANK, CUSTOMER, 1, 4),
    Account(PURSE, CUSTOMER, 1, 1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
    Account(DEBT, CUSTOMER, 1, 2, AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS),
    Account(SHOP, CUSTOMER, 1, 3),
]


def transfer(
    number: int,
    debit: UUID,
    credit: UUID,
    amount: int,
    flags: TransferFlags = TransferFlags.NONE,
    pending: int | None = None,
) -> Transfer:
    pending_id = UUID(int=pending) if pending is not None else None
    return Transfer(UUID(int=number), CUSTOMER, debit, credit, amount, 1, 1, flags, None, pending_id)


def resolution(number: int, pending: int, flags: TransferFlags, amount: int = 0) -> Transfer:
    return Transfer(UUID(int=number), CUSTOMER, NIL, NIL, amount, 0, 0, flags, None, UUID(int=pending))


async def table(conn: Connection, name: str, order: str) -> list[Any]:
    query = sql.SQL("select * from {} order by {}").format(sql.Identifier(name), sql.Identifier(order))
    return await (await conn.execute(query)).fetchall()


async def everything(conn: Connection) -> list[list[Any]]:
    """All that the ledger keeps."""
    return [
        await table(conn, name, order)
        for name, order in (
            ("ledger_accounts", "id"),
            ("ledger_transfers", "sequence"),
            ("ledger_failures", "id"),
            ("ledger_batches", "last_sequence"),
        )
    ]


async def assert_sealed(conn: Connection) -> None:
    """Recomputes the chain from the rows: batches follow each other without gaps, and each hash fits."""
    rows = await table(conn, "ledger_transfers", "sequence")
    assert [row[2] for row in rows] == list(range(1, len(rows) + 1))
    names = [column.name for column in (await conn.execute("select * from ledger_transfers limit 0")).description or ()]
    transfers = [dict(zip(names, row, strict=True)) for row in rows]
    batches = await (
        await conn.execute("select first_sequence, last_sequence, hash from ledger_batches order by last_sequence")
    ).fetchall()
    assert all(following[0] == before[1] + 1 for before, following in pairwise(batches))
    assert [batches[0][0], batches[-1][1]] == [1, len(rows)]
    previous = b""
    for first, last, found in batches:
        previous = seal(previous, transfers[first - 1 : last])
        assert found == previous, f"the batch from {first} to {last}"


def seal(previous: bytes, transfers: list[dict[str, Any]]) -> bytes:
    """SHA-256 of the hash before and all columns: ids as bytes (nil for none), all else as text."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    digest = hashlib.sha256(previous)
    for name in ("customer_id", "id", "debit_account_id", "credit_account_id", "cause_id", "pending_id"):
        for row in transfers:
            digest.update((row[name] or NIL).bytes)
    texts = []
    for name in ("amount", "ledger", "code", "flags", "sequence"):
        texts.append(",".join(str(int(row[name])) for row in transfers))
    since = [row["created_at"] - epoch for row in transfers]
    texts.append(",".join(str((s.days * 86_400 + s.seconds) * 1_000_000 + s.microseconds) for s in since))
    digest.update(";".join(texts).encode())
    return digest.digest()
