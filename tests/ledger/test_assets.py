"""Assets and display rates: what there is, what may change, and which rate is in force."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.kernel.money import MAX_AMOUNT
from tallystick.ledger.assets import MAX_OWN_ASSETS, RESERVED_LEDGERS, Asset, Assets
from tallystick.ledger.rates import MAX_RATE, RATE_PLACES, DisplayRates, converted, parse_rate
from tallystick.ledger.wallets import TransferCode, Wallets
from tests.ledger.test_wallets import POSTPAID, PREPAID, moves

JANUARY, FEBRUARY, MARCH = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def assets() -> Assets:
    return Assets()


@pytest.fixture
def rates(assets: Assets) -> DisplayRates:
    return DisplayRates(TestClock(MARCH), assets)


async def refusal(call: Any) -> TallyError:
    with pytest.raises(TallyError) as refused:
        await call
    return refused.value


# What there is


async def test_the_currencies_of_iso_4217_are_known(conn: Connection, assets: Assets) -> None:
    """Spot checks against the list of 2026-01-01, as amended: no kuna, lev or guilder, but the Caribbean one."""
    known = await assets.all(conn)
    spots = {
        "USD": (840, 2, "$"),
        "EUR": (978, 2, "€"),
        "JPY": (392, 0, "¥"),
        "KRW": (410, 0, "₩"),
        "KWD": (414, 3, "KWD"),
        "BHD": (48, 3, "BHD"),
        "CHF": (756, 2, "CHF"),
        "ALL": (8, 2, "ALL"),
        "UYW": (927, 4, "UYW"),
        "ISK": (352, 0, "ISK"),
        "XOF": (952, 0, "F CFA"),
        "XCG": (532, 2, "Cg."),
        "ZWG": (924, 2, "ZWG"),
        "CREDIT": (1, 6, "cr"),
    }
    assert {code: (known[code].ledger, known[code].scale, known[code].symbol) for code in spots} == spots
    gone_or_no_currency = {"HRK", "BGN", "ANG", "CUC", "ZWL", "XAU", "XXX", "XTS", "XDR", "CHE", "USN", "CLF"}
    assert not gone_or_no_currency & set(known)
    assert len(known) == 157
    assert (known["AED"].name, known["STN"].name) == ("UAE Dirham", "Dobra")
    assert {asset.code for asset in known.values() if asset.scale not in (0, 2)} == {
        *("CREDIT", "UYW"),
        *("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"),
    }


async def test_no_two_assets_look_or_count_alike(conn: Connection, assets: Assets) -> None:
    known = list((await assets.all(conn)).values())
    for name in ("ledger", "symbol"):
        assert len({getattr(asset, name) for asset in known}) == len(known), name
    assert all(1 <= asset.ledger < RESERVED_LEDGERS for asset in known)


async def test_assets_come_in_pages(conn: Connection, assets: Assets) -> None:
    codes: list[str] = []
    cursor = None
    while True:
        page = await assets.page(conn, cursor, 50)
        codes += [asset.code for asset in page.items]
        if (cursor := page.next) is None:
            break
    assert codes == sorted(await assets.all(conn))


async def test_an_asset_is_found_by_its_code_alone(conn: Connection, assets: Assets) -> None:
    assert await assets.get(conn, "USD") == await assets.named(conn, "USD") == Asset("USD", 840, "US Dollar", 2, "$")
    unknown = await refusal(assets.get(conn, "usd", "from"))
    assert (unknown.status, unknown.field, str(unknown)) == (422, "from", "from names no asset: 'usd'")
    missing = await refusal(assets.named(conn, "GOLD"))
    assert (missing.status, missing.field, str(missing)) == (404, "code", "there is no asset 'GOLD'")


async def test_the_assets_that_a_customer_has(conn: Connection, assets: Assets, wallets: Wallets) -> None:
    assert await assets.held(conn, PREPAID.id) == {}
    for number, (payer, ledger) in enumerate([(PREPAID, 840), (PREPAID, 1), (POSTPAID, 978)], start=1):
        await wallets.grant(conn, [moves(number, 5, payer, ledger)], TransferCode.GRANT)
    held = await assets.held(conn, PREPAID.id)
    assert {ledger: asset.code for ledger, asset in held.items()} == {840: "USD", 1: "CREDIT"}


# Assets of one's own


async def test_an_asset_of_ones_own_gets_a_number_above_those_of_iso(conn: Connection, assets: Assets) -> None:
    hours = await assets.put(conn, "GPUHOUR", "GPU hours", "GPUh", 2)
    assert hours == Asset("GPUHOUR", 1001, "GPU hours", 2, "GPUh")
    assert await assets.put(conn, "TOKEN_1", "Tokens") == Asset("TOKEN_1", 1002, "Tokens", 6, "TOKEN_1")
    assert await assets.named(conn, "GPUHOUR") == hours


async def test_name_and_symbol_may_change_and_nothing_else(conn: Connection, assets: Assets) -> None:
    await assets.put(conn, "GPUHOUR", "GPU hours", "GPUh", 2)
    assert await assets.put(conn, "GPUHOUR", "Hours") == Asset("GPUHOUR", 1001, "Hours", 2, "GPUh")
    assert await assets.put(conn, "GPUHOUR", "Hours", "h", 2) == Asset("GPUHOUR", 1001, "Hours", 2, "h")
    assert await assets.put(conn, "CREDIT", "Kudos", "k") == Asset("CREDIT", 1, "Kudos", 6, "k")
    refused = await refusal(assets.put(conn, "GPUHOUR", "Hours", "h", 3))
    assert (type(refused), refused.field, str(refused)) == (
        Conflict,
        "scale",
        "the scale of GPUHOUR is 2 and cannot change",
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *(({"code": code}, "code") for code in ("A", "a", "gpu", "1A", "_A", "A" * 17, "A-B", "A\n", "Ä1", "")),
        *(({"name": name}, "name") for name in ("", " ", "x" * 257, "a\0")),
        *(({"symbol": symbol}, "symbol") for symbol in ("", " ", "x" * 17, "\0")),
        *(({"scale": scale}, "scale") for scale in (-1, 7)),
    ],
)
async def test_what_breaks_a_rule_is_named(
    conn: Connection, assets: Assets, fields: dict[str, Any], field: str
) -> None:
    asked: dict[str, Any] = {"code": "GPUHOUR", "name": "Hours", "symbol": "h", "scale": 2}
    refused = await refusal(assets.put(conn, **asked | fields))
    assert isinstance(refused, InvalidInput)
    assert refused.field == field
    assert str(refused).startswith(field)


async def test_there_is_an_end_to_assets_of_ones_own(conn: Connection, assets: Assets) -> None:
    await conn.execute(
        "insert into assets (code, ledger, name, scale, symbol)"
        " select 'OWN' || n, n, n, 0, n from generate_series(%s::integer, %s) as n",
        [RESERVED_LEDGERS + 2, RESERVED_LEDGERS + MAX_OWN_ASSETS - 1],
    )
    last = await assets.put(conn, "LAST", "The last one")
    assert last.ledger == RESERVED_LEDGERS + MAX_OWN_ASSETS
    refused = await refusal(assets.put(conn, "MORE", "One more"))
    assert (type(refused), refused.field) == (Conflict, "code")
    assert (await assets.put(conn, "LAST", "Still")).name == "Still"


async def test_assets_made_at_once_get_numbers_of_their_own(pool: Pool, assets: Assets) -> None:
    async def make(code: str) -> Asset:
        async with pool.connection() as conn, conn.transaction():
            return await assets.put(conn, code, code)

    made = await asyncio.gather(*(make(f"OWN{number % 10}") for number in range(20)))
    assert {asset.ledger for asset in made} == set(range(1001, 1011))
    assert len(set(made)) == 10


# Display rates


async def test_the_rate_in_force_is_the_last_one_that_has_begun(
    conn: Connection, assets: Assets, rates: DisplayRates
) -> None:
    dollars = await assets.named(conn, "USD")
    await rates.add(conn, "CREDIT", "USD", Decimal(50), JANUARY)
    await rates.add(conn, "CREDIT", "USD", Decimal("0.5"), MARCH)  # in no order
    await rates.add(conn, "CREDIT", "USD", Decimal(7), FEBRUARY)
    for instant, rate in (
        (JANUARY, 50),
        (FEBRUARY - MICROSECOND, 50),
        (FEBRUARY, 7),
        (MARCH - MICROSECOND, 7),
        (MARCH, Fraction(1, 2)),
        (MARCH + timedelta(days=999), Fraction(1, 2)),
    ):
        display = await rates.display(conn, ["CREDIT", "USD"], dollars, instant)
        assert display.amount("CREDIT", 1_000_000) == rate * 1_000_000
        assert display.amount("USD", 1_230_000) == 1_230_000  # itself needs no rate
        assert set(display.rates) == {"CREDIT"}


async def test_no_rate_is_made_up(conn: Connection, assets: Assets, rates: DisplayRates) -> None:
    """Neither before the first one, nor turned round, nor by the way of a third asset."""
    await rates.add(conn, "CREDIT", "USD", Decimal(50), FEBRUARY)
    await rates.add(conn, "USD", "JPY", Decimal(150), FEBRUARY)
    for codes, shown_in, instant, missing in (
        (["CREDIT"], "USD", FEBRUARY - MICROSECOND, "CREDIT"),
        (["USD"], "CREDIT", MARCH, "USD"),
        (["CREDIT"], "JPY", MARCH, "CREDIT"),
        (["USD", "EUR", "CREDIT"], "JPY", MARCH, "CREDIT, EUR"),
    ):
        refused = await refusal(rates.display(conn, codes, await assets.named(conn, shown_in), instant))
        assert (refused.status, refused.field) == (422, "display")
        assert str(refused) == f"there is no rate to display {missing} in {shown_in} at {instant.isoformat()}"


async def test_a_rate_is_added_once(conn: Connection, rates: DisplayRates) -> None:
    added = await rates.add(conn, "CREDIT", "USD", Decimal(50), JANUARY)
    assert await rates.add(conn, "CREDIT", "USD", Decimal("50.0"), JANUARY) == added
    refused = await refusal(rates.add(conn, "CREDIT", "USD", Decimal(51), JANUARY))
    assert (type(refused), refused.field) == (Conflict, "effective_from")
    await rates.add(conn, "CREDIT", "EUR", Decimal(51), JANUARY)
    assert isinstance(await refusal(rates.add(conn, "GOLD", "USD", Decimal(1), JANUARY)), NotFound)
    for shown_in in ("CREDIT", "GOLD"):
        refused = await refusal(rates.add(conn, "CREDIT", shown_in, Decimal(1), JANUARY))
        assert (type(refused), refused.field) == (InvalidInput, "in")


async def test_rates_come_in_pages(conn: Connection, rates: DisplayRates) -> None:
    for shown_in in ("USD", "EUR"):
        for instant in (FEBRUARY, JANUARY, MARCH):
            await rates.add(conn, "CREDIT", shown_in, Decimal(instant.month), instant)
    await rates.add(conn, "GBP", "USD", Decimal(1), JANUARY)
    found: list[tuple[str, int]] = []
    cursor = None
    for _ in range(4):
        page = await rates.page(conn, "CREDIT", None, cursor, 2)
        found += [(rate.shown_in, int(rate.rate)) for rate in page.items]
        if (cursor := page.next) is None:
            break
    assert found == [("EUR", 1), ("EUR", 2), ("EUR", 3), ("USD", 1), ("USD", 2), ("USD", 3)]
    assert [rate.shown_in for rate in (await rates.page(conn, "CREDIT", "USD", None, 9)).items] == ["USD"] * 3
    assert isinstance(await refusal(rates.page(conn, "GOLD", None, None, 9)), NotFound)
    assert (await refusal(rates.page(conn, "CREDIT", None, "bm9uZQ", 9))).field == "cursor"


# Arithmetic


@pytest.mark.parametrize(
    ("value", "rate"),
    [("50", "50"), ("0.020", "0.02"), (7, "7"), (Decimal("1E+2"), "100"), ("1e-18", "0.000000000000000001")],
)
def test_a_rate_is_read_exactly(value: Decimal | int | str, rate: str) -> None:
    assert format(parse_rate(value), "f") == rate


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "0",
        "-1",
        "0.0",
        "NaN",
        "Infinity",
        "1e-19",
        "1" + "0" * 18,
        "1e99",
        "9" * 100,
        "1/3",
        " 1",
        True,
        "\uff11",
    ],
)
def test_what_is_no_rate_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^rate must ") as refused:
        parse_rate(value)
    assert refused.value.field == "rate"


some_rates = st.decimals(
    Decimal(1).scaleb(-RATE_PLACES), Decimal(MAX_RATE), places=RATE_PLACES, allow_nan=False, allow_infinity=False
)


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT), some_rates, st.integers(0, 6))
def test_an_amount_is_converted_exactly_and_rounded_once_half_to_even(amount: int, rate: Decimal, scale: int) -> None:
    step = 10 ** (6 - scale)
    steps = round(amount * Fraction(rate) / step)  # Python rounds fractions half to even, without a float
    assert converted(amount, rate, scale) == steps * step


@pytest.mark.parametrize(
    ("amount", "rate", "scale", "expected"),
    [
        (1, "0.5", 6, 0),
        (3, "0.5", 6, 2),
        (-3, "0.5", 6, -2),
        (5, "0.5", 6, 2),
        (2_500_000, "1", 0, 2_000_000),
        (3_500_000, "1", 0, 4_000_000),
        (2_500_001, "1", 0, 3_000_000),
        (100_000_000, "0.02", 6, 2_000_000),
        (2_800, "50", 2, 140_000),
    ],
)
def test_halves_go_to_the_even_neighbour(amount: int, rate: str, scale: int, expected: int) -> None:
    assert converted(amount, Decimal(rate), scale) == expected
