"""What a ledger outside of the database still has to carry out: the rows of ``ledger_outbox``.

A promise is written in the transaction of whoever promises. An intent is written, and committed, by whoever posts, just
before the ledger is asked, and removed in his transaction; he is the only one that posts until then, so whoever sees an
intent while he may post sees one that was left behind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.ledger.contract import TRANSIENT, Account, AccountFlags, Transfer, TransferFlags
from tallystick.ledger.postgres import Columns

_SQL = Queries(Path(__file__).with_suffix(".sql"))

CHANNEL = "ledger_outbox"
"""Where PostgreSQL tells that something was promised."""

FORGOTTEN_AFTER = timedelta(days=1)
"""How long the reason is kept for which an intent was refused whose caller died."""


class Waiting(NamedTuple):
    """A transfer that waits, with those of its accounts that are known; ``position`` and ``line`` are its place."""

    position: int
    line: int
    transfer: Transfer
    accounts: tuple[Account, ...]
    intent: bool


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the ledger is behind: transfers that wait, for how many seconds the oldest one has, and promises that
    it has refused, which is a defect that somebody must look into.
    """

    waiting: int
    oldest_seconds: int
    refused: int


async def accounts_of(conn: AsyncConnection, transfers: Sequence[Transfer]) -> dict[UUID, Account]:
    """The accounts of transfers that are known, without their sums: those are kept elsewhere."""
    touched = {
        account_id: transfer.customer_id
        for transfer in transfers
        for account_id in (transfer.debit_account_id, transfer.credit_account_id)
    }
    places = {"customer_ids": UuidArray(list(touched.values())), "ids": UuidArray(list(touched))}
    rows = await (await conn.execute(_SQL.accounts, places)).fetchall()
    return {row[0]: Account(row[0], row[1], row[2], row[3], AccountFlags(row[4])) for row in rows}


async def put(
    conn: AsyncConnection,
    transfers: Sequence[Transfer],
    accounts: Mapping[UUID, Account],
    now: datetime,
    *,
    intent: bool,
) -> int:
    """Writes transfers down and returns their position. A promise that waits already is not written again."""
    debits = [_account(accounts, transfer.debit_account_id, transfer.ledger) for transfer in transfers]
    credits_ = [_account(accounts, transfer.credit_account_id, transfer.ledger) for transfer in transfers]
    parameters = Columns(transfers).parameters | {
        "debit_codes": array(int(account.code) if account else "NULL" for account in debits),
        "debit_flags": array(int(account.flags) if account else "NULL" for account in debits),
        "credit_codes": array(int(account.code) if account else "NULL" for account in credits_),
        "credit_flags": array(int(account.flags) if account else "NULL" for account in credits_),
        "intent": intent,
        "now": now,
    }
    ((position,),) = await (await conn.execute(_SQL.put, parameters)).fetchall()
    if not intent:
        await conn.execute(_SQL.wake)
    return int(position)


async def lead(conn: AsyncConnection) -> bool:
    """Whether this transaction, until it ends, is the one that delivers."""
    ((leads,),) = await (await conn.execute(_SQL.lead)).fetchall()
    return bool(leads)


async def take(conn: AsyncConnection, limit: int, customers: Collection[UUID] | None = None) -> list[Waiting]:
    """The oldest that wait, in order: intents that were left behind, and promises, of all or of these customers.

    Only whoever may post may take. A chain is never cut.
    """
    if customers is None:
        cursor = await conn.execute(_SQL.take, {"limit": limit})
    else:
        cursor = await conn.execute(_SQL.take_of, {"limit": limit, "customer_ids": UuidArray(list(customers))})
    taken = [_read(row) for row in await cursor.fetchall()]
    if len(taken) == limit:
        while taken and taken[-1].transfer.flags & TransferFlags.LINKED:
            taken.pop()
    return taken


async def finish(conn: AsyncConnection, done: Sequence[Waiting]) -> None:
    """Removes what has been carried out."""
    if done:
        await conn.execute(_SQL.finish, _places(done))


async def refuse(conn: AsyncConnection, refused: Sequence[tuple[Waiting, str]]) -> None:
    """Notes why some were not carried out. They wait no longer, and are kept."""
    if refused:
        reasons = {"reasons": [reason for _, reason in refused]}
        await conn.execute(_SQL.refuse, _places([waiting for waiting, _ in refused]) | reasons)


