"""Moves the books from PostgreSQL to TigerBeetle, and proves that both say the same.

The journal is posted again, in its order, under the same ids. Every transfer finds what it found the first time, so a
limit that held holds again, and a balancing transfer, asked for the amount that stood, moves just that; TigerBeetle
answers its repetition, which asks for more, as one that exists. An id that failed stays failed: it is posted from an
account that does not exist, which TigerBeetle remembers as it would have remembered the true reason.

Nobody may post meanwhile, so the ledger's lock is held. What was copied is a beginning of the journal, whose end is
found by bisection: a copy that was stopped goes on there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.errors import Conflict, TallyError
from tallystick.kernel.ids import NIL, derived_id
from tallystick.ledger import home
from tallystick.ledger.contract import (
    BATCH_MAX,
    Account,
    AccountFlags,
    Result,
    Status,
    Transfer,
    TransferFlags,
)
from tallystick.ledger.postgres import Journal
from tallystick.ledger.tigerbeetle.addresses import Cluster
from tallystick.ledger.tigerbeetle.chains import chain_start

if TYPE_CHECKING:  # it loads a native library
    from tallystick.ledger.tigerbeetle.client import TigerBeetleClient

_SQL = Queries(Path(__file__).with_suffix(".sql"))

DIFFERENCES_SHOWN = 20

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


class CopyFailed(TallyError):
    """TigerBeetle does not accept what stands in the journal; what was copied so far stays."""

    code = "copy_failed"
    status = 409


@dataclass(frozen=True, slots=True)
class Proof:
    """How the two ledgers compare: how much was compared, and the first accounts that differ, in words."""

    accounts: int
    transfers: int
    failures: int
    different: int
    differences: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every account is the same on both sides."""
        return self.different == 0

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "equal": self.equal,
            "accounts": self.accounts,
            "transfers": self.transfers,
            "failures": self.failures,
            "different": self.different,
            "differences": list(self.differences),
        }


