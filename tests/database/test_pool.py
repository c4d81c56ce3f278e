"""The pool for real: how its connections are set up, and what becomes of them when the server ends them."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from tallystick.database import pool as pool_module
from tallystick.database.pool import Pool, ServerTooOld, open_pool, redact, wait_for_server
from tallystick.kernel.errors import Unavailable

NOBODY_LISTENS = "postgresql://tally:s3cret@/tally?host=/nowhere"  # pragma: allowlist secret
NO_URL = "tally:s3cret@localhost"


async def test_connections_are_in_autocommit_mode_and_in_utc(pool: Pool) -> None:
    async with pool.connection() as connection:
        assert connection.autocommit
        cursor = await connection.execute("SELECT '2026-01-01 00:00+05'::timestamptz", binary=True)
        (instant,) = await cursor.fetchone() or ()
        assert instant == datetime(2025, 12, 31, 19, tzinfo=UTC)
        assert instant.utcoffset() == UTC.utcoffset(None)
        cursor = await connection.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        assert await cursor.fetchone() == ("tallystick",)


async def test_all_connections_are_opened_at_once(database_url: str) -> None:
    async with await open_pool(database_url, size=3) as pool, pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert await cursor.fetchone() == (3,)


async def test_connections_that_the_server_has_ended_are_not_handed_out(database_url: str) -> None:
    async with await open_pool(database_url, size=4) as pool:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:
            await other.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "  # waits until they have ended
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        for _ in range(8):
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")


@pytest.mark.parametrize("url", [NOBODY_LISTENS, NO_URL])
async def test_a_database_that_is_not_there(url: str) -> None:
    with pytest.raises(Unavailable) as refusal:
        await open_pool(url, size=1)
    assert "s3cret" not in str(refusal.value)


async def test_waiting_has_an_end() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        await wait_for_server(NOBODY_LISTENS, timeout_seconds=0.1)


async def test_a_server_that_is_too_old(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "OLDEST_SERVER_VERSION", 990000)
    with pytest.raises(ServerTooOld, match="15 or newer"):
        await open_pool(database_url, size=1)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://ann:s3cret@db.example:5433/books?sslpassword=s3cret",  # pragma: allowlist secret
            "user=ann host=db.example port=5433 dbname=books",
        ),
        ("host=/run/pg user=ann password=s3cret", "user=ann host=/run/pg"),
        (NO_URL, "unreadable database URL"),
        ("", ""),
    ],
)
def test_redacted_urls_name_the_database_without_secrets(url: str, shown: str) -> None:
    assert sorted(redact(url).split()) == sorted(shown.split())