async def refuse_intents(conn: AsyncConnection, position: int, refused: Sequence[tuple[Transfer, str]]) -> None:
    """Notes why intents of one call were not carried out, while its caller has not answered yet."""
    parameters = {"position": position, "reasons": [reason for _, reason in refused]}
    await conn.execute(_SQL.refuse_intents, _ids([transfer for transfer, _ in refused]) | parameters)


async def unanswered(conn: AsyncConnection, position: int, transfers: Sequence[Transfer]) -> dict[UUID, str]:
    """Why intents before ``position`` to post these were refused, where their caller died before he could say so."""
    cursor = await conn.execute(_SQL.unanswered, _ids(transfers) | {"position": position})
    return dict(await cursor.fetchall())


async def answer(conn: AsyncConnection, transfers: Sequence[Transfer]) -> None:
    """Removes the intents to post these, of this and of earlier attempts."""
    await conn.execute(_SQL.answer, _ids(transfers))


async def forget(conn: AsyncConnection, now: datetime) -> None:
    """Turns refused intents whose callers have not come back for a day into ids that stay failed."""
    transient = [status.value for status in TRANSIENT]
    await conn.execute(_SQL.forget, {"before": now - FORGOTTEN_AFTER, "now": now, "transient": transient})


async def posted(conn: AsyncConnection, transfers: Sequence[Transfer]) -> set[UUID]:
    """The ids of those that stand in the journal."""
    return {row[0] for row in await (await conn.execute(_SQL.posted, _ids(transfers))).fetchall()}


async def last_promise(conn: AsyncConnection, customers: Collection[UUID]) -> int | None:
    """The position of the last promise that waits in the books of these customers."""
    cursor = await conn.execute(_SQL.last_promise, {"customer_ids": UuidArray(list(customers))})
    ((position,),) = await cursor.fetchall()
    return None if position is None else int(position)


async def is_owed(conn: AsyncConnection, customers: Collection[UUID], position: int) -> bool:
    """Whether a promise up to this position waits in the books of these customers."""
    parameters = {"customer_ids": UuidArray(list(customers)), "position": position}
    ((owed,),) = await (await conn.execute(_SQL.is_owed, parameters)).fetchall()
    return bool(owed)


async def is_waiting(conn: AsyncConnection) -> bool:
    """Whether anything waits."""
    ((waiting,),) = await (await conn.execute(_SQL.is_waiting)).fetchall()
    return bool(waiting)


async def lag(conn: AsyncConnection, now: datetime) -> Lag:
    """How far the ledger is behind."""
    ((waiting, oldest, refused),) = await (await conn.execute(_SQL.lag)).fetchall()
    return Lag(waiting, max(0, round((now - oldest).total_seconds())) if oldest else 0, refused)


def _account(accounts: Mapping[UUID, Account], account_id: UUID, ledger: int) -> Account | None:
    """Only if it is of the transfer's ledger, which a row has but once; the others are opened by who posts at once."""
    account = accounts.get(account_id)
    return account if account is not None and account.ledger == ledger else None


def _read(row: tuple[Any, ...]) -> Waiting:
    position, line, customer_id, id_, debit_id, credit_id, amount, ledger, code, flags, cause_id, pending_id = row[:12]
    debit_code, debit_flags, credit_code, credit_flags, intent = row[12:]
    transfer = Transfer(
        id_,
        customer_id,
        debit_id,
        credit_id,
        int(amount),
        ledger,
        code,
        TransferFlags(flags),
        cause_id,
        pending_id,
    )
    accounts = tuple(
        Account(account_id, customer_id, ledger, account_code, AccountFlags(account_flags))
        for account_id, account_code, account_flags in (
            (debit_id, debit_code, debit_flags),
            (credit_id, credit_code, credit_flags),
        )
        if account_code is not None
    )
    return Waiting(position, line, transfer, accounts, intent)


def _ids(transfers: Sequence[Transfer]) -> dict[str, object]:
    return {
        "customer_ids": UuidArray([transfer.customer_id for transfer in transfers]),
        "ids": UuidArray([transfer.id for transfer in transfers]),
    }


def _places(waiting: Sequence[Waiting]) -> dict[str, object]:
    return _ids([one.transfer for one in waiting]) | {
        "positions": array(one.position for one in waiting),
        "lines": array(one.line for one in waiting),
    }
