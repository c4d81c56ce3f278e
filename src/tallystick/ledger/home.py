"""Which ledger keeps the balances of these books: a service that took another one would count from nothing."""

from __future__ import annotations

from pathlib import Path

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.errors import TallyError
from tallystick.ledger.tigerbeetle.addresses import Cluster

_SQL = Queries(Path(__file__).with_suffix(".sql"))


class LedgerElsewhere(TallyError):
    """The balances are kept by another ledger than the settings say."""

    code = "ledger_elsewhere"
    status = 409


def name_of(cluster: Cluster | None) -> str:
    """The name of a ledger: by its number a cluster stays the same when it moves."""
    return "postgres" if cluster is None else f"tigerbeetle://{cluster.id}"


async def enter(conn: AsyncConnection, cluster: Cluster | None) -> None:
    """Makes this ledger the home of books in which nothing has moved yet, in the caller's transaction.

    Raises ``LedgerElsewhere`` if others are at home elsewhere.
    """
    await conn.execute(_SQL.lock)
    ((lived_in,),) = await (await conn.execute(_SQL.lived_in)).fetchall()
    if lived_in and not await is_at_home(conn, cluster):
        raise LedgerElsewhere(
            f"the balances of these books are kept by {await _home(conn)}, but TALLY_LEDGER says {name_of(cluster)}:"
            " set it right, or move the books with tally ledger copy"
        )
    await move(conn, cluster)


async def move(conn: AsyncConnection, cluster: Cluster | None) -> None:
    """Makes this ledger the home of the books, whatever is in them."""
    await conn.execute(_SQL.settle_in, {"name": name_of(cluster)})


async def is_at_home(conn: AsyncConnection, cluster: Cluster | None) -> bool:
    """Whether this ledger keeps the balances."""
    return await _home(conn) == name_of(cluster)


async def _home(conn: AsyncConnection) -> str:
    row = await (await conn.execute(_SQL.home)).fetchone()
    return str(row[0]) if row else name_of(None)
