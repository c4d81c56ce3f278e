"""Customers below customers: moving them, never into a circle, and walking up and down."""

from __future__ import annotations

import asyncio

import pytest

from tallystick.customers.hierarchy import MAX_LEVELS, Hierarchy, Place
from tallystick.customers.model import NewCustomer
from tallystick.customers.service import Customers
from tallystick.database.pool import Connection, Pool
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tests.waiting import until_waiting

LIMIT = 100


@pytest.fixture
def hierarchy() -> Hierarchy:
    return Hierarchy()


async def create(conn: Connection, customers: Customers, **parents: str | None) -> None:
    for key, parent in parents.items():
        await customers.create(conn, NewCustomer(key, name=key.upper(), parent=parent))


async def below(conn: Connection, hierarchy: Hierarchy, key: str) -> dict[str, tuple[str, ...]]:
    return {place.key: place.keys for place in (await hierarchy.descendants(conn, key, None, LIMIT)).items}


async def chain(conn: Connection, customers: Customers, prefix: str, length: int) -> None:
    parents = [None, *(f"{prefix}{number}" for number in range(1, length))]
    await create(conn, customers, **{f"{prefix}{number}": parent for number, parent in enumerate(parents, 1)})


async def test_who_stands_above_and_below(conn: Connection, customers: Customers, hierarchy: Hierarchy) -> None:
    await create(conn, customers, top=None, a="top", b="top", a1="a", a2="a", other=None)
    assert await hierarchy.place(conn, "a1") == Place("a1", "A1", ("top", "a", "a1"))
    assert (await hierarchy.place(conn, "top")).parent is None
    ancestors = await hierarchy.ancestors(conn, "a1", None, LIMIT)
    assert [(place.key, place.level, place.parent) for place in ancestors.items] == [("a", 2, "top"), ("top", 1, None)]
    assert await below(conn, hierarchy, "top") == {
        "a": ("top", "a"),
        "a1": ("top", "a", "a1"),
        "a2": ("top", "a", "a2"),
        "b": ("top", "b"),
    }
    assert await below(conn, hierarchy, "a") == {"a1": ("top", "a", "a1"), "a2": ("top", "a", "a2")}
    assert await below(conn, hierarchy, "other") == {}


async def test_a_move_takes_all_below_along(conn: Connection, customers: Customers, hierarchy: Hierarchy) -> None:
    await create(conn, customers, top=None, a="top", a1="a", other=None)
    moved = await hierarchy.move(conn, "a", "other")
    assert moved == Place("a", "A", ("other", "a"))
    assert (await hierarchy.place(conn, "a1")).keys == ("other", "a", "a1")
    assert await below(conn, hierarchy, "top") == {}
    assert (await customers.get(conn, "a")).parent == "other"
    assert await hierarchy.move(conn, "a", "other") == moved, "once more changes nothing"
    assert (await hierarchy.move(conn, "a", None)).keys == ("a",)
    assert (await hierarchy.place(conn, "a1")).keys == ("a", "a1")


async def test_a_move_leaves_who_pays(conn: Connection, customers: Customers, hierarchy: Hierarchy) -> None:
    await create(conn, customers, payer=None, other=None)
    await customers.create(conn, NewCustomer("a", parent="payer", payer="payer"))
    await hierarchy.move(conn, "a", "other")
    assert (await customers.get(conn, "a")).payer == "payer"


@pytest.mark.parametrize("parent", ["a", "a1", "a11"])
async def test_nobody_is_moved_under_itself(
    conn: Connection, customers: Customers, hierarchy: Hierarchy, parent: str
) -> None:
    await create(conn, customers, top=None, a="top", a1="a", a11="a1")
    with pytest.raises(Conflict, match="parent must not be below the customer") as refused:
        await hierarchy.move(conn, "a", parent)
    assert refused.value.field == "parent"
    assert (await hierarchy.place(conn, "a11")).keys == ("top", "a", "a1", "a11")


