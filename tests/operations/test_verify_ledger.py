"""What the proof says of a ledger that somebody has tampered with, or that is not in the database.

The engine that really is elsewhere has tests of its own; what stands for it here answers from the database's accounts,
through the contract, so that the proof reads them as it reads those of an engine elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import pytest

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger.contract import Account, Opening, Result, Transfer, no_accounts
from tallystick.ledger.postgres import PostgresLedger
from tallystick.operations.verify import Verify
from tallystick.pricing.service import Pricing
from tests.operations.conftest import NOW
from tests.operations.damage import A_BILL, A_TRANSFER, ACME, DESK, SHOP, UNLIMITED, damage, detail, failed

WAITS = f"customer_id = {DESK} and flags = 2"
POST, VOID = f"customer_id = {DESK} and flags = 4", f"customer_id = {DESK} and flags = 8 and amount > 0"
RESOLVED = f"id = (select pending_id from ledger_transfers where {POST})"
CLOSED = f"customer_id = {DESK} and ledger = 1 and code = 5"
BATCH = "returning 'batch ' || first_sequence || '..' || last_sequence || ':'"
NUMBERED = "alter table ledger_transfers drop constraint ledger_transfers_sequence_key"
SWAPPED = "update ledger_transfers set sequence = {0} + {1} - sequence where sequence in ({0}, {1})"
OPEN = "(select id from holds where state = 'open')"
TAKEN = (
    "insert into ledger_transfers select t.customer_id, gen_random_uuid(), t.sequence + 1000, t.credit_account_id,"
    f" t.debit_account_id, {{0}}, t.ledger, 7, 0, {{1}}, now() from grants as g"
    f" join ledger_transfers as t on t.customer_id = g.customer_id and t.id = g.id"
    f" where g.customer_id = {DESK} and g.ledger = 1"
)
PUT_IN_OUTBOX = (
    "insert into ledger_outbox (customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags,"
    " cause_id, pending_id, intent, created_at) "
)

DAMAGES = {
    "a pending balance is forged": (
        "balances_equal_transfers",
        f"update ledger_accounts set debits_pending = debits_pending + 1 where customer_id = {DESK} and ledger = 1"
        " and code = 1 returning id || ': its pending transfers debit 1, found 1.000001'",
    ),
    "a pending balance is forged on the other side": (
        "balances_equal_transfers",
        f"update ledger_accounts set credits_pending = 0 where customer_id = {DESK} and ledger = 1"
        " and code = 3 returning id || ': its pending transfers credit 1, found 0'",
    ),
    "pending money is forged on one side": (
        "transfers_balance",
        f"update ledger_accounts set credits_pending = 0 where customer_id = {DESK} and ledger = 1 and code = 3"
        " returning 'asset CREDIT: pending debits 2, pending credits 1'",
    ),
    "a pending transfer is deleted": (
        "balances_equal_transfers",
        f"delete from ledger_transfers where {WAITS} and amount = 1000000 returning debit_account_id",
    ),
    "a pending transfer counts as moved": (
        "balances_equal_transfers",
        f"update ledger_transfers set flags = 0 where {WAITS} and amount = 1000000 returning debit_account_id",
    ),
    "a closed account is opened": (
        "balances_equal_transfers",
        f"update ledger_accounts set flags = 0 where {CLOSED} returning id || ': 1 transfers close it, found it open'",
    ),
    "an open account is closed": (
        "balances_equal_transfers",
        f"update ledger_accounts set flags = 32 where customer_id = {DESK} and ledger = 840 and code = 5"
        " returning id || ': 0 transfers close it, found it closed'",
    ),
    "more is reserved than there is": (
        "limits_hold",
        UNLIMITED,
        "update ledger_accounts set debits_pending = credits_posted - debits_posted + 1"
        f" where customer_id = {DESK} and ledger = 1 and code = 1 returning id",
    ),
    "arrears are owed while the wallet holds credits": (
        "limits_hold",
        f"update ledger_accounts set debits_posted = debits_posted + 7 where customer_id = {DESK} and ledger = 1"
        " and code = 2 returning 'desk in CREDIT: expected arrears to be repaid first, found 0.000007 owed'",
    ),
    "a post loses what it posts": (
        "pending_resolved_once",
        f"delete from ledger_transfers where {RESOLVED} returning 'found no transfer ' || id",
    ),
    "a post moves more than was pending": (
        "pending_resolved_once",
        f"update ledger_transfers set amount = 3000001 where {POST} returning id || ': resolves 3.000001 of '",
    ),
    "a void gives back less than was pending": (
        "pending_resolved_once",
        f"update ledger_transfers set amount = amount - 1 where {VOID} returning id || ': resolves 1.999999 of '",
    ),
    "a post moves money between other accounts": (
        "pending_resolved_once",
        "update ledger_transfers set debit_account_id = credit_account_id, credit_account_id = debit_account_id"
        f" where {POST} returning id || ': expected the accounts, asset and code of ' || pending_id",
    ),
    "a post is for another reason": (
        "pending_resolved_once",
        f"update ledger_transfers set code = 3 where {POST} returning id || ': expected the accounts, asset and code'",
    ),
    "what was posted was never pending": (
        "pending_resolved_once",
        f"update ledger_transfers set flags = 0 where {RESOLVED}"
        " returning 'expected it to resolve a pending transfer, found ' || id || ' with flags 0'",
    ),
    "a transfer both posts and voids": (
        "pending_resolved_once",
        f"update ledger_transfers set flags = 12 where {POST} returning id || ': expected it to post or to void'",
    ),
    "a post comes before what it posts": (
        "pending_resolved_once",
        f"update ledger_transfers set sequence = -1 where {POST} returning id || ': resolves '"
        " || pending_id || ', which came after it'",
    ),
    "a pending transfer is resolved twice": (
        "pending_resolved_once",
        "drop index ledger_transfers_pending",
        "insert into ledger_transfers select customer_id, gen_random_uuid(), sequence + 1000, debit_account_id,"
        f" credit_account_id, amount, ledger, code, 4, cause_id, created_at, pending_id from ledger_transfers"
        f" where {VOID} returning pending_id || ': expected it to be resolved once, found 2 times'",
    ),
    "a batch is removed": (
        "transfers_sealed",
        "delete from ledger_batches where first_sequence = 4 returning 'batch 6..6: expected it to begin at 4'",
    ),
    "the newest batch is removed": (
        "transfers_sealed",
        "delete from ledger_batches where last_sequence = (select max(last_sequence) from ledger_batches)"
        " returning 'found no batch with its sequence number ' || first_sequence",
    ),
    "a batch claims transfers of another one": (
        "transfers_sealed",
        "update ledger_batches set first_sequence = 5 where first_sequence = 4"
        " returning 'batch 5..5: expected it to begin at 4'",
    ),
    "a batch's hash is forged": (
        "transfers_sealed",
        f"update ledger_batches set hash = sha256('') where first_sequence = 4 {BATCH}",
    ),
    "a batch is put in": (
        "transfers_sealed",
        "insert into ledger_batches select last_sequence + 5, last_sequence + 1, hash from ledger_batches"
        f" order by last_sequence desc limit 1 {BATCH}"
        " || ' its hash is not that of its transfers: expected 5, found 0'",
    ),
    "two transfers of a batch are exchanged": (
        "transfers_sealed",
        NUMBERED,
        SWAPPED.format(4, 5),
        "select 'batch 4..5: its hash is not that of its transfers: one of 2, from ' || id from ledger_transfers"
        " where sequence = 4",
    ),
    "two batches are exchanged": (
        "transfers_sealed",
        NUMBERED,
        SWAPPED.format(6, 11),
        "select 'batch 6..6: its hash is not that of its transfers: transfer ' || id from ledger_transfers"
        " where sequence = 6",
    ),
    "a batch and its transfers are exchanged with another one": (
        "transfers_sealed",
        NUMBERED,
        SWAPPED.format(6, 11),
        "update ledger_batches as b set hash = o.hash from ledger_batches as o where b.first_sequence in (6, 11)"
        " and o.first_sequence = 17 - b.first_sequence",
        "select 'batch 11..11: its hash is not that of its transfers: transfer ' || id from ledger_transfers"
        " where sequence = 11",
    ),
    "a transfer is dated back, alone in its batch": (
        "transfers_sealed",
        f"update ledger_transfers set created_at = created_at - interval '1 microsecond' where {A_BILL}"
        " returning 'its hash is not that of its transfers: transfer ' || id",
    ),
    "one transfer of a batch is dated back": (
        "transfers_sealed",
        "update ledger_transfers set created_at = created_at - interval '1 day' where sequence = 22"
        " returning 'batch 20..27: its hash is not that of its transfers: not all of them are of '"
        " || '2026-03-20 12:00:00+00, but ' || id || ' of 2026-03-19 12:00:00+00'",
    ),
    "a transfer of a batch is deleted": (
        "transfers_sealed",
        f"delete from ledger_transfers where {VOID}"
        " returning 'batch 20..27: its hash is not that of its transfers: expected 8, found 7'",
    ),
    "a transfer is given to another customer who has such accounts": (
        "transfers_sealed",
        f"update ledger_transfers as t set customer_id = {SHOP}, debit_account_id = d.id, credit_account_id = c.id"
        f" from ledger_accounts as d, ledger_accounts as c where t.code = 3 and t.customer_id = {ACME} and"
        f" d.customer_id = {SHOP} and d.code = 1 and c.customer_id = {SHOP} and c.code = 3"
        " returning 'its hash is not that of its transfers: transfer ' || t.id",
    ),
    "a transfer is of another cause": (
        "transfers_sealed",
        f"update ledger_transfers set cause_id = gen_random_uuid() where {A_BILL}"
        " returning 'its hash is not that of its transfers: transfer ' || id",
    ),
    "a refusal is removed": (
        "failures_stand",
        "delete from ledger_failures where number = 1"
        " returning 'expected number 1 after 0, found 2 of transfer '"
        " || (select id from ledger_failures where number = 2)",
    ),
    "what was refused is in the books": (
        "failures_stand",
        "insert into ledger_failures select customer_id, id, 'exceeds_credits', created_at from ledger_transfers"
        f" where {A_BILL} returning id || ': was refused for good (exceeds_credits), found it in the books'",
    ),
    "a refusal is for another reason": (
        "failures_stand",
        "update ledger_failures set status = 'created' where number = 1"
        " returning id || ': found it refused for good for a reason that is none'",
    ),
    "a usage transfer waits though it stands in the books": (
        "posted_equals_charged",
        PUT_IN_OUTBOX + "select customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags,"
        f" cause_id, pending_id, false, created_at from ledger_transfers where {A_TRANSFER}"
        " returning id || ': found it in the books and still waiting'",
    ),
    "a transfer waits for a ledger that there is not": (
        "posted_equals_charged",
        PUT_IN_OUTBOX + "select customer_id, gen_random_uuid(), debit_account_id, credit_account_id, amount, ledger,"
        f" code, flags, cause_id, pending_id, false, created_at from ledger_transfers where {A_BILL} returning id",
    ),
    "a hold loses its transfer": (
        "holds_accounted",
        f"delete from ledger_transfers where id = {OPEN}"
        " returning 'hold ' || id || ': found no transfer that reserves it'",
    ),
    "a hold is raised": (
        "holds_accounted",
        f"update holds set amount = 9000000 where id = {OPEN}"
        " returning 'hold ' || id || ': expected 9 to be reserved, found a transfer of 1 with flags 2'",
    ),
    "an open hold is closed": (
        "holds_accounted",
        f"update holds set state = 'released', closed_at = now() where id = {OPEN}"
        " returning 'hold ' || id || ': is released, found it still pending'",
    ),
    "a settled hold is opened": (
        "holds_accounted",
        "update holds set state = 'open', settled_amount = 0, closed_at = null where settled_amount = 1000000"
        " returning 'hold ' || id || ': is open, found it resolved by transfer '",
    ),
    "a settled hold is released": (
        "holds_accounted",
        "update holds set state = 'released', settled_amount = 0 where settled_amount = 1000000"
        " returning 'hold ' || id || ': is released, found it posted by transfer '",
    ),
    "a released hold is settled": (
        "holds_accounted",
        "update holds set state = 'settled', settled_amount = 1 where state = 'released'"
        " returning 'hold ' || id || ': is settled, found it voided by transfer '",
    ),
    "a hold was settled with less": (
        "holds_accounted",
        "update holds set settled_amount = 999999 where settled_amount = 1000000"
        " returning 'hold ' || id || ': was settled with 0.999999, found 1'",
    ),
    "an excess is forged": (
        "holds_accounted",
        "update holds set excess = excess + 1000000 where excess > 0"
        " returning 'hold ' || id || ': an excess of 3 was charged, found 2'",
    ),
    "an excess is deleted from the books": (
        "holds_accounted",
        "delete from ledger_transfers where code = 6 and cause_id is not null"
        " returning 'hold ' || cause_id || ': an excess of 2 was charged, found 0'",
    ),
    "a hold is deleted": (
        "holds_accounted",
        f"delete from holds where id = {OPEN} returning 'transfer ' || id || ': reserves 1, found no hold of it'",
    ),
    "a grant is raised": (
        "grants_accounted",
        f"update grants set amount = amount + 1000000 where customer_id = {DESK} and ledger = 1"
        " returning 'grant ' || id || ': expected 11 to have come in, found 10 in asset CREDIT'",
    ),
    "a grant is of another asset": (
        "grants_accounted",
        f"update grants set ledger = 840 where customer_id = {DESK} and ledger = 1"
        " returning 'grant ' || id || ': expected 10 to have come in, found 10 in asset CREDIT'",
    ),
    "a grant never came in": (
        "grants_accounted",
        f"delete from ledger_transfers where customer_id = {DESK} and code = 1 and ledger = 1"
        " returning 'grant ' || id || ': is granted, found no transfer by which it came in'",
    ),
    "a grant comes in again later": (
        "grants_accounted",
        f"update grants set state = 'scheduled' where customer_id = {DESK} and ledger = 1"
        " returning 'grant ' || id || ': is scheduled, found it in the books'",
    ),
    "a grant came into another account": (
        "grants_accounted",
        "update ledger_transfers as t set credit_account_id = a.id from ledger_accounts as a"
        f" where t.customer_id = {DESK} and t.code = 1 and t.ledger = 1"
        " and a.customer_id = t.customer_id and a.ledger = 1 and a.code = 3"
        " returning 'grant ' || t.id || ': expected it to have come into a wallet, found account ' || a.id",
    ),
    "a grant is taken away though it has not ended": (
        "grants_accounted",
        TAKEN.format("g.amount", "g.id")
        + " returning 'grant ' || cause_id || ': is granted with 10, found 10 taken away'",
    ),
    "more is taken away than was granted": (
        "grants_accounted",
        f"update grants set state = 'expired' where customer_id = {DESK} and ledger = 1",
        TAKEN.format("g.amount + 1", "g.id")
        + " returning 'grant ' || cause_id || ': is expired with 10, found 10.000001'",
    ),
    "something expires that is of no grant": (
        "grants_accounted",
        TAKEN.format("1000000", "gen_random_uuid()")
        + " returning 'transfer ' || id || ': takes away 1, found no grant ' || cause_id",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_tampering_is_found_and_named(name: str, conn: Connection, verify: Verify) -> None:
    check, *statements = DAMAGES[name]
    named = await damage(conn, *statements)
    verdict = await verify.run(conn)
    assert check in failed(verdict)
    assert named in detail(verdict, check)


class Elsewhere:
    """``contract.Ledger``, of which the proof does not know that its balances are in the database.

    ``conn`` sees what the test has done; ``lies`` are added to the posted debits of accounts.
    """

    def __init__(self, conn: Connection) -> None:
        self._ledger = PostgresLedger(TestClock(NOW))
        self._conn = conn
        self.lies: dict[UUID, int] = {}
        self.unknown: set[UUID] = set()

    async def serialise(self, conn: Connection) -> None:
        await self._ledger.serialise(conn)

    async def create_accounts(self, conn: Connection, accounts: Sequence[Account]) -> None:
        raise NotImplementedError

    async def post(
        self, conn: Connection, transfers: Sequence[Transfer], opening: Opening = no_accounts
    ) -> list[Result]:
        raise NotImplementedError

    async def promise(self, conn: Connection, transfers: Sequence[Transfer], opening: Opening = no_accounts) -> None:
        raise NotImplementedError

    async def accounts(
        self, conn: Connection, ids: Collection[tuple[UUID, UUID]], *, serialised: bool = False
    ) -> dict[UUID, Account]:
        assert serialised, "nobody may post meanwhile"
        query = (
            "select count(*) from pg_locks where locktype = 'advisory' and classid = 7411 and objid = 1 and granted"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        assert await (await conn.execute(query)).fetchone() == (1,)
        found = await self._ledger.accounts(self._conn, ids)
        await self._conn.execute(
            "update ledger_accounts set debits_posted = 0, credits_posted = 0, debits_pending = 0,"
            " credits_pending = 0, flags = flags & ~32"
        )
        return {
            account_id: account._replace(debits_posted=account.debits_posted + self.lies.get(account_id, 0))
            for account_id, account in found.items()
            if account_id not in self.unknown
        }


@pytest.fixture
def elsewhere(conn: Connection) -> Elsewhere:
    return Elsewhere(conn)


@pytest.fixture
def verify_elsewhere(pricing: Pricing, beside: Pool, elsewhere: Elsewhere) -> Verify:
    return Verify(pricing, elsewhere, beside)


async def test_balances_are_those_of_the_ledger_wherever_it_is(conn: Connection, verify_elsewhere: Verify) -> None:
    """The sums in the database's own accounts stay 0 then."""
    verdict = await verify_elsewhere.run(conn)
    assert verdict.holds, [check for check in verdict.checks if not check.holds]
    (sums,) = await (await conn.execute("select sum(debits_posted) from ledger_accounts")).fetchall()
    assert sums == (0,)


