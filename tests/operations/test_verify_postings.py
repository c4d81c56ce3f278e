"""What the proof says when somebody has tampered with postings, their lines, or what is noted to be posted."""

from __future__ import annotations

import pytest

from tallystick.database.pool import Connection
from tallystick.operations.verify import Verify
from tests.operations.damage import BUREAU, OFFICE, damage, detail, failed

MOVED, POSTINGS = "posted_equals_charged", "postings_accounted"
MONTH = f"customer_id = {BUREAU} and number = 0"
FIRST_LINE = f"customer_id = {OFFICE} and posting_id is not null and number = 2"
LAST_LINE = f"customer_id = {OFFICE} and posting_id is not null and number = 3"
TAKEN = f"code = 10 and customer_id = {BUREAU}"
POSTING, LINE = "returning 'posting ' || id", "returning 'of usage total ' || customer_id"

DAMAGES = {
    "a posting moved more than its lines say": (
        POSTINGS,
        f"update postings set amount = amount + 1 where {MONTH} {POSTING} || ': its lines sum to 1, found 1.000001'",
    ),
    "a posting is gone": (
        POSTINGS,
        f"delete from postings where {MONTH} {POSTING} || ': 1 lines belong to it, found no such posting'",
    ),
    "a posting is gone, and its transfer stands": (
        MOVED,
        f"delete from postings where {MONTH} returning 'transfer ' || id",
    ),
    "a posting is in somebody else's books": (
        MOVED,
        f"update postings set customer_id = {OFFICE} where {MONTH} returning 'transfer ' || id",
    ),
    "a posting is in another asset": (
        MOVED,
        f"update postings set ledger = 840 where {MONTH} returning 'transfer ' || id",
    ),
    "a posting has no lines": (
        POSTINGS,
        f"delete from posting_lines where {LAST_LINE} returning 'posting ' || posting_id || ': moved 1, found no line'",
    ),
    "a line costs something else": (
        POSTINGS,
        f"update posting_lines set amount = amount + 1 where {FIRST_LINE} {LINE}",
    ),
    "a line reaches farther": (
        POSTINGS,
        f"update posting_lines set quantity_after = quantity_after + 1 where {LAST_LINE} {LINE}",
    ),
    "a line begins elsewhere": (
        POSTINGS,
        f"update posting_lines set quantity_before = quantity_before + 1 where {LAST_LINE} {LINE}",
    ),
    "a line is out of order": (
        POSTINGS,
        f"update posting_lines set number = 7 where {LAST_LINE} returning 'expected number 3, found 7'",
    ),
    "a line is of another price": (
        POSTINGS,
        f"update posting_lines set price_id = customer_id where customer_id = {OFFICE}",
        "select 'there is no such price'",
    ),
    "a month is not noted any more": (
        POSTINGS,
        f"delete from unposted_usage where customer_id = {OFFICE} returning 'usage total office, 2026-03'",
    ),
    "a month is noted for somebody who does not pay": (
        POSTINGS,
        f"update unposted_usage set payer_id = {OFFICE} where customer_id = {OFFICE}"
        " returning 'unposted usage of office in 2026-03-01: expected it to be for bureau'",
    ),
    "a month is noted for somebody who is posted at once": (
        POSTINGS,
        f"update customers set posting_policy = 'immediate' where id = {BUREAU}"
        " returning 'expected nothing, since bureau is posted at once'",
    ),
    "a month is noted of nobody": (
        POSTINGS,
        f"update unposted_usage set customer_id = gen_random_uuid() where customer_id = {OFFICE}"
        " returning 'unposted usage of ' || customer_id || ' in 2026-03-01: found no such customer'",
    ),
    "a charge that was posted at once has lost its transfer": (
        MOVED,
        f"update measurements set transfer_id = null where customer_id = {OFFICE} and sender_id = 'own'"
        " returning 'found no charge for it'",
    ),
    "a debt was taken over by nobody": (
        POSTINGS,
        f"delete from ledger_transfers where {TAKEN}"
        " returning 'transfer ' || cause_id || ': 0.1 was taken over, found nobody who did'",
    ),
    "a debt was taken over that nobody had": (
        POSTINGS,
        f"delete from ledger_transfers where code = 10 and customer_id = {OFFICE} returning 'found nobody who owed it'",
    ),
    "more was taken over than was owed": (
        POSTINGS,
        f"update ledger_transfers set amount = 2 * amount where {TAKEN}"
        " returning 'transfer ' || id || ': took over 0.2, found 0.1 that was owed'",
    ),
    "who paid before is forgotten": (
        MOVED,
        f"delete from former_payers where customer_id = {OFFICE} returning 'found no such transfer'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_tampering_is_found_and_named(name: str, conn: Connection, verify: Verify) -> None:
    check, *statements = DAMAGES[name]
    named = await damage(conn, *statements)
    verdict = await verify.run(conn)
    assert check in failed(verdict)
    assert named in detail(verdict, check)


async def test_those_who_are_connected_are_proven_together(conn: Connection, verify: Verify) -> None:
    for key in ("office", "bureau"):
        verdict = await verify.run(conn, key)
        assert verdict.holds, verdict
        assert {check.name: check.checked for check in verdict.checks}["postings_accounted"] == 5


async def test_a_posting_that_waits_for_a_ledger_elsewhere_is_no_orphan(conn: Connection, verify: Verify) -> None:
    """Its description is written at once, its transfer when it has been delivered."""
    posted = f"id in (select id from postings where {MONTH})"
    columns = "customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags, created_at"
    promised = f"select {columns}, false from ledger_transfers where {posted}"
    await conn.execute(f"insert into ledger_outbox ({columns}, intent) {promised}".encode())
    await conn.execute(f"delete from ledger_transfers where {posted}".encode())
    assert "operations_accounted" not in failed(await verify.run(conn))
    await conn.execute("delete from ledger_outbox")
    assert "operations_accounted" in failed(await verify.run(conn))
