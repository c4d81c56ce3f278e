"""The ledger engine on PostgreSQL: posts in the caller's transaction, a whole batch in one set of statements.

Batches that move money are serialised by one advisory lock which is held until the transaction ends, so the order of
``sequence`` is the order of commits, no account is ever read while another transaction changes it, and a hot account is
no slower than a cold one. The rules are those of ``model.Books``; the table's constraints guard the limits once more.
Every batch is sealed with a hash over the one before it and its own transfers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.ledger.contract import (
    Account,
    AccountFlags,
    LedgerRefusal,
    Opening,
    Result,
    Status,
    Transfer,
    TransferFlags,
    Watch,
    no_accounts,
)
from tallystick.ledger.model import Books

_SQL = Queries(Path(__file__).with_suffix(".sql"))

_RESOLVING = int(TransferFlags.POST_PENDING | TransferFlags.VOID_PENDING)
_VOID = int(TransferFlags.VOID_PENDING)
_LINKED = int(TransferFlags.LINKED)

Place = tuple[UUID, UUID]
"""A customer and an id in its books: what primary keys are made of."""

SLICE = 2_000
"""A long batch is written, and sealed, in pieces: while the database stores one, the next one is evaluated."""

REMEMBERED_ACCOUNTS = 50_000
"""Accounts kept in memory from one batch to the next, some 30 MB."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PostgresLedger:
    """``contract.Ledger`` on PostgreSQL."""

    def __init__(self, clock: Clock, watch: Watch | None = None) -> None:
        self._journal = Journal(clock)
        self._remembered = _Remembered()
        self._watch = watch

    async def serialise(self, conn: AsyncConnection) -> None:
        await self._journal.serialise(conn)

    async def create_accounts(self, conn: AsyncConnection, accounts: Sequence[Account]) -> None:
        await self._journal.create_accounts(conn, accounts)

    async def post(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> list[Result]:
        if not transfers:
            return []
        slices = [(part, Columns(part)) for part in _slices(transfers)]  # before the lock: others may post meanwhile
        results: list[Result] = []
        async with conn.pipeline():
            await self._journal.serialise(conn)
            books, head = await self._load(conn, transfers, _joined([columns for _, columns in slices]))
            await self._open_missing(conn, books, transfers, opening)
            new_head = head
            for part, columns in slices:
                results += books.post(part)
                posted, failed = books.collect()
                as_sent = len(posted) == len(part) and posted == part
                new_head = await self._journal.write(conn, columns if as_sent else Columns(posted), failed, new_head)
            changed = [books.accounts[account_id] for account_id in books.changed]
            alarms = await _update_accounts(conn, changed, books.reserves) if changed else None
        if new_head != head:  # else nothing would tell, if this is taken back, that accounts opened here are gone
            self._remembered.keep(new_head, books.accounts)
        if self._watch is not None and alarms is not None and (alarmed := await alarms.fetchall()):
            await self._watch.look(conn, self, alarmed)
        return results

    async def promise(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> None:
        insist(await self.post(conn, transfers, opening))

    async def accounts(
        self, conn: AsyncConnection, ids: Collection[Place], *, serialised: bool = False
    ) -> dict[UUID, Account]:
        if not serialised:
            cursor = await conn.execute(_SQL.accounts, _places(ids))
            return {account.id: account for account in _read_accounts(await cursor.fetchall())}
        found = await self._standing(conn, ids, await self._journal.head(conn))
        return {account.id: account for account in found.values()}

    async def _load(
        self, conn: AsyncConnection, transfers: Sequence[Transfer], places: dict[str, object]
    ) -> tuple[Books, Head]:
        """What the books say about these transfers, and where their chain of batches ends."""
        pending = [(t.customer_id, t.pending_id) for t in transfers if t.pending_id and int(t.flags) & _RESOLVING]
        last = await conn.execute(_SQL.head)
        known = await conn.execute(_SQL.transfers, places)
        failed = await conn.execute(_SQL.failed, places)
        if pending:
            held = await conn.execute(_SQL.transfers, _places(pending))
            resolved = await conn.execute(_SQL.resolutions, _places(pending))
        head = Head(*row) if (row := await last.fetchone()) else NO_BATCH
        stored = _read_transfers(await known.fetchall())
        books = Books(failed={transfer_id.int for (transfer_id,) in await failed.fetchall()})
        if pending:
            stored += _read_transfers(await held.fetchall())
            books.resolved = _read_resolutions(await resolved.fetchall())
        books.transfers = {transfer.id.int: transfer for transfer in stored}
        # A post or void need not name the accounts: its pending transfer does.
        await self._load_accounts(conn, books, head, [*transfers, *stored] if pending else transfers)
        return books, head

    async def _load_accounts(
        self, conn: AsyncConnection, books: Books, head: Head, transfers: Sequence[Transfer]
    ) -> None:
        touched: dict[tuple[int, int], Place] = {}
        for transfer in transfers:
            customer_id, debit_id = transfer.customer_id, transfer.debit_account_id
            credit_id = transfer.credit_account_id
            touched[customer_id.int, debit_id.int] = customer_id, debit_id
            touched[customer_id.int, credit_id.int] = customer_id, credit_id
        books.accounts = await self._standing(conn, touched.values(), head)

    async def _standing(self, conn: AsyncConnection, wanted: Collection[Place], head: Head) -> dict[int, Account]:
        """The accounts that exist among those wanted, from memory as far as possible. Nobody else may post meanwhile.

        What is loaded here is not remembered: this transaction may have opened it, and may be taken back.
        """
        remembered = self._remembered.at(head)
        found = {
            account_id.int: account
            for customer_id, account_id in wanted
            if (account := remembered.get(account_id.int)) is not None and account.customer_id.int == customer_id.int
        }
        if len(found) < len(wanted):
            missing = [place for place in wanted if place[1].int not in found]
            cursor = await conn.execute(_SQL.accounts, _places(missing))
            found |= {account.id.int: account for account in _read_accounts(await cursor.fetchall())}
        return found

    async def _open_missing(
        self, conn: AsyncConnection, books: Books, transfers: Sequence[Transfer], opening: Opening
    ) -> None:
        if opening is no_accounts:
            return
        missing = {
            account_id
            for transfer in transfers
            for account_id in (transfer.debit_account_id, transfer.credit_account_id)
            if account_id.int and account_id.int not in books.accounts
        }
        if missing and (new := opening(missing)):
            await self._journal.create_accounts(conn, new)
            for account in new:  # those that come along may have sums already, and are not needed
                if account.id in missing:
                    books.accounts[account.id.int] = account


def _slices(transfers: Sequence[Transfer]) -> Iterator[Sequence[Transfer]]:
    """Transfers in pieces of about ``SLICE``; a chain of linked ones stays whole."""
    start = 0
    while start < len(transfers):
        end = start + SLICE
        while end < len(transfers) and int(transfers[end - 1].flags) & _LINKED:
            end += 1
        yield transfers[start:end]
        start = end


class Head(NamedTuple):
    """Where the chain of batches ends: how many transfers there are, and the hash over all of them."""

    sequence: int
    hash: bytes


NO_BATCH = Head(0, b"")


class _Remembered:
    """Accounts as they stood after a certain batch: worth nothing once another batch has been posted, by whomever.

    The hash of the last batch tells. That of a batch that was taken back is never seen again.
    """

    def __init__(self) -> None:
        self._head = NO_BATCH
        self._accounts: dict[int, Account] = {}

    def at(self, head: Head) -> dict[int, Account]:
        if head != self._head:
            self._accounts = {}
        return self._accounts

    def keep(self, head: Head, accounts: dict[int, Account]) -> None:
        if len(self._accounts) + len(accounts) > REMEMBERED_ACCOUNTS:
            self._accounts = {}
        self._head = head
        self._accounts.update(accounts)


class Columns:
    """Transfers as one array for each column, as the database takes them and as they are hashed."""

    def __init__(self, transfers: Sequence[Transfer]) -> None:
        self.size = len(transfers)
        self.customer_ids = UuidArray([transfer.customer_id for transfer in transfers])
        self.ids = UuidArray([transfer.id for transfer in transfers])
        self.debits = UuidArray([transfer.debit_account_id for transfer in transfers])
        self.credits = UuidArray([transfer.credit_account_id for transfer in transfers])
        self.causes = UuidArray([transfer.cause_id for transfer in transfers])
        self.pending_ids = UuidArray([transfer.pending_id for transfer in transfers])
        self.amounts = ",".join([str(transfer.amount) for transfer in transfers])
        self.ledgers = ",".join([str(transfer.ledger) for transfer in transfers])
        self.codes = ",".join([str(int(transfer.code)) for transfer in transfers])
        self.flags = ",".join([str(int(transfer.flags)) for transfer in transfers])

    @property
    def places(self) -> dict[str, object]:
        """Parameters that name the transfers."""
        return {"customer_ids": self.customer_ids, "ids": self.ids}

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters that say everything about the transfers."""
        return {
            **self.places,
            "debits": self.debits,
            "credits": self.credits,
            "causes": self.causes,
            "pending_ids": self.pending_ids,
            "amounts": f"{{{self.amounts}}}",
            "ledgers": f"{{{self.ledgers}}}",
            "codes": f"{{{self.codes}}}",
            "flags": f"{{{self.flags}}}",
        }

    def hash(self, head: Head, now: datetime) -> bytes:
        """The hash of these transfers as the batch after ``head``; the same as ``ledger_hash`` in the database."""
        sequences = ",".join(map(str, range(head.sequence + 1, head.sequence + self.size + 1)))
        times = ",".join([str((now - _EPOCH) // timedelta(microseconds=1))] * self.size)
        texts = (self.amounts, self.ledgers, self.codes, self.flags, sequences, times)
        ids = (self.customer_ids, self.ids, self.debits, self.credits, self.causes, self.pending_ids)
        return hashlib.sha256(b"".join((head.hash, *(array.items for array in ids), ";".join(texts).encode()))).digest()


def _joined(slices: Sequence[Columns]) -> dict[str, object]:
    """Parameters that name the transfers of all slices."""
    return {
        "customer_ids": UuidArray.joined([columns.customer_ids for columns in slices]),
        "ids": UuidArray.joined([columns.ids for columns in slices]),
    }


class Journal:
    """What both engines keep in the database: which accounts there are, and every transfer in the order of posting."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def serialise(self, conn: AsyncConnection) -> None:
        """Waits for, and then is, the only transaction that posts."""
        await conn.execute(_SQL.lock)

    async def head(self, conn: AsyncConnection) -> Head:
        """The end of the chain of batches."""
        row = await (await conn.execute(_SQL.head)).fetchone()
        return Head(*row) if row else NO_BATCH

    async def create_accounts(self, conn: AsyncConnection, accounts: Sequence[Account]) -> None:
        """Notes accounts; one that is known stays as it is."""
        if not accounts:
            return
        await conn.execute(
            _SQL.create_accounts,
            {
                **_places([(account.customer_id, account.id) for account in accounts]),
                "ledgers": array(account.ledger for account in accounts),
                "codes": array(int(account.code) for account in accounts),
                "flags": array(int(account.flags) for account in accounts),
                "now": self._clock.now(),
            },
        )

    async def write(
        self, conn: AsyncConnection, posted: Columns, failed: Sequence[tuple[Transfer, Status]], head: Head
    ) -> Head:
        """Writes a batch after ``head``, in order, and seals it. The caller is the only one that posts."""
        now = self._clock.now()
        if failed:
            await conn.execute(
                _SQL.insert_failures,
                {
                    **_places([(transfer.customer_id, transfer.id) for transfer, _ in failed]),
                    "statuses": [status.value for _, status in failed],
                    "now": now,
                },
            )
        if not posted.size:
            return head
        first_sequence, new_head = head.sequence + 1, Head(head.sequence + posted.size, posted.hash(head, now))
        await conn.execute(_SQL.insert_transfers, {**posted.parameters, "first_sequence": first_sequence, "now": now})
        await conn.execute(
            _SQL.insert_batch,
            {"last_sequence": new_head.sequence, "first_sequence": first_sequence, "hash": new_head.hash},
        )
        return new_head


def insist(results: Iterable[Result]) -> None:
    """Raises ``LedgerRefusal`` unless every transfer stands."""
    if refused := [result.status.value for result in results if not result.stands]:
        raise LedgerRefusal(f"the ledger refused a transfer: {refused[0]}")


async def _update_accounts(conn: AsyncConnection, accounts: Sequence[Account], reserves: bool) -> AsyncCursor[TupleRow]:
    """Gives whose accounts, of which asset, have come to their alarm by it."""
    parameters: dict[str, object] = {
        "customer_ids": UuidArray([account.customer_id for account in accounts]),
        "ids": UuidArray([account.id for account in accounts]),
        "debits_posted": array([account.debits_posted for account in accounts]),
        "credits_posted": array([account.credits_posted for account in accounts]),
    }
    if not reserves:
        return await conn.execute(_SQL.update_posted, parameters)
    parameters |= {
        "flags": array([int(account.flags) for account in accounts]),
        "debits_pending": array([account.debits_pending for account in accounts]),
        "credits_pending": array([account.credits_pending for account in accounts]),
    }
    return await conn.execute(_SQL.update_accounts, parameters)


def _places(places: Collection[Place]) -> dict[str, object]:
    return {
        "customer_ids": UuidArray([customer_id for customer_id, _ in places]),
        "ids": UuidArray([item_id for _, item_id in places]),
    }


_ACCOUNT_FLAGS = {int(flags): flags for flags in map(AccountFlags, range(2 * AccountFlags.CLOSED))}
_TRANSFER_FLAGS = {int(flags): flags for flags in map(TransferFlags, range(2 * TransferFlags.CLOSING_CREDIT))}


def _read_accounts(rows: list[tuple[Any, ...]]) -> list[Account]:
    return [
        Account(
            row[1], row[0], row[2], row[3], _ACCOUNT_FLAGS[row[4]], int(row[5]), int(row[6]), int(row[7]), int(row[8])
        )
        for row in rows
    ]


def _read_transfers(rows: list[tuple[Any, ...]]) -> list[Transfer]:
    return [
        Transfer(row[1], row[0], row[2], row[3], int(row[4]), row[5], row[6], _TRANSFER_FLAGS[row[7]], row[8], row[9])
        for row in rows
    ]


def _read_resolutions(rows: list[tuple[Any, ...]]) -> dict[int, Status]:
    return {
        pending_id.int: (
            Status.PENDING_TRANSFER_ALREADY_VOIDED if flags & _VOID else Status.PENDING_TRANSFER_ALREADY_POSTED
        )
        for pending_id, flags in rows
    }
