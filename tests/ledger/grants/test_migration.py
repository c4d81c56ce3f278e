"""What came in before there were grants: each becomes one, and is used up as if it had always been."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg

from tallystick.database.migrate import MIGRATIONS, migrate
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import TransferFlags
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import AccountCode, Movement, Payer, TransferCode, Wallets, transfer_of
from tallystick.service import open_service
from tallystick.settings import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ADA, BOB = Payer(UUID(int=1), "prepaid"), Payer(UUID(int=2), "postpaid")
CREDITS, DOLLARS = 1, 840


async def test_what_came_in_before_is_granted(empty_database_url: str, tmp_path: Path) -> None:
    for name in sorted(MIGRATIONS.glob("*.sql")):
        if name.name < "0004":
            shutil.copy(name, tmp_path)
    migrate(empty_database_url, tmp_path)
    await fill(empty_database_url)
    clock = TestClock(NOW + timedelta(days=1))
    settings = Settings(dev=True, database_pool_size=4)
    async with (
        open_service(settings, empty_database_url, clock) as service,
        service.pool.connection() as conn,
        conn.transaction(),
    ):
        shown = [
            (s.grant.id.int, s.grant.ledger, s.grant.category, s.grant.reason, s.used, s.remaining)
            for payer in (ADA, BOB)
            for s in (await service.grants.page(conn, payer.id, None, None, 100)).items
        ]
        assert await service.grants.run_due(conn, clock.now(), 100) == 0
        rows = await conn.execute("select distinct state, priority, expires_at, source, effective_at from grants")
        assert await rows.fetchall() == [("granted", 100, None, "", NOW)]
    assert sorted(shown) == [
        (1, CREDITS, "promotional", "start", 10, 0),
        (2, CREDITS, "paid", None, 5, 15),
        (3, DOLLARS, "paid", None, 0, 7),
        (4, CREDITS, "promotional", None, 30, 0),
    ]


async def fill(url: str) -> None:
    """Ada has used 15 of 30 credits, Bob 40 of 30. A reserved or empty income is none."""
    ledger = PostgresLedger(TestClock(NOW))
    wallets = Wallets(ledger)

    def moves(number: int, amount: int, payer: Payer = ADA, ledger: int = CREDITS) -> Movement:
        return Movement(UUID(int=number), payer, ledger, amount)

    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute("alter table ledger_accounts add column alarm_at numeric")  # which the ledger of today has
        for payer, key in ((ADA, "ada"), (BOB, "bob")):
            await conn.execute(
                "insert into customers (id, key, credit_policy, created_at) values (%s, %s, %s, %s)",
                (payer.id, key, payer.credit_policy, NOW),
            )
        await wallets.grant(conn, [moves(1, 10), moves(4, 30, BOB)], TransferCode.GRANT)
        await wallets.grant(conn, [moves(2, 20), moves(3, 7, ledger=DOLLARS), moves(5, 0)], TransferCode.TOP_UP)
        await conn.execute(
            "insert into wallet_operations (customer_id, transfer_id, type, description)"
            " values (%s, %s, 'grant', 'start')",
            (ADA.id, UUID(int=1)),
        )
        await wallets.bill(conn, [moves(6, 15), moves(7, 40, BOB)])
        pending = transfer_of(
            moves(8, 9), AccountCode.GRANTED, AccountCode.WALLET, TransferCode.GRANT, TransferFlags.PENDING
        )
        await wallets.post(conn, [[pending]], [moves(8, 9)])
        await conn.execute("alter table ledger_accounts drop column alarm_at")
