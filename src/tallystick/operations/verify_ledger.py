"""Proves the ledger: every transfer stands as it was posted, and the balances are what the transfers say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries, UuidArray, array
from tallystick.ledger.contract import BATCH_MAX, TRANSIENT, Account, AccountFlags, Ledger, TransferFlags
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import AccountCode, TransferCode
from tallystick.operations.findings import Examination

_SQL = Queries(Path(__file__).with_suffix(".sql"))

WORDS: dict[str, object] = {
    "wallet": AccountCode.WALLET.value,
    "arrears": AccountCode.ARREARS.value,
    "used": AccountCode.USED.value,
    "granted": AccountCode.GRANTED.value,
    "expired": AccountCode.EXPIRED.value,
    "exchanged": AccountCode.EXCHANGED.value,
    "usage": TransferCode.USAGE.value,
    "grant": TransferCode.GRANT.value,
    "top_up": TransferCode.TOP_UP.value,
    "bill": TransferCode.BILL.value,
    "hold": TransferCode.HOLD.value,
    "exchange": TransferCode.EXCHANGE.value,
    "takeover": TransferCode.TAKEOVER.value,
    "incomes": [TransferCode.GRANT.value, TransferCode.TOP_UP.value, TransferCode.EXCHANGE.value],
    "taking": [TransferCode.EXPIRY.value, TransferCode.GRANT_VOIDED.value],
    "debits_limited": AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS.value,
    "credits_limited": AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS.value,
    "closed": AccountFlags.CLOSED.value,
    "pending": TransferFlags.PENDING.value,
    "voids": TransferFlags.VOID_PENDING.value,
    "resolves": (TransferFlags.POST_PENDING | TransferFlags.VOID_PENDING).value,
    "moves_nothing": (TransferFlags.PENDING | TransferFlags.VOID_PENDING).value,
    "closes_debit": TransferFlags.CLOSING_DEBIT.value,
    "closes_credit": TransferFlags.CLOSING_CREDIT.value,
    "transient": [status.value for status in TRANSIENT],
}
"""The parameters by which queries know codes and flags."""


class LedgerProof:
    """The checks of the ledger, in one run."""

    def __init__(self, examination: Examination, elsewhere: Sequence[Account] | None) -> None:
        """``elsewhere`` is what ``balances_elsewhere`` gave."""
        self._examination = examination
        self._balances = ""
        examination.parameters |= WORDS | {"elsewhere": elsewhere is not None}
        if elsewhere is not None:
            self._balances = f"with ledger_accounts as ({_SQL.elsewhere}) "
            examination.parameters |= _columns(elsewhere)

    async def transfers(self) -> None:
        """Every transfer by itself, and that none was changed, removed, put in or moved since it was posted."""
        run = self._examination
        order = [_SQL.sequence] if run.whole else []
        await run.count("transfers_balance", _SQL.transfers, _SQL.assets, *order, preamble=self._balances)
        await run.fetch(_SQL.plan, mode="force_generic_plan")
        await run.count("transfers_sealed", *([_SQL.batches, _SQL.unsealed] if run.whole else []))
        await run.fetch(_SQL.plan, mode="auto")
        await run.count("pending_resolved_once", _SQL.resolutions)
        await run.count("failures_stand", _SQL.failures, *([_SQL.numbered_failures] if run.whole else []))

    async def balances(self) -> None:
        """The accounts against the transfers, and against what they may not be."""
        run = self._examination
        await run.count("balances_equal_transfers", _SQL.accounts, preamble=self._balances)
        await run.count("limits_hold", _SQL.limits, _SQL.arrears, preamble=self._balances)

    async def usage(self) -> None:
        """What was charged against what has moved, or will have as soon as a ledger elsewhere has carried it out."""
        run = self._examination
        await run.count("posted_equals_charged", _SQL.movements, _SQL.unposted, _SQL.stranded)
        ((underway,),) = await run.fetch(_SQL.underway)
        if underway:
            run["posted_equals_charged"].notes.append(f"{underway:,} transfers wait for the ledger")

    async def grants(self) -> None:
        """What was given, and what is reserved, against what became of it."""
        run = self._examination
        await run.count("grants_accounted", _SQL.grants, _SQL.given, _SQL.taken, preamble=self._balances)
        await run.count("holds_accounted", _SQL.holds, _SQL.unheld)


@asynccontextmanager
async def standstill(ledger: Ledger, pool: Pool) -> AsyncIterator[Connection | None]:
    """Where the ledger is outside of the database, nobody posts until this ends: it gives the connection that says so.

    What begins to look at the database meanwhile sees the transfers that make up the balances there, and no others.
    """
    if isinstance(ledger, PostgresLedger):
        yield None
    else:
        async with pool.connection() as conn, conn.transaction():
            await ledger.serialise(conn)
            yield conn


async def balances_elsewhere(
    conn: Connection, beside: Connection | None, ledger: Ledger, books: list[UUID] | None
) -> list[Account] | None:
    """The accounts, as ``conn`` sees them, with what a ledger outside of the database says of them; else ``None``.

    ``beside`` is the connection of a ``standstill``. Takes some seconds and some hundred megabytes per million
    accounts. Raises ``LedgerUnavailable``.
    """
    if beside is None:
        return None
    places = await (await conn.execute(_SQL.account_ids, {"books": books}, prepare=False)).fetchall()
    found: list[Account] = []
    for start in range(0, len(places), BATCH_MAX):
        accounts = await ledger.accounts(beside, places[start : start + BATCH_MAX], serialised=True)
        found += accounts.values()
    return found


def _columns(accounts: Sequence[Account]) -> dict[str, object]:
    return {
        "ids": UuidArray(account.id for account in accounts),
        "flags": array(int(account.flags) for account in accounts),
        "debits_pending": array(account.debits_pending for account in accounts),
        "debits_posted": array(account.debits_posted for account in accounts),
        "credits_pending": array(account.credits_pending for account in accounts),
        "credits_posted": array(account.credits_posted for account in accounts),
    }