async def test_a_move_names_what_does_not_exist(conn: Connection, customers: Customers, hierarchy: Hierarchy) -> None:
    await create(conn, customers, a=None)
    with pytest.raises(InvalidInput, match="parent names no customer: 'nobody'") as refused:
        await hierarchy.move(conn, "a", "nobody")
    assert refused.value.field == "parent"
    with pytest.raises(NotFound, match="there is no customer 'nobody'"):
        await hierarchy.move(conn, "nobody", "a")
    for key in ("", "a\0", "k" * 257):
        with pytest.raises(TallyError) as bad:
            await hierarchy.move(conn, "a", key)
        assert bad.value.field == "parent"


async def test_levels_are_limited_wherever_they_come_from(
    conn: Connection, customers: Customers, hierarchy: Hierarchy
) -> None:
    await chain(conn, customers, "a", MAX_LEVELS)
    assert (await hierarchy.place(conn, f"a{MAX_LEVELS}")).level == MAX_LEVELS
    with pytest.raises(InvalidInput, match=f"at most {MAX_LEVELS}"):
        await customers.create(conn, NewCustomer("b", parent=f"a{MAX_LEVELS}"))
    await chain(conn, customers, "c", 3)
    with pytest.raises(InvalidInput, match=f"at most {MAX_LEVELS}"):
        await hierarchy.move(conn, "c1", f"a{MAX_LEVELS - 2}")
    assert (await hierarchy.move(conn, "c1", f"a{MAX_LEVELS - 3}")).level == MAX_LEVELS - 2
    assert (await hierarchy.place(conn, "c3")).level == MAX_LEVELS


async def test_pages_of_either_way(conn: Connection, customers: Customers, hierarchy: Hierarchy) -> None:
    await chain(conn, customers, "a", 8)
    for walk, key in ((hierarchy.ancestors, "a8"), (hierarchy.descendants, "a1")):
        keys, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = await walk(conn, key, cursor, 3)
            assert len(page.items) <= 3
            keys += [place.key for place in page.items]
            cursor, pages = page.next, pages + 1
        assert pages == 3
        assert sorted(keys) == sorted({f"a{number}" for number in range(1, 9)} - {key})
    for cursor in ("nonsense", "WyJ4Il0"):
        with pytest.raises(InvalidInput, match="cursor"):
            await hierarchy.ancestors(conn, "a8", cursor, 3)


async def test_a_branch_is_a_customer_with_all_below_it(
    conn: Connection, customers: Customers, hierarchy: Hierarchy
) -> None:
    await create(conn, customers, top=None, a="top", a1="a", b="top")
    ids = {key: (await customers.get(conn, key)).id for key in ("top", "a", "a1", "b")}
    assert set(await hierarchy.branch(conn, ids["a"], 10)) == {ids["a"], ids["a1"]}
    assert set(await hierarchy.branch(conn, ids["top"], 10)) == set(ids.values())
    assert len(await hierarchy.branch(conn, ids["top"], 2)) == 2


async def test_two_moves_at_once_make_no_circle(pool: Pool, customers: Customers, hierarchy: Hierarchy) -> None:
    """Each alone is right, both together would be a circle: the second one sees what the first one did."""
    async with pool.connection() as conn:
        await create(conn, customers, a=None, b=None)

    async with pool.connection() as first, pool.connection() as second:
        async with first.transaction():
            await hierarchy.move(first, "a", "b")

            async def meanwhile() -> None:
                async with second.transaction():
                    await hierarchy.move(second, "b", "a")

            other = asyncio.create_task(meanwhile())
            await until_waiting(first, second)
        with pytest.raises(Conflict, match="stands below it"):
            await other
    async with pool.connection() as conn:
        assert (await hierarchy.place(conn, "a")).keys == ("b", "a")


async def test_a_customer_is_not_created_below_one_that_moves_down_meanwhile(
    pool: Pool, customers: Customers, hierarchy: Hierarchy
) -> None:
    async with pool.connection() as conn:
        await chain(conn, customers, "a", MAX_LEVELS - 1)
        await create(conn, customers, b=None)
    async with pool.connection() as first, pool.connection() as second:
        async with first.transaction():
            await hierarchy.move(first, "b", f"a{MAX_LEVELS - 1}")

            async def meanwhile() -> None:
                async with second.transaction():
                    await customers.create(second, NewCustomer("c", parent="b"))

            other = asyncio.create_task(meanwhile())
            await until_waiting(first, second)
        with pytest.raises(InvalidInput, match="one below the other"):
            await other