class Copy:
    """One run, in the caller's transaction. If both are equal in the end, TigerBeetle is the home of the books."""

    def __init__(
        self,
        conn: AsyncConnection,
        journal: Journal,
        client: TigerBeetleClient,
        cluster: Cluster,
        progress: Progress,
    ) -> None:
        self._conn = conn
        self._journal = journal
        self._client = client
        self._cluster = cluster
        self._progress = progress
        self._accounts = self._transfers = self._failures = 0

    async def run(self) -> Proof:
        """Copies what is not there yet, and compares.

        Raises ``Conflict`` if the books have been moved before, if something waits to be posted, or if the cluster has
        accounts of others; ``CopyFailed``, ``LedgerUnavailable``.
        """
        await self._journal.serialise(self._conn)
        if not await home.is_at_home(self._conn, None):
            raise Conflict(
                "the balances of these books are not kept by PostgreSQL any more: they have been moved before"
            )
        ((self._accounts, self._transfers, self._failures),) = await self._fetch(_SQL.size)
        ((promised,),) = await self._fetch(_SQL.is_promised)
        if promised:
            raise Conflict("transfers wait in the outbox: let the service deliver them, and repair what was refused")
        await self._refuse_strangers()
        await self._copy_accounts()
        await self._copy_transfers()
        await self._copy_failures()
        proof = await self._compare()
        if proof.equal:
            await home.move(self._conn, self._cluster)
        return proof

    async def _refuse_strangers(self) -> None:
        async for page in self._client.all_accounts():
            rows = await self._fetch(_SQL.known, ids=UuidArray([account.id for account in page]))
            if strangers := {account.id for account in page} - {id_ for (id_,) in rows}:
                raise Conflict(
                    f"the TigerBeetle cluster has accounts that these books do not know, such as {min(strangers)}"
                )

    async def _copy_accounts(self) -> None:
        done = 0
        async for page in self._pages():
            await self._client.create_accounts([opened for opened, _ in page])
            done += len(page)
            self._progress("accounts", done, self._accounts)

    async def _copy_transfers(self) -> None:
        done = await self._copied()
        while True:
            rows = await self._fetch(_SQL.transfers, after=done, limit=BATCH_MAX)
            if not rows:
                return
            transfers = [_read_transfer(*row) for row in rows]
            if len(transfers) == BATCH_MAX:
                transfers = transfers[: chain_start(transfers, 0, BATCH_MAX)]
            _insist(transfers, await self._client.create_transfers(transfers))
            done += len(transfers)
            self._progress("transfers", done, self._transfers)

    async def _copied(self) -> int:
        """The sequence number up to which transfers have been copied."""
        low, high = 0, self._transfers
        while low < high:
            middle = (low + high + 1) // 2
            ((transfer_id,),) = await self._fetch(_SQL.transfer_at, sequence=middle)
            if await self._client.lookup_transfers([transfer_id]):
                low = middle
            else:
                high = middle - 1
        return low

    async def _copy_failures(self) -> None:
        done, after = 0, (NIL, NIL)
        while page := await self._fetch(_SQL.failures, **_after(after), limit=BATCH_MAX):
            for transfer, result in zip(
                failing := [_failing(*place) for place in page],
                await self._client.create_transfers(failing),
                strict=True,
            ):
                if result.status not in (Status.DEBIT_ACCOUNT_NOT_FOUND, Status.ID_ALREADY_FAILED):
                    raise CopyFailed(
                        f"the transfer {transfer.id} has failed, but TigerBeetle says {result.status.value}"
                    )
            done, after = done + len(page), page[-1]
            self._progress("failures", done, self._failures)

    async def _compare(self) -> Proof:
        done = different = 0
        differences: list[str] = []
        async for page in self._pages():
            there = await self._client.lookup_accounts([account.id for _, account in page])
            for _, account in page:
                if there.get(account.id) != account:
                    different += 1
                    if len(differences) < DIFFERENCES_SHOWN:
                        differences.append(_difference(account, there.get(account.id)))
            done += len(page)
            self._progress("proof", done, self._accounts)
        return Proof(self._accounts, self._transfers, self._failures, different, tuple(differences))

    async def _pages(self) -> AsyncIterator[list[tuple[Account, Account]]]:
        """Every account as it was opened and as it stands, by customer and id."""
        words = {
            "closed": int(AccountFlags.CLOSED),
            "closes_debit": int(TransferFlags.CLOSING_DEBIT),
            "closes_credit": int(TransferFlags.CLOSING_CREDIT),
        }
        after = NIL, NIL
        while rows := await self._fetch(_SQL.accounts, **words, **_after(after), limit=BATCH_MAX):
            page: list[tuple[Account, Account]] = []
            for customer_id, id_, ledger, code, opened, flags, *sums in rows:
                new = Account(id_, customer_id, ledger, code, AccountFlags(opened))
                debits_pending, debits_posted, credits_pending, credits_posted = map(int, sums)
                page.append(
                    (
                        new,
                        new._replace(
                            flags=AccountFlags(flags),
                            debits_pending=debits_pending,
                            debits_posted=debits_posted,
                            credits_pending=credits_pending,
                            credits_posted=credits_posted,
                        ),
                    )
                )
            yield page
            after = rows[-1][:2]

    async def _fetch(self, query: str, **parameters: object) -> list[Any]:
        return await (await self._conn.execute(query, parameters)).fetchall()


def _read_transfer(customer_id: UUID, id_: UUID, debit_id: UUID, credit_id: UUID, amount: str, *rest: Any) -> Transfer:
    ledger, code, flags, cause_id, pending_id = rest
    return Transfer(
        id_, customer_id, debit_id, credit_id, int(amount), ledger, code, TransferFlags(flags), cause_id, pending_id
    )


def _after(place: tuple[UUID, UUID]) -> dict[str, object]:
    return {"after_customer_id": place[0], "after_id": place[1]}


def _insist(transfers: Sequence[Transfer], results: Sequence[Result]) -> None:
    for transfer, result in zip(transfers, results, strict=True):
        if result != Result(Status.CREATED, transfer.amount):
            raise CopyFailed(
                f"the transfer {transfer.id} stands with {transfer.amount} in the journal, but TigerBeetle answers"
                f" {result.status.value} with {result.amount}"
            )


def _failing(customer_id: UUID, transfer_id: UUID) -> Transfer:
    """One that cannot succeed, and whose id stays failed for that."""
    nowhere, neither = derived_id("nowhere", transfer_id), derived_id("neither", transfer_id)
    return Transfer(transfer_id, customer_id, nowhere, neither, 0, ledger=1, code=1)


def _difference(here: Account, there: Account | None) -> str:
    if there is None:
        return f"account {here.id}: TigerBeetle does not know it"
    fields = [
        f"{name} {getattr(here, name)} here, {getattr(there, name)} there"
        for name in Account._fields
        if getattr(here, name) != getattr(there, name)
    ]
    return f"account {here.id}: {'; '.join(fields)}"
