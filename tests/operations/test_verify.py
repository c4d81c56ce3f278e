"""The proof of the books: it holds for what the real parts made, and finds every kind of damage, by name."""

from __future__ import annotations

import psycopg
import pytest

from tallystick.database.pool import Connection, open_pool
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.operations.verify import CHECKS, Verify, snapshot
from tallystick.service import open_service
from tallystick.settings import Settings
from tests.metering.books import DYNAMIC, MARCH, PER_UNIT, create_price, fetch, measurement, submit
from tests.operations.conftest import CREDIT, NOW
from tests.operations.damage import (
    A_BILL,
    A_CHARGE,
    A_TRANSFER,
    ACME,
    CHARGE,
    LAB,
    SHOP,
    UNLIMITED,
    damage,
    detail,
    failed,
)


async def test_the_books_hold(conn: Connection, verify: Verify) -> None:
    verdict = await verify.run(conn)
    assert verdict.holds, [check for check in verdict.checks if not check.holds]
    assert [check.name for check in verdict.checks] == list(CHECKS)
    assert all(check.checked > 0 for check in verdict.checks)
    assert all(check.detail.startswith("0 differences in ") for check in verdict.checks)


async def test_everything_is_looked_at(conn: Connection, verify: Verify) -> None:
    async def count(query: str) -> int:
        (number,) = await (await conn.execute(query)).fetchone() or (0,)
        return int(number)

    checked = {check.name: check.checked for check in (await verify.run(conn)).checks}
    assert checked["transfers_balance"] == await count("select count(*) from ledger_transfers")
    assert checked["balances_equal_transfers"] == await count("select count(*) from ledger_accounts")
    assert checked["totals_equal_measurements"] == await count("select count(*) from usage_totals")
    assert checked["charges_follow_arithmetic"] == await count("select count(amount) from measurements")
    assert checked["measurements_accounted"] == await count("select count(*) from measurements")


async def test_an_empty_store_holds(database_url: str, verify: Verify) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        verdict = await verify.run(connection)
    assert verdict.holds
    assert {check.checked for check in verdict.checks} == {0}


