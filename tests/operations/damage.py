"""Damaging books within a transaction that is taken back, and what a verdict says of it."""

from __future__ import annotations

from tallystick.database.pool import Connection
from tallystick.operations.verify import Verdict

ACME, BUREAU, DESK, LAB, MINT, OFFICE, SHOP, SOLO = (
    f"(select id from customers where key = '{key}')"
    for key in ("acme", "bureau", "desk", "lab", "mint", "office", "shop", "solo")
)
A_CHARGE = f"customer_id = {ACME} and sender_id = 'month'"
A_BILL = f"code = 3 and customer_id = {ACME}"
A_TRANSFER = f"id = (select transfer_id from measurements where {A_CHARGE})"
UNLIMITED = "alter table ledger_accounts drop constraint debits_must_not_exceed_credits"
CHARGE = "returning customer_id || '.' || id"


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.holds}


def detail(verdict: Verdict, name: str) -> str:
    return next(check.detail for check in verdict.checks if check.name == name)


async def damage(conn: Connection, *statements: str) -> str:
    """Runs statements, the last of which returns what the verdict must name."""
    for statement in statements[:-1]:
        await conn.execute(statement)
    rows = await (await conn.execute(statements[-1])).fetchall()
    assert len(rows) == 1, "the damage must hit exactly one row"
    return str(rows[0][0])
