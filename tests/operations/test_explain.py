"""The trail of a charge: every figure on it, in words and as data, and what is missing where nothing was charged."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from tallystick.database.pool import Connection, open_pool
from tallystick.kernel.errors import NotFound
from tallystick.metering.charges import ChargeId
from tallystick.operations.explain import Explain


async def named(conn: Connection, sender_id: str) -> ChargeId:
    """The charge for what a sender named so."""
    query = "select customer_id, id from measurements where sender_id = %s"
    (row,) = await (await conn.execute(query, [sender_id])).fetchall()
    return ChargeId(*row)


async def value(conn: Connection, query: str) -> str:
    (row,) = await (await conn.execute(query)).fetchall()
    return str(row[0])


async def test_a_charge_is_followed_from_the_measurement_to_the_transfer(conn: Connection, explain: Explain) -> None:
    charge = await named(conn, "half")
    price = await value(conn, "select id from prices where meter = 'tokens' and kind = ''")
    transfer = await value(conn, "select transfer_id from measurements where sender_id = 'half'")
    explanation = await explain.charge(conn, charge)
    assert explanation.lines == [
        f"charge {charge}",
        "measured for customer 'acme' at 2026-03-10T09:00:00Z: meter 'tokens', resource 'gpu', "
        "agent 'ada@acme.example', 0.5 token",
        "sent by 'events:test' as 'half', recorded at 2026-03-20T12:00:00Z",
        "quantity 0.5: the value as it is",
        "total of 2026-03 at its price: 730 before, 730.5 after",
        f"price {price} for everybody, in force from 2020-01-01T00:00:00Z: "
        '{"type": "per_unit", "amount": "1", "per": "730"}',
        "F(730) = 730 x 1 / 730 = 1 CREDIT",
        "F(730.5) = 730.5 x 1 / 730 = 1.000684931506…, rounded half to even to a multiple of 0.000001: 1.000685 CREDIT",
        "charge = F(730.5) - F(730) = 1.000685 - 1 = 0.000685 CREDIT",
        f"transfer {transfer} at 2026-03-20T12:00:00Z: 1.502055 CREDIT from wallet to used of customer 'acme'",
    ]


async def test_a_charge_is_told_as_json(conn: Connection, explain: Explain) -> None:
    charge = await named(conn, "call")
    explanation = await explain.charge(conn, charge)
    told = json.loads(json.dumps(explanation.as_json()))
    assert told == {
        "id": str(charge),
        "measurement": {
            "customer": "solo",
            "source": "events:test",
            "sender_id": "call",
            "meter": "calls",
            "unit": "",
            "kind": "",
            "resource": "",
            "agent": "",
            "at": "2026-03-10T09:00:00Z",
            "recorded_at": "2026-03-20T12:00:00Z",
            "value": "3",
            "unit_price": "0.25",
        },
        "quantity": "0.75",
        "remark": "3 x unit price 0.25",
        "period": "2026-03",
        "total_before": "0",
        "total_after": "0.75",
        "price": {
            "id": await value(conn, "select id from prices where meter = 'calls'"),
            "meter": "calls",
            "kind": "",
            "customer": None,
            "effective_from": "2020-01-01T00:00:00Z",
            "asset": "CREDIT",
            "quantum": "0.000001",
            "model": {"type": "dynamic"},
        },
        "asset": "CREDIT",
        "amount": "0.75",
        "arithmetic": explanation.arithmetic,
        "postings": [],
        "is_noted": False,
        "transfers": [
            {
                "id": await value(conn, "select transfer_id from measurements where sender_id = 'call'"),
                "customer": "solo",
                "from": "wallet",
                "to": "used",
                "amount": "0.75",
                "asset": "CREDIT",
                "at": "2026-03-20T12:00:00Z",
                "waiting": False,
            }
        ],
        "missing": None,
        "lines": explanation.lines,
    }


async def test_what_the_wallet_could_pay_of_prepaid_usage_is_on_the_trail(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "five"))
    assert [(moved.debited, moved.credited, moved.amount) for moved in explanation.transfers] == [
        ("arrears", "used", 15_000_000),
        ("wallet", "arrears", 5_000_000),
    ]
    assert explanation.lines[-2].endswith("15 CREDIT from arrears to used of customer 'shop'")
    assert explanation.lines[-1].endswith("5 CREDIT from wallet to arrears of customer 'shop'")


async def test_a_repayment_that_moved_nothing_is_not_on_the_trail(conn: Connection, explain: Explain) -> None:
    await conn.execute("update ledger_transfers set amount = 0 where code = 5")
    explanation = await explain.charge(conn, await named(conn, "five"))
    assert [(moved.debited, moved.credited, moved.amount) for moved in explanation.transfers] == [
        ("arrears", "used", 15_000_000)
    ]


async def test_postpaid_usage_is_taken_from_the_wallet_alone(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "call"))
    assert [(moved.debited, moved.credited, moved.amount) for moved in explanation.transfers] == [
        ("wallet", "used", 750_000)
    ]


async def test_what_still_waits_for_the_ledger_is_on_the_trail(conn: Connection, explain: Explain) -> None:
    """What a repayment will move is settled only when it is carried out."""
    charge = await named(conn, "five")
    await conn.execute(
        "with gone as (delete from ledger_transfers where sequence in (7, 8) returning *)"
        " insert into ledger_outbox (customer_id, id, debit_account_id, credit_account_id, amount, ledger, code, flags,"
        " cause_id, intent, created_at) select customer_id, id, debit_account_id, credit_account_id, amount, ledger,"
        " code, flags, cause_id, false, created_at from gone"
    )
    (transfer,) = (await explain.charge(conn, charge)).transfers
    assert (transfer.debited, transfer.credited, transfer.amount, transfer.waiting) == (
        "arrears",
        "used",
        15_000_000,
        True,
    )
    assert (await explain.charge(conn, charge)).lines[-1] == (
        f"transfer {transfer.id} waits for the ledger since 2026-03-20T12:00:00Z: "
        "15 CREDIT from arrears to used of customer 'shop'"
    )


async def test_money_that_goes_back_is_on_the_trail(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "six"))
    assert explanation.amount == -4_000_000
    assert [(moved.debited, moved.credited, moved.amount) for moved in explanation.transfers] == [
        ("used", "wallet", 4_000_000),
        ("wallet", "arrears", 4_000_000),
    ]
    assert "charge = F(11) - F(5) = 11 - 15 = -4 CREDIT" in explanation.lines


async def test_a_charge_is_moved_in_the_books_of_whoever_pays(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "lab"))
    assert explanation.measured.customer == "lab"
    assert [moved.customer for moved in explanation.transfers] == ["acme"]


async def test_a_quantity_says_why_it_is_not_the_value(conn: Connection, explain: Explain) -> None:
    baseline = await explain.charge(conn, await named(conn, "vcpu-0"))
    assert "quantity 0: baseline: the first value of this counter" in baseline.lines
    assert baseline.lines[-1] == "nothing had to move"
    step = await explain.charge(conn, await named(conn, "vcpu-1"))
    assert "quantity 15: counter: 25 - 10" in step.lines


async def test_usage_that_waited_says_how_it_became_money(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "fee"))
    assert "quantity 2: 4 x unit price 0.5" in explanation.lines
    assert explanation.amount == 2_000_000


async def test_usage_without_a_price_says_what_it_waits_for(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "unpriced"))
    missing = (
        "no price of meter 'unheard-of' is in force at 2026-03-10T09:00:00Z; one that starts by then will charge it"
    )
    assert explanation.missing == missing
    assert explanation.lines[-1] == f"counted in 2026-03 without a price: {missing}"
    told = explanation.as_json()
    assert [told[name] for name in ("total_before", "total_after", "price", "asset", "amount")] == [None] * 5


async def test_usage_without_a_unit_price_says_so(conn: Connection, explain: Explain) -> None:
    explanation = await explain.charge(conn, await named(conn, "unpriced call"))
    price = await value(conn, "select id from prices where meter = 'calls'")
    assert explanation.missing == f"price {price} is dynamic, and the measurement brought no unit price"


async def test_usage_whose_price_was_just_created_says_so(conn: Connection, explain: Explain) -> None:
    await conn.execute(
        "update measurements set price_id = null, total_after = null, amount = null, transfer_id = null"
        " where sender_id = 'lab'"
    )
    explanation = await explain.charge(conn, await named(conn, "lab"))
    assert explanation.missing is not None
    assert explanation.missing.endswith("was created since: what waited for it is being charged")


async def test_a_charge_that_does_not_follow_says_so(conn: Connection, explain: Explain) -> None:
    await conn.execute("update measurements set amount = 5, transfer_id = null where sender_id = 'lab'")
    explanation = await explain.charge(conn, await named(conn, "lab"))
    assert explanation.lines[-2] == "but 0.000005 CREDIT was charged, which does not follow"
    assert explanation.lines[-1] == "no transfer moved it"


async def test_an_unknown_charge_is_refused(conn: Connection, explain: Explain) -> None:
    known = await named(conn, "lab")
    with pytest.raises(NotFound):
        await explain.charge(conn, ChargeId(known.customer_id, UUID(int=1)))


async def test_it_can_be_read_in_autocommit(database: str, explain: Explain) -> None:
    async with await open_pool(database, size=1) as pool, pool.connection() as conn:
        assert (await explain.charge(conn, await named(conn, "month"))).amount == 1_000_000