DAMAGES = {
    "an account is deleted": (
        "transfers_balance",
        f"delete from ledger_accounts where customer_id = {ACME} and ledger = 1 and code = 3 returning id",
    ),
    "a transfer is moved to another customer": (
        "transfers_balance",
        f"update ledger_transfers set customer_id = {SHOP} where {A_TRANSFER} returning id",
    ),
    "a transfer is moved to another asset": (
        "transfers_balance",
        f"update ledger_transfers set ledger = 840 where {A_TRANSFER} returning id",
    ),
    "a transfer is negative": (
        "transfers_balance",
        "alter table ledger_transfers drop constraint ledger_transfers_amount_check",
        f"update ledger_transfers set amount = -amount where {A_TRANSFER} returning id",
    ),
    "a transfer has a gap before it": (
        "transfers_balance",
        f"delete from ledger_transfers where {A_TRANSFER} returning 'expected sequence number ' || sequence",
    ),
    "the last transfer is given a later number": (
        "transfers_balance",
        "update ledger_transfers set sequence = sequence + 7"
        " where sequence = (select max(sequence) from ledger_transfers) returning 'found ' || sequence",
    ),
    "money is forged on one side": (
        "transfers_balance",
        f"update ledger_accounts set credits_posted = credits_posted + 1 where customer_id = {ACME} and ledger = 840"
        " and code = 1 returning 'asset USD'",
    ),
    "a transfer is deleted": (
        "balances_equal_transfers",
        f"delete from ledger_transfers where {A_BILL} returning debit_account_id",
    ),
    "a transfer's amount is changed": (
        "balances_equal_transfers",
        f"update ledger_transfers set amount = amount + 1 where {A_TRANSFER} returning debit_account_id",
    ),
    "a balance is forged": (
        "balances_equal_transfers",
        f"update ledger_accounts set credits_posted = credits_posted + 1 where customer_id = {ACME} and ledger = 1"
        " and code = 1 returning id",
    ),
    "a prepaid wallet is overdrawn": (
        "limits_hold",
        UNLIMITED,
        "update ledger_accounts set debits_posted = credits_posted + 1"
        f" where customer_id = {SHOP} and code = 1 returning id",
    ),
    "a prepaid wallet loses its limit and is overdrawn": (
        "limits_hold",
        "update ledger_accounts set flags = 0, debits_posted = credits_posted + 1"
        f" where customer_id = {SHOP} and code = 1 returning id",
    ),
    "an account breaks its upper limit": (
        "limits_hold",
        "alter table ledger_accounts drop constraint credits_must_not_exceed_debits",
        f"update ledger_accounts set flags = 4 where customer_id = {ACME} and ledger = 1 and code = 3 returning id",
    ),
    "a total's quantity is changed": (
        "totals_equal_measurements",
        f"update usage_totals set quantity = quantity + 1 where customer_id = {LAB} returning 'lab, 2026-03'",
    ),
    "a total's count is changed": (
        "totals_equal_measurements",
        f"update usage_totals set measurements = measurements + 1 where customer_id = {LAB} returning 'count of 2'",
    ),
    "a total is deleted": (
        "totals_equal_measurements",
        f"delete from usage_totals where customer_id = {LAB} returning 'lab, 2026-03'",
    ),
    "a measurement is deleted": (
        "totals_equal_measurements",
        f"delete from measurements where {A_CHARGE} returning 'acme, 2026-03'",
    ),
    "a measurement without a quantity is deleted": (
        "totals_equal_measurements",
        "delete from measurements where sender_id = 'vcpu-0' returning 'solo, 2026-03'",
    ),
    "a measurement is moved to another customer": (
        "totals_equal_measurements",
        f"update measurements set customer_id = {LAB} where {A_CHARGE} returning 'acme, 2026-03'",
    ),
    "a measurement is moved to another month": (
        "totals_equal_measurements",
        f"update measurements set period = '2026-01-01' where {A_CHARGE} returning 'acme, 2026-01'",
    ),
    "a measurement is moved to another meter": (
        "totals_equal_measurements",
        "update series set meter = 'images' where id = (select series_id from measurements where sender_id = 'lab')"
        f" and customer_id = {LAB} returning 'lab, 2026-03, meter ''images'''",
    ),
    "a measurement loses its series": (
        "totals_equal_measurements",
        f"delete from series where customer_id = {LAB} returning 'lab, 2026-03, meter None'",
    ),
    "a waiting measurement is deleted": (
        "totals_equal_measurements",
        "delete from measurements where sender_id = 'unpriced' returning 'without a price'",
    ),
    "a measurement is moved to another price": (
        "totals_equal_measurements",
        "update measurements set price_id = (select id from prices where meter = 'images')"
        f" where {A_CHARGE} returning 'under price ' || price_id",
    ),
    "an amount is changed": (
        "charges_equal_totals",
        f"update measurements set amount = amount + 1 where {A_CHARGE} returning 'acme, 2026-03'",
    ),
    "a price is changed": (
        "charges_equal_totals",
        """update prices set model = '{"type": "per_unit", "amount": "2"}' where meter = 'tokens' and kind = ''"""
        " returning 'under price ' || id",
    ),
    "a price is deleted": (
        "charges_equal_totals",
        "delete from prices where meter = 'images' returning id || ': there is no such price'",
    ),
    "a price is given to another customer": (
        "charges_equal_totals",
        f"update prices set customer_id = {SHOP} where meter = 'tokens' and kind = ''"
        " returning id || ': the price is for'",
    ),
    "a price is given to another meter": (
        "charges_equal_totals",
        "insert into resource_kinds values ('images', 'gold', now())",
        "update prices set meter = 'images', kind = 'gold' where meter = 'fees' returning id || ': the price is for'",
    ),
    "an amount does not follow": (
        "charges_follow_arithmetic",
        f"update measurements set amount = amount + 1 where {A_CHARGE} {CHARGE}",
    ),
    "an amount is moved from one charge to another": (
        "charges_follow_arithmetic",
        f"update measurements set amount = amount - 1 where customer_id = {ACME} and sender_id = 'half'",
        f"update measurements set amount = amount + 1 where {A_CHARGE} {CHARGE}",
    ),
    "the totals around a charge are shifted": (
        "charges_follow_arithmetic",
        f"update measurements set total_after = total_after + 730 where {A_CHARGE} {CHARGE}",
    ),
    "a total is not even a number": (
        "charges_equal_totals",
        f"update usage_totals set quantity = 'NaN' where customer_id = {LAB} returning 'F(NaN) is no number'",
    ),
    "a charge ends at infinity": (
        "charges_follow_arithmetic",
        f"update measurements set total_after = 'Infinity' where {A_CHARGE} {CHARGE}",
    ),
    "a price is deleted under a charge": (
        "charges_follow_arithmetic",
        "delete from measurements where sender_id = 'six'",
        "delete from prices where meter = 'images' returning id",
    ),
    "a usage transfer moves too much": (
        "posted_equals_charged",
        f"update ledger_transfers set amount = amount + 1 where {A_TRANSFER} returning id",
    ),
    "a usage transfer is deleted": (
        "posted_equals_charged",
        f"delete from ledger_transfers where {A_TRANSFER} returning id",
    ),
    "money that was given back is changed": (
        "posted_equals_charged",
        "update ledger_transfers set amount = amount - 1"
        " where id = (select transfer_id from measurements where sender_id = 'six') returning id",
    ),
    "a usage transfer is forged": (
        "posted_equals_charged",
        "insert into ledger_transfers select customer_id, gen_random_uuid(), sequence + 1000, debit_account_id,"
        f" credit_account_id, 1, ledger, 4, 0, null, created_at from ledger_transfers where {A_BILL} returning id",
    ),
    "a usage transfer becomes a bill": (
        "posted_equals_charged",
        f"update ledger_transfers set code = 3 where {A_TRANSFER} returning id",
    ),
    "a usage transfer goes to another account": (
        "posted_equals_charged",
        "update ledger_transfers as t set credit_account_id = a.id from ledger_accounts as a"
        f" where t.{A_TRANSFER} and a.customer_id = t.customer_id and a.ledger = t.ledger and a.code = 5"
        " returning t.id",
    ),
    "a charge loses its transfer": (
        "posted_equals_charged",
        f"update measurements set transfer_id = null where {A_CHARGE} {CHARGE} || ': 1 was charged'",
    ),
    "nothing is charged, by a transfer": (
        "posted_equals_charged",
        "update measurements set transfer_id = gen_random_uuid() where sender_id = 'vcpu-0'"
        f" {CHARGE} || ': 0 was charged, found transfer ' || transfer_id",
    ),
    "a charge names a transfer in the books of another payer": (
        "posted_equals_charged",
        "update measurements set transfer_id = (select transfer_id from measurements where sender_id = 'five')"
        f" where {A_CHARGE} returning transfer_id",
    ),
    "a remark is lost": (
        "measurements_accounted",
        "update measurements set remark = null where sender_id = 'vcpu-0' " + CHARGE,
    ),
    "a charge is made to wait though its price is in force": (
        "measurements_accounted",
        "update measurements set price_id = null, total_after = null, amount = null, transfer_id = null"
        f" where {A_CHARGE} {CHARGE}",
    ),
    "granted credits disappear": (
        "grants_accounted",
        f"update ledger_accounts set credits_posted = credits_posted - 1 where customer_id = {ACME} and ledger = 1"
        " and code = 1 returning 'acme in CREDIT: granted 100'",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found_and_named(name: str, conn: Connection, verify: Verify) -> None:
    check, *statements = DAMAGES[name]
    named = await damage(conn, *statements)
    verdict = await verify.run(conn)
    assert check in failed(verdict)
    assert named in detail(verdict, check)


async def test_a_difference_is_told_with_both_figures(conn: Connection, verify: Verify) -> None:
    charge = await damage(conn, f"update measurements set amount = amount + 250000 where {A_CHARGE} {CHARGE}")
    verdict = await verify.run(conn)
    assert failed(verdict) == {"charges_equal_totals", "charges_follow_arithmetic", "posted_equals_charged"}
    assert detail(verdict, "charges_follow_arithmetic").endswith(
        f"; charge {charge}: F(730) - F(730 - 730) is 1 CREDIT, found 1.25"
    )
    assert detail(verdict, "charges_equal_totals").endswith("F(731.5) is 1.002055 CREDIT, found charges of 1.252055")


async def test_many_differences_are_counted_and_some_are_named(conn: Connection, verify: Verify) -> None:
    await conn.execute("update measurements set amount = amount + 1 where amount is not null")
    check = next(check for check in (await verify.run(conn)).checks if check.name == "charges_follow_arithmetic")
    assert check.detail.startswith(f"{check.checked} differences in {check.checked} charges; charge ")
    assert check.detail.count("; charge ") == 3


@pytest.mark.parametrize(("customer", "is_found"), [("acme", True), ("lab", True), ("shop", False), ("solo", False)])
async def test_a_customer_is_proven_with_whom_it_shares_its_books(
    customer: str, is_found: bool, conn: Connection, verify: Verify
) -> None:
    assert (await verify.run(conn, customer)).holds
    await damage(conn, f"update measurements set amount = amount + 1 where {A_CHARGE} {CHARGE}")
    await damage(conn, f"update ledger_transfers set amount = amount + 2 where {A_TRANSFER} returning id")
    verdict = await verify.run(conn, customer)
    assert failed(verdict) == (
        {"balances_equal_transfers", "charges_equal_totals", "charges_follow_arithmetic", "posted_equals_charged"}
        if is_found
        else set()
    )


async def test_only_what_is_the_customers_is_read(conn: Connection, verify: Verify) -> None:
    checked = {check.name: check.checked for check in (await verify.run(conn, "shop")).checks}
    assert checked == {
        "transfers_balance": 6,  # the grant, usage, and 4 given back, each with a repayment
        "transfers_sealed": 0,
        "pending_resolved_once": 0,
        "failures_stand": 2,
        "balances_equal_transfers": 6,
        "limits_hold": 6,
        "totals_equal_measurements": 1,
        "charges_equal_totals": 1,
        "charges_follow_arithmetic": 2,
        "posted_equals_charged": 2,
        "postings_accounted": 0,
        "measurements_accounted": 2,
        "levels_equal_measurements": 0,
        "counters_stand": 0,
        "grants_accounted": 1,
        "holds_accounted": 0,
        "exchanges_accounted": 0,
        "operations_accounted": 0,
        "milestones_stand": 3,
        "checkpoints_stand": 0,
    }


async def test_an_unknown_customer_is_refused(conn: Connection, verify: Verify) -> None:
    with pytest.raises(NotFound, match="nobody"):
        await verify.run(conn, "nobody")
    with pytest.raises(InvalidInput):
        await verify.run(conn, "")


async def test_progress_is_told_from_the_first_check_to_the_end(conn: Connection, verify: Verify) -> None:
    told: list[tuple[str, int, int]] = []
    await verify.run(conn, tell=lambda *step: told.append(step))
    steps = [done for _, done, _ in told]
    assert told[0] == ("transfers_balance", 0, 100 * len(CHECKS))
    assert told[-1] == (list(CHECKS)[-1], 100 * len(CHECKS), 100 * len(CHECKS))
    assert steps == sorted(steps)


async def test_a_snapshot_stands_still_and_cannot_write(database_url: str, verify: Verify) -> None:
    async with await open_pool(database_url, size=2) as pool, snapshot(pool) as conn:
        await verify.run(conn)
        async with pool.connection() as other, other.transaction():
            await other.execute(
                "insert into ledger_transfers select gen_random_uuid(), gen_random_uuid(), 5, gen_random_uuid(),"
                " gen_random_uuid(), 1, 1, 4, 0, null, now()"
            )
            assert not (await verify.run(other)).holds
        assert (await verify.run(conn)).holds
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await conn.execute("delete from ledger_transfers")


async def test_a_verdict_is_told_as_json(conn: Connection, verify: Verify) -> None:
    told = (await verify.run(conn, "shop")).as_json()
    assert told["holds"] is True
    assert isinstance(told["checks"], list)
    assert told["checks"][0] == {
        "name": "transfers_balance",
        "holds": True,
        "checked": 6,
        "detail": "0 differences in 6 transfers",
    }


async def test_usage_that_lacked_a_unit_price_holds_once_an_ordinary_price_charges_it(
    database_url: str, verify: Verify
) -> None:
    async with open_service(Settings(database_pool_size=4), database_url, TestClock(NOW)) as service:
        await create_price(service, "calls", DYNAMIC)
        await submit(service, measurement("solo", 2, meter="calls"))
        await create_price(service, "calls", PER_UNIT, since=MARCH)
        assert await fetch(service, "select amount, remark from measurements") == [(4 * CREDIT, None)]
        async with snapshot(service.pool) as conn:
            assert (await verify.run(conn)).holds
