"""What the proof says when somebody has tampered with what stands beside the ledger: exchanges, operations, milestones
and checkpoints. Readers trust all of these, so each column that they read is damaged here."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.billing.transactions import Transactions, Wanted
from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import new_id
from tallystick.ledger import remaining
from tallystick.ledger.exchange import ExchangeOrder
from tallystick.ledger.grant_model import GrantCredits, VoidGrant
from tallystick.ledger.hold_model import PlaceHold, SettleHold
from tallystick.ledger.wallets import CreditPolicy
from tallystick.operations.verify import Verify, snapshot
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import fetch
from tests.operations.conftest import CREDIT, NOW
from tests.operations.damage import ACME, LAB, MINT, damage, detail, failed

EUROS = f"customer_id = {MINT} and to_ledger = 978"
GIVEN = f"cause_id = (select id from exchanges where {EUROS})"
TAKEN = f"id = (select id from exchanges where {EUROS})"
EXCHANGE = "returning 'exchange ' || id"
HALF = f"customer_id = {MINT} and amount = {{}} and code = 9"

EXCHANGES = {
    "more was taken than was given": (
        f"update exchanges set amount = amount + 1 where {EUROS}"
        f" {EXCHANGE} || ': expected 1.000001 CREDIT to be taken, found 1 CREDIT by a transfer of code 9'",
    ),
    "another asset was taken": (
        f"update exchanges set from_ledger = 840 where {EUROS}"
        f" {EXCHANGE} || ': expected 1 USD to be taken, found 1 CREDIT'",
    ),
    "more was received than came in": (
        f"update exchanges set received = received + 1 where {EUROS}"
        f" {EXCHANGE} || ': expected 1.500001 EUR to be received, found 1.5 EUR'",
    ),
    "another asset was received": (
        f"update exchanges set to_ledger = 840 where {EUROS}"
        f" {EXCHANGE} || ': expected 1.5 USD to be received, found 1.5 EUR'",
    ),
    "the rate was another one": (
        f"update exchanges set rate = 1.6 where {EUROS}"
        f" {EXCHANGE} || ': 1 CREDIT at a rate of 1.6 is 1.6 EUR, found 1.5'",
    ),
    "somebody else exchanged": (
        f"update exchanges set customer_id = {ACME} where {EUROS} {EXCHANGE} || ': found no transfer that takes'",
    ),
    "it has another id": (
        f"update exchanges set id = gen_random_uuid() where {EUROS} {EXCHANGE} || ': found no transfer that takes'",
    ),
    "it was not written down": (
        f"delete from exchanges where {EUROS} returning ': gives 1.5 in exchange, found no exchange ' || id",
    ),
    "nothing was taken": (
        f"delete from ledger_transfers where {TAKEN} {EXCHANGE} || ': found no transfer that takes'",
    ),
    "it was taken for another reason": (
        f"update ledger_transfers set code = 3 where {TAKEN}"
        f" {EXCHANGE} || ': expected 1 CREDIT to be taken, found 1 CREDIT by a transfer of code 3'",
    ),
    "it was only reserved": (
        f"update ledger_transfers set flags = 2 where {TAKEN} {EXCHANGE} || ': expected 1 CREDIT to be taken'",
    ),
    "it was taken out of nowhere": (
        "update ledger_transfers set debit_account_id = credit_account_id, credit_account_id = debit_account_id"
        f" where {TAKEN} {EXCHANGE} || ': expected transfer ' || id || ' to take from the wallet for exchange'",
    ),
    "nothing was given": (
        f"delete from ledger_transfers where {GIVEN}"
        " returning 'exchange ' || cause_id || ': found no transfer that gives'",
    ),
    "what was given was only reserved": (
        f"update ledger_transfers set flags = 2 where {GIVEN}"
        " returning 'exchange ' || cause_id || ': expected 1.5 EUR to be received'",
    ),
    "it was given to nobody": (
        "update ledger_transfers set debit_account_id = credit_account_id, credit_account_id = debit_account_id"
        f" where {GIVEN} returning 'exchange ' || cause_id || ': expected transfer ' || id || ' to give to the wallet'",
    ),
    "it was given twice": (
        "insert into ledger_transfers select customer_id, gen_random_uuid(), sequence + 1000, debit_account_id,"
        " credit_account_id, amount, ledger, code, flags, cause_id, created_at from ledger_transfers"
        f" where {GIVEN}"
        " returning 'exchange ' || cause_id || ': expected one transfer that gives what is received, found 2'",
    ),
    "half a microunit was rounded up to an odd one": (
        f"update ledger_transfers set amount = 3 where {HALF.format(2)}",
        "update exchanges set received = 3 where amount = 5"
        f" {EXCHANGE} || ': 0.000005 CREDIT at a rate of 0.5 is 0.0000025 USD, found 0.000003'",
    ),
    "half a microunit was rounded down to an odd one": (
        f"update ledger_transfers set amount = 3 where {HALF.format(4)}",
        "update exchanges set received = 3 where amount = 7"
        f" {EXCHANGE} || ': 0.000007 CREDIT at a rate of 0.5 is 0.0000035 USD, found 0.000003'",
    ),
}

OPERATION = "returning 'operation ' || transfer_id"

OPERATIONS = {
    "something is said of no transfer": (
        f"insert into wallet_operations select {ACME}, gen_random_uuid(), 'bill', 'rent'"
        f" {OPERATION} || ' (bill): found no transfer that it is of'",
    ),
    "the transfer is gone": (
        "delete from ledger_transfers"
        " where id = (select transfer_id from wallet_operations where type = 'grant' limit 1)"
        " returning 'operation ' || id || ' (grant): found no transfer'",
    ),
    "it was said to somebody else": (
        f"update wallet_operations set customer_id = {LAB} where type = 'bill' and customer_id = {ACME}"
        f" {OPERATION} || ' (bill): found no transfer'",
    ),
    "it was said of another transfer": (
        f"update wallet_operations set transfer_id = (select id from ledger_transfers where customer_id = {ACME}"
        f" and code = 1) where type = 'bill' and customer_id = {ACME}"
        f" {OPERATION} || ' (bill): expected a transfer for that reason, found one of code 1'",
    ),
    "it was for another reason": (
        f"update wallet_operations set type = 'top_up' where type = 'bill' and customer_id = {ACME}"
        f" {OPERATION} || ' (top_up): expected a transfer for that reason, found one of code 3'",
    ),
    "it was for no reason there is": (
        f"update wallet_operations set type = 'gift' where type = 'bill' and customer_id = {ACME}"
        f" {OPERATION} || ' (gift): expected a transfer for that reason, found one of code 3'",
    ),
    "a wallet was opened for nobody": (
        f"update wallet_operations set customer_id = gen_random_uuid() where type = 'open'"
        f" {OPERATION} || ' (open): found no customer ' || customer_id || ' whose wallet it opens'",
    ),
}

CREDITS = f"customer_id = {MINT} and ledger = 1"
DOLLARS = f"customer_id = {MINT} and ledger = 840"
LAST = f"{DOLLARS} and sequence = (select max(sequence) from ledger_milestones where {DOLLARS})"
MILESTONE = "returning 'milestone ' || sequence || ' of mint in USD: "
SUMS = ("wallet", "arrears", "used", "granted", "expired", "exchanged", "held")

MILESTONES = {
    **{
        f"{column} is forged": (
            f"update ledger_milestones set {column} = {column} + 1 where {LAST} {MILESTONE}expected {column} '"
            f" || trim_scale(({column} - 1) * 0.000001) || ', found ' || trim_scale({column} * 0.000001)",
        )
        for column in SUMS
    },
    "it counts too many transactions": (
        f"update ledger_milestones set listed = listed + 1 where {LAST} {MILESTONE}expected '"
        " || listed - 1 || ' transactions until then, found ' || listed",
    ),
    "it counts too few transactions": (
        f"update ledger_milestones set listed = listed - 1 where {LAST} {MILESTONE}expected '"
        " || listed + 1 || ' transactions until then, found ' || listed",
    ),
    "it hides a kind of transaction": (
        f"update ledger_milestones set kinds = kinds & ~(1::bigint << 19) where {LAST} {MILESTONE}expected the kinds '",
    ),
    "it claims a kind of transaction": (
        f"update ledger_milestones set kinds = kinds | 1 where {LAST} {MILESTONE}expected the kinds '"
        " || kinds - 1 || ' since the one before, found ' || kinds",
    ),
    "it is dated later": (
        f"update ledger_milestones set latest_at = latest_at + interval '1 second' where {LAST}"
        f" {MILESTONE}expected the latest transfer to be of ' || latest_at - interval '1 second'"
        " || ', found ' || latest_at",
    ),
    "it stands at a transfer of another wallet": (
        f"update ledger_milestones set sequence = (select max(sequence) from ledger_transfers where {CREDITS})"
        f" where {LAST} {MILESTONE}found no transfer of the wallet'",
    ),
    "it stands after the end of the books": (
        f"update ledger_milestones set sequence = 1000000 where {LAST} {MILESTONE}found no transfer of the wallet'",
    ),
    "it stands at an earlier transfer": (
        "update ledger_milestones as m set sequence = (select max(t.sequence) from ledger_transfers as t"
        f" where t.{DOLLARS} and t.sequence < m.sequence) where {LAST} {MILESTONE}expected '",
    ),
    "the first one is gone": (
        f"delete from ledger_milestones where {DOLLARS} and sequence = 0",
        f"select 'milestone ' || min(sequence) || ' of mint in USD: expected the wallet''s first one to be at 0'"
        f" from ledger_milestones where {DOLLARS}",
    ),
    "the first one holds something": (
        f"update ledger_milestones set wallet = 1 where {DOLLARS} and sequence = 0"
        f" {MILESTONE}expected wallet 0, found 0.000001'",
    ),
    "it is of another customer": (
        f"update ledger_milestones set customer_id = {LAB} where {LAST}"
        " returning 'milestone ' || sequence || ' of lab'",
    ),
    "it is of nobody": (
        f"update ledger_milestones set customer_id = gen_random_uuid() where {LAST}"
        " returning 'milestone ' || sequence || ' of ' || customer_id",
    ),
    "it is of another asset": (
        f"update ledger_milestones set ledger = 756 where {LAST}"
        " returning 'milestone ' || sequence || ' of mint in CHF'",
    ),
    "a transfer before it is changed": (
        f"update ledger_transfers set amount = amount + 1 where {HALF.format(4)}",
        f"select 'milestone ' || sequence || ' of mint in USD: expected wallet ' from ledger_milestones where {LAST}",
    ),
}

CHECKPOINT = "returning 'checkpoint of mint in USD at ' || sequence || ': "
IN_DOLLARS = f"(select id from grants where {DOLLARS})"

FIGURES = (
    ("unattributed", "left without a grant"),
    ("unattributed_used", "used without a grant"),
    ("moved_out", "moved out since the last event"),
    ("income", "come in since the last event"),
)

CHECKPOINTS = {
    **{
        f"{column} is forged": (
            f"update grant_checkpoints set {column} = {column} + 1 where {DOLLARS} {CHECKPOINT}expected '"
            f" || trim_scale(({column} - 1) * 0.000001) || ' {words}, found ' || trim_scale({column} * 0.000001)",
        )
        for column, words in FIGURES
    },
    "a figure is no number": (
        f"update grant_checkpoints set income = 'NaN' where {DOLLARS}"
        f" {CHECKPOINT}expected 0.25 come in since the last event, found NaN'",
    ),
    "more is left of a grant": (
        f"update grant_checkpoints set remaining = jsonb_build_object({IN_DOLLARS}::text, '2000001') where {DOLLARS}"
        f" {CHECKPOINT}expected 2 to be left of grant ' || {IN_DOLLARS} || ', found 2.000001'",
    ),
    "nothing is left of a grant": (
        f"update grant_checkpoints set remaining = '{{}}' where {DOLLARS}"
        f" {CHECKPOINT}expected 2 to be left of grant ' || {IN_DOLLARS} || ', found 0'",
    ),
    "something is left of an unknown grant": (
        """update grant_checkpoints set remaining = remaining || '{"0": "5"}'"""
        f" where {DOLLARS} {CHECKPOINT}expected 0 to be left of grant 0, found 0.000005'",
    ),
    **{
        f"what is left of a grant is {value}": (
            f"""update grant_checkpoints set remaining = remaining || '{{"0": {value}}}'"""
            f" where {DOLLARS} {CHECKPOINT}expected 0 to be left of grant 0, found no number'",
        )
        for value in ("null", "[]", "{}", '"a"', '"1e999999"')
    },
    "what is left of grants is no object": (
        f"update grant_checkpoints set remaining = '[]' where {DOLLARS}"
        f" {CHECKPOINT}expected what is left by grant, found no JSON object'",
    ),
    "it stands after the end of the books": (
        f"update grant_checkpoints set sequence = 1000000 where {DOLLARS}"
        f" {CHECKPOINT}the last transfer in the books is ' || (select max(sequence) from ledger_transfers)",
    ),
    "it stands later than it was kept": (
        f"update grant_checkpoints set sequence = (select max(sequence) from ledger_transfers where {DOLLARS})"
        f" where {DOLLARS} {CHECKPOINT}expected 0.75 moved out since the last event, found 0.5'",
    ),
    "it stands earlier than it was kept": (
        "update grant_checkpoints as p set sequence ="
        f" (select max(t.sequence) - 1 from ledger_transfers as t where t.{DOLLARS} and t.sequence <= p.sequence)"
        f" where {DOLLARS}"
        f" {CHECKPOINT}expected 0 moved out since the last event, found 0.5'",
    ),
    "it stands at the beginning": (
        f"update grant_checkpoints set sequence = 0 where {DOLLARS} {CHECKPOINT}expected 0 to be left of grant '",
    ),
    "it is of another customer": (
        f"update grant_checkpoints set customer_id = {LAB} where {DOLLARS} returning 'checkpoint of lab in USD at '",
    ),
    "it is of nobody": (
        f"update grant_checkpoints set customer_id = gen_random_uuid() where {DOLLARS}"
        " returning 'checkpoint of ' || customer_id || ' in USD at '",
    ),
    "it is of another asset": (
        f"update grant_checkpoints set ledger = 756 where {DOLLARS} returning 'checkpoint of mint in CHF at '",
    ),
    "a grant was to be used later": (
        f"update grants set priority = 5 where {CREDITS} and amount = 6000000"
        " returning 'checkpoint of mint in CREDIT at '",
    ),
    "a grant was to end": (
        f"update grants set rank_expiry = now() where {CREDITS} and amount = 2000000"
        " returning 'checkpoint of mint in CREDIT at '",
    ),
    "a transfer before it is changed": (
        f"update ledger_transfers set amount = amount + 1 where {HALF.format(4)}",
        "select 'checkpoint of mint in USD at ' || sequence"
        " || ': expected 5.000007 left without a grant, found 5.000006'"
        f" from grant_checkpoints where {DOLLARS}",
    ),
    "a transfer before it is no number": (
        f"update ledger_transfers set amount = 'NaN' where {HALF.format(4)}",
        "select 'checkpoint of mint in USD at ' || sequence || ': the wallet''s transfers are no finite numbers'"
        f" from grant_checkpoints where {DOLLARS}",
    ),
    "a grant that was taken back never came in": (
        f"delete from ledger_transfers where {CREDITS} and code = 1 and amount = 3000000"
        " returning 'checkpoint of mint in CREDIT at '",
    ),
    "a grant was taken back before it came in": (
        f"update ledger_transfers set sequence = -1 where {CREDITS} and code = 8"
        " returning 'checkpoint of mint in CREDIT at '",
    ),
}

DAMAGES = {
    f"{check}: {name}": (check, *statements)
    for check, damages in (
        ("exchanges_accounted", EXCHANGES),
        ("operations_accounted", OPERATIONS),
        ("milestones_stand", MILESTONES),
        ("checkpoints_stand", CHECKPOINTS),
    )
    for name, statements in damages.items()
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_tampering_is_found_and_named(name: str, conn: Connection, verify: Verify) -> None:
    check, *statements = DAMAGES[name]
    named = await damage(conn, *statements)
    verdict = await verify.run(conn)
    assert check in failed(verdict)
    assert named in detail(verdict, check)


async def test_the_books_have_operations_of_every_type(conn: Connection) -> None:
    rows = await (await conn.execute("select distinct type from wallet_operations order by type")).fetchall()
    assert [name for (name,) in rows] == ["bill", "grant", "hold", "open", "posting", "takeover", "top_up"]


async def test_the_books_have_every_column_that_is_damaged(conn: Connection) -> None:
    """Zeros everywhere would show nothing: each figure differs from 0 in some milestone or checkpoint."""
    for table, columns in (("ledger_milestones", SUMS), ("grant_checkpoints", [name for name, _ in FIGURES])):
        for column in columns:
            rows = await conn.execute(f"select count(*) from {table} where {column} <> 0".encode())
            assert await rows.fetchone() != (0,), f"{column} of {table}"


async def test_a_wrong_milestone_is_not_blamed_on_those_after_it(conn: Connection, verify: Verify) -> None:
    await damage(conn, f"update ledger_milestones set used = 7 where {DOLLARS} and sequence = 0 returning 0")
    assert detail(await verify.run(conn), "milestones_stand").startswith("1 differences in ")


async def test_a_milestone_that_is_gone_is_missed_only_if_it_hides_something(conn: Connection, verify: Verify) -> None:
    """Readers then go on from the one before it. What the next one says happened since is no longer all there was."""
    await damage(conn, f"delete from ledger_milestones where {LAST} returning sequence")
    assert (await verify.run(conn)).holds
    third = f"(select sequence from ledger_milestones where {CREDITS} order by sequence offset 2 limit 1)"
    await damage(conn, f"delete from ledger_milestones where {CREDITS} and sequence = {third} returning sequence")
    verdict = await verify.run(conn)
    assert failed(verdict) == {"milestones_stand"}
    assert "since the one before" in detail(verdict, "milestones_stand")


async def test_a_checkpoint_may_be_kept_before_a_grant_is_closed_at_its_place(conn: Connection, verify: Verify) -> None:
    """Or after that: closing a grant ends an interval, and what moved in it is attributed. Nothing else may be."""
    closed = f"update grants set state = 'expired', closed_after = {{}} where {DOLLARS}"
    place = f"(select sequence from grant_checkpoints where {DOLLARS})"
    await conn.execute(closed.format(place).encode())
    assert (await verify.run(conn)).holds
    attributed = "unattributed = unattributed + income, moved_out = 0, income = 0"
    await conn.execute(
        f"update grant_checkpoints set remaining = jsonb_build_object({IN_DOLLARS}::text, '1500000'), {attributed}"
        f" where {DOLLARS}".encode()
    )
    assert (await verify.run(conn)).holds
    await conn.execute(closed.format(f"{place} + 1").encode())
    assert failed(await verify.run(conn)) == {"checkpoints_stand"}


@pytest.mark.parametrize(("customer", "is_found"), [("mint", True), ("acme", False)])
async def test_one_customer_is_proven_by_itself(
    customer: str, is_found: bool, conn: Connection, verify: Verify
) -> None:
    await damage(conn, f"update exchanges set rate = 1.6 where {EUROS} returning id")
    await damage(conn, f"update ledger_milestones set held = 1 where {LAST} returning sequence")
    await damage(conn, f"update grant_checkpoints set income = 1 where {DOLLARS} returning sequence")
    await damage(conn, f"insert into wallet_operations select {MINT}, gen_random_uuid(), 'bill' returning transfer_id")
    expected = {"exchanges_accounted", "milestones_stand", "checkpoints_stand", "operations_accounted"}
    assert failed(await verify.run(conn, customer)) == (expected if is_found else set())


POLICIES: tuple[CreditPolicy, ...] = ("prepaid", "postpaid")
"""One customer of each."""


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_becomes_of_wallets_the_records_hold(database_url: str, seed: int) -> None:
    """Grants, exchanges, holds and bills in any order, while readers note how far they have come, here and there."""
    chance, clock = random.Random(seed), TestClock(NOW)
    async with open_service(Settings(database_pool_size=4), database_url, clock) as service:
        for policy in POLICIES:
            order = Instruction(new_id(NOW), "open", policy, 1, 9 * CREDIT, credit_policy=policy)
            await service.instructions.carry_out(order)
        for _ in range(120):
            clock.advance(timedelta(minutes=chance.randrange(30)))
            with suppress(TallyError):  # what a wallet lacks, what is closed already
                await _do_something(service, chance)
        async with snapshot(service.pool) as conn:
            verdict = await service.verify.run(conn)
        assert verdict.holds, [check.detail for check in verdict.checks if not check.holds]
        checked = {check.name: check.checked for check in verdict.checks}
        assert all(checked[name] > 0 for name in ("exchanges_accounted", "milestones_stand", "checkpoints_stand"))


async def _do_something(service: Service, chance: random.Random) -> None:
    now, customer = service.clock.now(), chance.choice(POLICIES)
    ledger, amount = chance.choice([1, 1, 840]), chance.randrange(1, 4 * CREDIT)
    match chance.randrange(8):
        case 0 | 1:
            ends = now + timedelta(hours=chance.randrange(1, 30)) if chance.random() < 0.7 else None
            priority = chance.randrange(3)
            await service.grants.give(
                GrantCredits(new_id(now), customer, ledger, amount, priority=priority, expires_at=ends)
            )
        case 2 | 3:
            await service.instructions.carry_out(Instruction(new_id(now), "bill", customer, ledger, amount))
        case 4:
            async with service.pool.connection() as conn:
                credit, dollar = [await service.assets.get(conn, code) for code in ("CREDIT", "USD")]
            rate = Decimal(chance.randrange(1, 10**6)).scaleb(-5)
            await service.exchanges.carry_out(ExchangeOrder(new_id(now), customer, credit, dollar, amount, rate))
        case 5:
            hold = await service.holds.carry_out(PlaceHold(new_id(now), customer, ledger, amount))
            if chance.random() < 0.7:
                await service.holds.carry_out(SettleHold(new_id(now), customer, hold.id, amount // 2 + 1))
        case 6:
            query = "select c.key, g.id from grants as g join customers as c on c.id = g.customer_id order by g.id"
            of, grant_id = chance.choice(await fetch(service, query))
            await service.grants.void(VoidGrant(new_id(now), of, grant_id))
        case 7:
            await _note(service, customer, ledger)


async def _note(service: Service, customer: str, ledger: int) -> None:
    """What falls due is done; then somebody reads."""
    async with service.pool.connection() as conn, conn.transaction():
        await service.grants.run_due(conn, service.clock.now(), limit=100)
    async with service.pool.connection() as conn:
        customer_id, _ = (await service.customers.find(conn, [customer]))[customer]
        await Transactions(service.clock, milestone_every=3).page(conn, customer_id, None, Wanted(), None, 10)
        await remaining.keep(conn, await remaining.fold(conn, [(customer_id, ledger)]), posts=True)
