"""Kinds: created empty, completed by a name and a price, and listed with what waits for one."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.metering.kinds import Kind, Unpriced
from tallystick.service import Service
from tests.metering.books import (
    DYNAMIC,
    MARCH,
    create_customer,
    create_price,
    measurement,
    submit,
)


async def listed(service: Service, limit: int = 100, **chosen: object) -> list[Kind]:
    """All pages of so many kinds each; those of the built-in meters aside."""
    kinds: list[Kind] = []
    cursor = None
    async with service.pool.connection() as conn:
        while True:
            page = await service.kinds.page(conn, cursor, limit, **chosen)  # type: ignore[arg-type]
            assert len(page.items) <= limit
            kinds += page.items
            if (cursor := page.next) is None:
                return [kind for kind in kinds if not kind.meter.startswith("project_")]


async def put(service: Service, meter: str, key: str, name: str | None) -> Kind:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.kinds.put(conn, meter, key, name)


async def test_a_kind_needs_a_price_from_its_first_measurement_until_it_has_one(service: Service) -> None:
    april = MARCH + timedelta(days=30)
    await submit(
        service,
        measurement("ada", 5, kind="large"),
        measurement("ada", "0.5", kind="large", at=april),
        measurement("bob", 7, kind="large", at=april),
        measurement("bob", 1),
    )
    unnamed, large = await listed(service, unpriced=True)
    assert (unnamed.meter, unnamed.key, unnamed.name, unnamed.priced_from) == ("tokens", "", None, None)
    assert unnamed.unpriced == Unpriced(1, 1, Decimal(1), date(2026, 3, 1), date(2026, 3, 1))
    assert (large.key, large.created_at) == ("large", service.clock.now())
    assert large.unpriced == Unpriced(2, 3, Decimal("12.5"), date(2026, 3, 1), date(2026, 4, 1))

    await create_price(service, kind="large")
    assert [kind.key for kind in await listed(service, unpriced=True)] == [""]
    assert [(kind.key, kind.unpriced is None) for kind in await listed(service)] == [("", False), ("large", True)]


async def test_what_happened_before_a_price_begins_still_needs_one(service: Service) -> None:
    await submit(service, measurement(value=5), measurement(value=7, at=MARCH + timedelta(days=1)))
    since = MARCH + timedelta(hours=1)
    await create_price(service, since=since)
    (kind,) = await listed(service, unpriced=True)
    assert (kind.priced_from, kind.unpriced) == (
        since,
        Unpriced(1, 1, Decimal(5), date(2026, 3, 1), date(2026, 3, 1)),
    )


async def test_a_customers_own_price_prices_nobody_else(service: Service) -> None:
    await submit(service, measurement("ada", 5), measurement("bob", 7))
    await create_price(service, customer="bob")
    (kind,) = await listed(service, unpriced=True)
    assert kind.priced_from is None
    assert kind.unpriced == Unpriced(1, 1, Decimal(5), date(2026, 3, 1), date(2026, 3, 1))


async def test_a_dynamic_price_leaves_waiting_what_brought_none(service: Service) -> None:
    await create_price(service, model=DYNAMIC)
    await submit(service, measurement(value=5), measurement(value=7, unit_price=2))
    (kind,) = await listed(service, unpriced=True)
    assert kind.priced_from is not None
    assert kind.unpriced == Unpriced(1, 1, Decimal(5), date(2026, 3, 1), date(2026, 3, 1))


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_kinds_come_in_pages_by_meter_and_key(service: Service, limit: int) -> None:
    for meter in ("b", "a"):
        await submit(service, *(measurement(meter=meter, kind=kind) for kind in ("", "y", "x")))
    await create_price(service, "a", kind="x")
    every = [(meter, key) for meter in "ab" for key in ("", "x", "y")]
    assert [(kind.meter, kind.key) for kind in await listed(service, limit)] == every
    unpriced = [(kind.meter, kind.key) for kind in await listed(service, limit, unpriced=True)]
    assert unpriced == [place for place in every if place != ("a", "x")]
    assert [kind.key for kind in await listed(service, limit, meter="b")] == ["", "x", "y"]
    assert await listed(service, limit, meter="c") == []


async def test_a_kind_is_named_whether_it_was_seen_or_not(service: Service) -> None:
    await submit(service, measurement(kind="plan-1"))
    assert (await put(service, "tokens", "plan-1", "micro")).name == "micro"
    unseen = await put(service, "tokens", "plan-2", "large")
    assert (unseen.name, unseen.unpriced) == ("large", None)
    await submit(service, measurement(kind="plan-2"))
    async with service.pool.connection() as conn:
        assert (await service.kinds.get(conn, "tokens", "plan-2")).name == "large"
        pairs = [("tokens", "plan-1"), ("tokens", "plan-2"), ("tokens", "plan-3"), ("words", "plan-1")]
        names = {("tokens", "plan-1"): "micro", ("tokens", "plan-2"): "large"}
        assert await service.kinds.names(conn, pairs) == names
        assert await service.kinds.names(conn, []) == {}
    assert (await put(service, "tokens", "plan-2", None)).name is None


async def test_what_is_wrong_is_said(service: Service) -> None:
    await create_customer(service, "ada")
    await submit(service, measurement())
    with pytest.raises(NotFound, match="there is no meter 'words'"):
        await put(service, "words", "", "Words")
    with pytest.raises(NotFound, match="meter 'tokens' has no kind 'plan-1'"):
        async with service.pool.connection() as conn:
            await service.kinds.get(conn, "tokens", "plan-1")
    for meter, key, name in (("", "", "x"), ("tokens", "\0", "x"), ("tokens", "x" * 257, "x"), ("tokens", "", " ")):
        with pytest.raises(InvalidInput):
            await put(service, meter, key, name)
    async with service.pool.connection() as conn:
        with pytest.raises(InvalidInput, match="cursor"):
            await service.kinds.page(conn, "nonsense", 10)