async def test_a_balance_that_a_ledger_elsewhere_has_wrong_is_named(
    conn: Connection, elsewhere: Elsewhere, verify_elsewhere: Verify
) -> None:
    query = f"select id from ledger_accounts where customer_id = {ACME} and ledger = 1 and code in (1, 3) order by code"
    wrong, unknown = [row[0] for row in await (await conn.execute(query)).fetchall()]
    elsewhere.lies[wrong] = 1
    elsewhere.unknown.add(unknown)
    verdict = await verify_elsewhere.run(conn)
    assert f"account {wrong}: its transfers debit 3.639041, found 3.639042" in detail(
        verdict, "balances_equal_transfers"
    )
    assert f"account {unknown}: the ledger does not know it" in detail(verdict, "balances_equal_transfers")


MOVE_TO_OUTBOX = (
    "with gone as (delete from ledger_transfers where sequence = (select max(sequence) from ledger_transfers)"
    " returning *)"
    + PUT_IN_OUTBOX
    + "select customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags, cause_id, pending_id,"
    " false, created_at from gone returning id"
)
"""Lets the last transfer, usage of ``solo``, wait to be posted."""


@pytest.mark.parametrize("posted", [True, False], ids=["noted before it was written down", "not posted"])
async def test_what_waits_for_a_ledger_elsewhere_is_no_difference(
    conn: Connection, verify_elsewhere: Verify, posted: bool
) -> None:
    """Whether or not the ledger has done it already, only without anybody here having heard of it."""
    await damage(conn, MOVE_TO_OUTBOX)
    await conn.execute("delete from ledger_batches where last_sequence > (select max(sequence) from ledger_transfers)")
    if not posted:
        await conn.execute(
            "update ledger_accounts as a set debits_posted = debits_posted - 2000000 from ledger_outbox as o"
            " where a.id = o.debit_account_id"
        )
        await conn.execute(
            "update ledger_accounts as a set credits_posted = credits_posted - 2000000 from ledger_outbox as o"
            " where a.id = o.credit_account_id"
        )
    verdict = await verify_elsewhere.run(conn)
    assert verdict.holds, [check for check in verdict.checks if not check.holds]
    assert detail(verdict, "posted_equals_charged").endswith("; 1 transfers wait for the ledger")


