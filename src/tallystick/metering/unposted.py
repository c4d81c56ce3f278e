"""Usage that is charged but moves no money yet, because its payer is posted monthly: which months are to be posted."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, array

_SQL = Queries(Path(__file__).with_name("queries.sql"))


class UnpostedMonth(NamedTuple):
    """A customer's month (its first day) that has changed, and who is to pay for it; all as text."""

    customer: str
    period: str
    payer: str


async def note_unposted(conn: AsyncConnection, months: Collection[UnpostedMonth]) -> None:
    """Notes that these are to be posted, after their totals were raised in the same transaction."""
    if months:
        parameters = {
            "customer_ids": array(month.customer for month in months),
            "periods": array(month.period for month in months),
            "payer_ids": array(month.payer for month in months),
        }
        await conn.execute(_SQL.note_unposted, parameters)
