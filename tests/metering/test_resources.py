"""Where resources stand: placed by sources and people, found by path, slug and pattern, moved with all below them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import psycopg
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.metering.model import Meter
from tallystick.metering.paths import app_path, service_path
from tallystick.metering.resources import Moved, Placement, Resource, Resources, Wanted
from tallystick.service import Service
from tests.metering.books import create_customer, fetch, measurement, put_meter, submit
from tests.metering.conftest import NOW
from tests.waiting import until_waiting

LIMIT = 100
WEB_DEV, WEB_PROD = app_path("x", "web_dev", "z"), app_path("x", "web_prod", "z")
DATABASE = service_path("x", "web_prod", "rds", "micro", "db")


class Tree:
    """The tree of the customer ``ada``, one transaction each."""

    def __init__(self, service: Service, resources: Resources) -> None:
        self.service = service
        self.resources = resources

    async def source(self, customer: str = "ada", **paths: str) -> int:
        async with self.service.pool.connection() as conn, conn.transaction():
            said = [(customer, Placement("cfapps", key, path)) for key, path in paths.items()]
            return await self.resources.place(conn, said)

    async def person(self, *, pinned: bool = True, **paths: str) -> int:
        async with self.service.pool.connection() as conn, conn.transaction():
            said = [Placement("cfapps", key, path) for key, path in paths.items()]
            return await self.resources.put(conn, "ada", said, pinned=pinned)

    async def move(self, path: str, to: str | None, *, name: str | None = None, merge: bool = False) -> Moved:
        async with self.service.pool.connection() as conn, conn.transaction():
            return await self.resources.move(conn, "ada", path, to, name=name, merge=merge)

    async def find(self, customer: str = "ada", **wanted: str) -> list[Resource]:
        async with self.service.pool.connection() as conn:
            return (await self.resources.page(conn, customer, Wanted(**wanted), None, LIMIT)).items

    async def paths(self, customer: str = "ada", **wanted: str) -> dict[str, str]:
        return {found.resource: found.path for found in await self.find(customer, **wanted)}


@pytest.fixture
async def tree(service: Service, clock: TestClock) -> Tree:
    await create_customer(service, "ada")
    await put_meter(service, Meter("cfapps", "gauge"))
    return Tree(service, Resources(clock, service.customers))


# Placing


async def test_a_source_says_where_resources_stand(tree: Tree, clock: TestClock) -> None:
    assert await tree.source(a=WEB_DEV, b=DATABASE) == 2
    assert await tree.find() == [
        Resource("cfapps", "a", WEB_DEV, "app_z", False, NOW, NOW),
        Resource("cfapps", "b", DATABASE, "svc_rds_micro_db", False, NOW, NOW),
    ]
    clock.advance(timedelta(hours=1))
    assert await tree.source(a=WEB_PROD, b=DATABASE) == 1, "what stands where it stood is not written again"
    (b, a) = sorted(await tree.find(), key=lambda found: found.placed_at)
    assert (a.path, a.created_at, a.placed_at) == (WEB_PROD, NOW, clock.now())
    assert b.placed_at == NOW


async def test_of_two_words_of_a_source_about_one_resource_the_last_one_counts(tree: Tree) -> None:
    said = [("ada", Placement("cfapps", "a", path)) for path in (WEB_DEV, WEB_PROD)]
    async with tree.service.pool.connection() as conn, conn.transaction():
        assert await tree.resources.place(conn, said) == 1
        assert await tree.resources.place(conn, []) == 0
    assert await tree.paths() == {"a": WEB_PROD}


async def test_a_source_may_know_customers_before_anybody_else(tree: Tree) -> None:
    assert await tree.source("new", a=WEB_DEV) == 1
    assert await tree.paths("new") == {"a": WEB_DEV}
    assert await tree.paths("ada") == {}


async def test_fixed_one_name_in_two_spaces_is_two_places(tree: Tree) -> None:
    """[B] theirs had one place for each slug of a customer: the second app of a name broke the reading."""
    await tree.source(one=WEB_DEV, two=WEB_PROD)
    assert {found.slug for found in await tree.find()} == {"app_z"}
    assert await tree.paths(slug="app_z") == {"one": WEB_DEV, "two": WEB_PROD}


async def test_what_a_person_placed_stays_there_whatever_sources_say(tree: Tree) -> None:
    await tree.source(a=WEB_DEV)
    assert await tree.person(a="mine.app") == 1
    assert await tree.person(a="mine.app") == 0
    assert await tree.source(a=WEB_DEV) == 0
    assert await tree.paths() == {"a": "mine.app"}
    assert await tree.person(a="mine.app", pinned=False) == 1
    assert await tree.source(a=WEB_DEV) == 1
    assert await tree.paths() == {"a": WEB_DEV}


async def test_a_resource_is_called_what_its_source_calls_it_wherever_it_stands(tree: Tree, clock: TestClock) -> None:
    async def called(name: str | None) -> list[tuple[str, str | None, datetime]]:
        async with tree.service.pool.connection() as conn, conn.transaction():
            await tree.resources.place(conn, [("ada", Placement("cfapps", "a", WEB_DEV, name))])
        return [(found.path, found.name, found.placed_at) for found in await tree.find()]

    assert await called(None) == [(WEB_DEV, None, NOW)]
    clock.advance(timedelta(hours=1))
    assert await called("My shop!") == [(WEB_DEV, "My shop!", NOW)], "a name is no move"
    assert await called(None) == [(WEB_DEV, "My shop!", NOW)]
    await tree.person(a="mine.app")
    assert await called("Our shop") == [("mine.app", "Our shop", clock.now())]


@pytest.mark.parametrize(
    ("placement", "field"),
    [
        (Placement("cfapps", "a", ""), "path"),
        (Placement("cfapps", "a", "a..b"), "path"),
        (Placement("cfapps", "a", "x" * 257), "path"),
        (Placement("", "a", "a"), "meter"),
        (Placement("nothing", "a", "a"), "meter"),
        (Placement("cfapps", "a\0", "a"), "resource"),
        (Placement("cfapps", "r" * 257, "a"), "resource"),
        (Placement("cfapps", "b", "a"), "resource"),
        (Placement("cfapps", "a", "a", "n" * 257), "name"),
        (Placement("cfapps", "a", "a", "n\0"), "name"),
    ],
)
async def test_a_person_is_told_what_is_wrong_and_nothing_is_placed(
    tree: Tree, placement: Placement, field: str
) -> None:
    async with tree.service.pool.connection() as conn:
        with pytest.raises(InvalidInput) as refused:
            await tree.resources.put(conn, "ada", [Placement("cfapps", "b", "fine"), placement])
    assert refused.value.field == field
    assert await tree.paths() == {}


async def test_usage_that_names_no_resource_can_have_a_place_too(tree: Tree) -> None:
    async with tree.service.pool.connection() as conn, conn.transaction():
        await tree.resources.put(conn, "ada", [Placement("cfapps", "", "all.of_it")])
        assert (await tree.resources.get(conn, "ada", "cfapps", "")).path == "all.of_it"


async def test_a_place_can_be_taken_away(tree: Tree) -> None:
    await tree.source(a=WEB_DEV)
    async with tree.service.pool.connection() as conn:
        await tree.resources.forget(conn, "ada", "cfapps", "a")
        for refused in (tree.resources.forget, tree.resources.get):
            with pytest.raises(NotFound, match="resource 'a' of meter 'cfapps' has no place"):
                await refused(conn, "ada", "cfapps", "a")
    assert await tree.paths() == {}


async def test_nobody_has_no_tree(tree: Tree) -> None:
    async with tree.service.pool.connection() as conn:
        for asked in (
            tree.resources.put(conn, "nobody", []),
            tree.resources.get(conn, "nobody", "cfapps", "a"),
            tree.resources.page(conn, "nobody", Wanted(), None, LIMIT),
            tree.resources.move(conn, "nobody", "a", "b"),
            tree.resources.forget(conn, "nobody", "cfapps", "a"),
        ):
            with pytest.raises(NotFound, match="there is no customer 'nobody'"):
                await asked


async def test_the_database_itself_refuses_what_is_no_path(tree: Tree, database_url: str) -> None:
    insert = (
        "insert into resources (customer_id, meter, key, path, pinned, created_at, placed_at)"
        " values (gen_random_uuid(), 'm', 'k', %s, false, now(), now())"
    )
    with psycopg.connect(database_url, autocommit=True) as conn:
        for path in ("", "a.", ".a", "a..b", "a-b", "ä", "a\n", "x" * 257, ".".join(["a" * 200] * 6)):
            with pytest.raises(psycopg.errors.CheckViolation):
                conn.execute(insert, [path])


# Finding


FOREST = {
    "1": "a",
    "2": "a.b",
    "3": "a.b.c_d",
    "4": "a.b.cXd",
    "5": "a.bb",
    "6": "a.b_",
    "7": "aa.b",
    "8": "A.b",
    "9": "a.b.c_d.e",
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "123456789"),
        ({"under": "a"}, "1234569"),
        ({"under": "a.b"}, "2349"),
        ({"under": "a.b.c_d"}, "39"),
        ({"under": "b"}, ""),
        ({"over": "a.b.c_d.e"}, "123"),
        ({"over": "a"}, ""),
        ({"over": "a.b.nothing"}, "12"),
        ({"slug": "b"}, "278"),
        ({"slug": "c_d"}, "3"),
        ({"pattern": "a.b%.*"}, "234569"),
        ({"pattern": "*.b"}, "278"),
        ({"pattern": "a.*{2}"}, "34"),
        ({"pattern": "%a.*"}, "12345679"),
        ({"under": "a.b", "slug": "b"}, "2"),
        ({"under": "a.b", "pattern": "*.e"}, "9"),
        ({"meter": "cfapps", "under": "aa"}, "7"),
        ({"meter": "other"}, ""),
    ],
)
async def test_what_is_found(tree: Tree, wanted: dict[str, str], found: str) -> None:
    """``_`` in a path is a character like any other, and no sibling whose name begins alike is below."""
    await tree.source(**FOREST)
    await tree.source("somebody else", **FOREST)
    assert await tree.paths(**wanted) == {key: FOREST[key] for key in found}


@pytest.mark.parametrize(
    ("wanted", "field"), [({"under": "a-b"}, "under"), ({"over": "."}, "over"), ({"pattern": "a**"}, "pattern")]
)
async def test_what_cannot_be_looked_for_is_refused(tree: Tree, wanted: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await tree.find(**wanted)
    assert refused.value.field == field


async def test_pages_show_each_resource_once(tree: Tree) -> None:
    await tree.source(**FOREST, twin="a.b")
    async with tree.service.pool.connection() as conn:
        found: list[Resource] = []
        cursor, pages = None, 0
        while pages == 0 or cursor is not None:
            page = await tree.resources.page(conn, "ada", Wanted(under="a"), cursor, 3)
            found += page.items
            cursor, pages = page.next, pages + 1
    assert pages == 3
    assert [one.path for one in found] == sorted(
        [*(path for path in FOREST.values() if path[:2] in ("a", "a.")), "a.b"]
    )
    assert len({one.resource for one in found}) == len(found)


# Moving


async def test_a_move_takes_all_below_along_and_pins_it(tree: Tree) -> None:
    await tree.source(**FOREST)
    assert await tree.move("a.b", "x.y") == Moved("x.y.b", 4)
    assert await tree.paths() == FOREST | {"2": "x.y.b", "3": "x.y.b.c_d", "4": "x.y.b.cXd", "9": "x.y.b.c_d.e"}
    assert {one.resource for one in await tree.find() if one.pinned} == set("2349")
    assert {one.slug for one in await tree.find(under="x")} == {"b", "c_d", "cXd", "e"}
    await tree.source(**FOREST)
    assert (await tree.paths())["2"] == "x.y.b"


@pytest.mark.parametrize(
    ("path", "to", "name", "target"),
    [
        ("a.b", None, None, "b"),
        ("a.b", None, "My App", "My_App"),
        ("a.b", "a", "renamed", "a.renamed"),
        ("a.b", "a.bb", None, "a.bb.b"),
        ("a.b", "a.b_", None, "a.b_.b"),
        ("a", "b", None, "b.a"),
        ("a.b.c_d.e", "a.b", None, "a.b.e"),
    ],
)
async def test_where_a_move_may_go(tree: Tree, path: str, to: str | None, name: str | None, target: str) -> None:
    await tree.source(**FOREST)
    assert (await tree.move(path, to, name=name)).path == target
    expected = {
        key: target + old[len(path) :] if old == path or old.startswith(f"{path}.") else old
        for key, old in FOREST.items()
    }
    assert await tree.paths() == expected


async def test_a_move_up_over_itself(tree: Tree) -> None:
    """The new place is above the old one, and nothing else stands there."""
    await tree.source(one="a.a.x", two="a.a.y")
    assert await tree.move("a.a", None) == Moved("a", 2)
    assert await tree.paths() == {"one": "a.x", "two": "a.y"}


@pytest.mark.parametrize("to", ["a.b", "a.b.c_d", "a.b.new.place"])
async def test_fixed_nothing_is_moved_under_itself(tree: Tree, to: str) -> None:
    """[B] theirs read a column that did not exist, so that nothing could be moved at all."""
    await tree.source(**FOREST)
    with pytest.raises(InvalidInput, match="nothing can be moved under itself") as refused:
        await tree.move("a.b", to)
    assert refused.value.field == "to"
    assert await tree.paths() == FOREST


async def test_a_move_says_what_is_wrong(tree: Tree) -> None:
    await tree.source(**FOREST, long="l." + ".".join(["x" * 200] * 5))
    for path, to, name, kind, field in (
        ("a.b", "a", None, InvalidInput, "to"),
        ("a.nothing", "x", None, NotFound, "path"),
        ("a.c", "x", None, NotFound, "path"),
        ("a..b", "x", None, InvalidInput, "path"),
        ("a.b", "x-y", None, InvalidInput, "to"),
        ("l", "x" * 30, None, InvalidInput, "to"),
        ("a.bb", "a", "b", Conflict, "to"),
        ("aa.b", "a", None, Conflict, "to"),
    ):
        with pytest.raises(TallyError) as refused:
            await tree.move(path, to, name=name)
        assert (type(refused.value), refused.value.field) == (kind, field), (path, to, name, refused.value)
    assert {key: path for key, path in (await tree.paths()).items() if key != "long"} == FOREST


async def test_what_stands_there_already_is_joined_only_if_asked(tree: Tree) -> None:
    await tree.source(**FOREST)
    assert await tree.move("aa.b", "a", merge=True) == Moved("a.b", 1)
    assert await tree.paths(under="a.b") == {"2": "a.b", "3": "a.b.c_d", "4": "a.b.cXd", "7": "a.b", "9": "a.b.c_d.e"}


async def test_a_tree_is_its_customers_own(tree: Tree) -> None:
    """[B] theirs looked above and below in the trees of all customers."""
    await tree.source(**FOREST)
    await tree.source("somebody else", **FOREST)
    await tree.move("a.b", "x")
    assert await tree.paths("somebody else") == FOREST


async def test_two_moves_at_once_take_turns(tree: Tree) -> None:
    """Each into the other's place: one goes first, and the other one takes along what came."""
    await tree.source(one="a.one", two="b.two")
    pool = tree.service.pool
    async with pool.connection() as first, pool.connection() as second:
        async with first.transaction():
            await tree.resources.move(first, "ada", "a", "b")

            async def meanwhile() -> Moved:
                async with second.transaction():
                    return await tree.resources.move(second, "ada", "b", "a")

            other = asyncio.create_task(meanwhile())
            await until_waiting(first, second)
        assert await other == Moved("a.b", 2)
    assert await tree.paths() == {"one": "a.b.a.one", "two": "a.b.two"}


# Beside intake


async def test_recording_usage_writes_nothing_here(tree: Tree) -> None:
    await submit(tree.service, measurement(resource="r", meter="cfapps"))
    assert await fetch(tree.service, "select 1 from resources") == []