async def test_a_lost_promise_is_named(conn: Connection, verify_elsewhere: Verify) -> None:
    """A charge whose transfer stands neither in the books nor waits."""
    lost = await damage(conn, MOVE_TO_OUTBOX)
    await conn.execute("delete from ledger_outbox")
    verdict = await verify_elsewhere.run(conn)
    assert f"transfer {lost}: expected 2 in the books of solo for its charges, found no such transfer" in detail(
        verdict, "posted_equals_charged"
    )


async def test_a_promise_that_was_changed_while_it_waits_is_named(conn: Connection, verify_elsewhere: Verify) -> None:
    changed = await damage(conn, MOVE_TO_OUTBOX)
    await conn.execute("update ledger_outbox set amount = 1")
    verdict = await verify_elsewhere.run(conn)
    assert f"transfer {changed}: its charges sum to 2, found 0.000001" in detail(verdict, "posted_equals_charged")


async def test_a_promise_that_was_refused_is_named(conn: Connection, verify_elsewhere: Verify) -> None:
    refused = await damage(conn, MOVE_TO_OUTBOX)
    await conn.execute("update ledger_outbox set refused = 'exceeds_credits'")
    verdict = await verify_elsewhere.run(conn)
    assert f"transfer {refused}: was promised, but the ledger refused it: exceeds_credits" in detail(
        verdict, "posted_equals_charged"
    )


async def test_an_exchange_elsewhere_whose_caller_died_before_it_was_written_down_is_no_difference(
    conn: Connection, verify: Verify, verify_elsewhere: Verify
) -> None:
    """Its transfers stand. On the ledger of the database it would be one: there, all of it commits together."""
    await conn.execute("delete from exchanges where to_ledger = 978")
    assert failed(await verify.run(conn)) == {"exchanges_accounted"}
    assert (await verify_elsewhere.run(conn)).holds
