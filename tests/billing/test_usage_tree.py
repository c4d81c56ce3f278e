"""The usage report: rolled up along paths, and nothing of it lost."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.billing import usage_tree
from tallystick.billing.periods import Period, period_of, periods
from tallystick.billing.usage_tree import Node, PeriodUsage, Row, Sums, UsageReport, UsageTrees, grow, steps_to
from tallystick.customers.hierarchy import Hierarchy
from tallystick.kernel.calendar import parse_month
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import InvalidInput, NotFound
from tallystick.kernel.money import format_amount
from tallystick.metering.paths import app_path, orphan_path, service_path
from tallystick.metering.resources import Placement, Resources
from tallystick.service import Service
from tests.metering.books import MODELS, create_customer, create_price, fresh, measurement, submit

NEW_YORK = ZoneInfo("America/New_York")
MARCH = parse_month("2026-03")
PLATFORM = "apps.usage.cforg_%.space_%.*{1,}"
TICK = timedelta(microseconds=1)

Line = tuple[int, str, str, str]
"""Depth, level, name and credits of a line of a report."""


@pytest.fixture
def trees(service: Service, clock: TestClock) -> UsageTrees:
    return UsageTrees(clock, service.customers, Hierarchy(), service.assets, service.display_rates)


async def place(service: Service, customer: str, meter: str = "tokens", **paths: str) -> None:
    """Says where resources of a customer stand, as a source does."""
    resources = Resources(service.clock, service.customers)
    async with service.pool.connection() as conn, conn.transaction():
        await resources.place(conn, [(customer, Placement(meter, key, path)) for key, path in paths.items()])


async def report(
    service: Service, trees: UsageTrees, *wanted: Period, customer: str = "ada", **options: Any
) -> UsageReport:
    async with service.pool.connection() as conn:
        return await trees.report(conn, customer, wanted or [period_of(MARCH)], **options)


async def only(service: Service, trees: UsageTrees, *wanted: Period, **options: Any) -> PeriodUsage:
    (usage,) = (await report(service, trees, *wanted, **options)).periods
    return usage


def lines(nodes: list[Node], depth: int = 0, asset: str = "CREDIT") -> list[Line]:
    """A tree as it is read, from the top down."""
    return [
        line
        for node in nodes
        for line in [
            (depth, node.level, node.name, format_amount(node.sums.amounts.get(asset, 0), places=3)),
            *lines(node.children, depth + 1, asset),
        ]
    ]


# The report itself


async def sample(service: Service) -> None:
    """The sample of the platform's description: two apps and a service of one organization."""
    for meter in ("cfapps", "cfservices"):
        await create_price(service, meter, {"type": "per_unit", "amount": "0.000001"})
    await place(service, "ada", "cfapps", a=app_path("x", "web-dev", "shop"), b=app_path("x", "web-prod", "shop"))
    await place(service, "ada", "cfservices", s=service_path("x", "web-prod", "rds", "micro", "db"))
    await submit(
        service,
        measurement(meter="cfapps", resource="a", value=1_000_000),
        measurement(meter="cfapps", resource="b", value=2_000_000),
        measurement(meter="cfservices", resource="s", value=500_000),
    )


async def test_the_sample_of_the_description(service: Service, trees: UsageTrees) -> None:
    await sample(service)
    async with service.pool.connection() as conn, conn.transaction():
        since = datetime(2026, 1, 1, tzinfo=UTC)
        await service.display_rates.add(conn, "CREDIT", "USD", Decimal(50), since)
    usage = await only(service, trees, pattern=PLATFORM, display="USD")
    assert lines(usage.tree) == [
        (0, "organization", "cforg_x", "3.500"),
        (1, "space_family", "space_web", "3.500"),
        (2, "space", "space_web_dev", "1.000"),
        (3, "leaf", "app_shop", "1.000"),
        (2, "space", "space_web_prod", "2.500"),
        (3, "leaf", "app_shop", "2.000"),
        (3, "leaf", "svc_rds_micro_db", "0.500"),
    ]
    assert usage.total == usage.selected == Sums(3, 0, {"CREDIT": 3_500_000})
    assert usage.displays["CREDIT"].amount("CREDIT", 3_500_000) == 175_000_000
    (organization,) = usage.tree
    assert organization.path == "apps.usage.cforg_x"
    assert organization.children[0].path == "apps.usage.cforg_x.space_web"
    assert usage.elsewhere.sums == usage.unplaced.sums == Sums()


async def test_spaces_of_all_environments_are_one_family(service: Service, trees: UsageTrees) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    spaces = ("web", "web_test", "web_dev", "web_stage", "web_staging", "web_prod", "webdev", "dev", "prod")
    await place(service, "ada", **{space: app_path("x", space, "a") for space in spaces})
    await submit(service, *(measurement(resource=space) for space in spaces))
    (organization,) = (await only(service, trees)).tree
    families = {family.name: [space.name for space in family.children] for family in organization.children}
    assert families == {
        "space": ["space_dev", "space_prod"],
        "space_web": [f"space_web{end}" for end in ("", "_dev", "_prod", "_stage", "_staging", "_test")],
        "space_webdev": ["space_webdev"],
    }


async def test_what_nobody_asked_for_and_what_has_no_path_stand_apart(service: Service, trees: UsageTrees) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await create_price(service, "disk", {"type": "per_unit", "amount": "1"}, asset="USD")
    await place(service, "ada", a=app_path("x", "y", "a"), b=orphan_path("b"), c="projects.alpha.db")
    await submit(
        service,
        measurement(resource="a", value=1),
        measurement(resource="b", value=20),
        measurement(resource="c", value=300),
        measurement(resource="d", value=4000),
        measurement(value=50_000),
        measurement(meter="disk", resource="a", value=7),
        measurement(meter="new", value=9),
    )
    usage = await only(service, trees, pattern=PLATFORM)
    assert lines(usage.tree)[-1] == (3, "leaf", "app_a", "1.000")
    assert usage.selected.amounts == {"CREDIT": 1_000_000}
    assert usage.elsewhere.sums.amounts == {"CREDIT": 320_000_000}
    assert usage.unplaced.sums == Sums(4, 1, {"CREDIT": 54_000_000_000, "USD": 7_000_000})
    assert [(node.name, node.sums.amounts) for node in usage.unplaced.children] == [
        ("disk", {"USD": 7_000_000}),
        ("new", {}),
        ("tokens", {"CREDIT": 54_000_000_000}),
    ]
    assert usage.total.amounts == {"CREDIT": 54_321_000_000, "USD": 7_000_000}
    everything = await only(service, trees)
    assert everything.elsewhere.sums == Sums()
    assert lines(everything.tree)[4:] == [
        (0, "branch", "orphan", "20.000"),
        (1, "leaf", "app_b", "20.000"),
        (0, "branch", "projects", "300.000"),
        (1, "branch", "alpha", "300.000"),
        (2, "leaf", "db", "300.000"),
    ]


async def test_a_place_given_later_counts_for_the_past(service: Service, trees: UsageTrees) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await submit(service, measurement(resource="a", value=3))
    assert (await only(service, trees)).unplaced.sums.amounts == {"CREDIT": 3_000_000}
    await place(service, "ada", a="there")
    usage = await only(service, trees)
    assert lines(usage.tree) == [(0, "leaf", "there", "3.000")]
    assert usage.unplaced.sums == Sums()


async def test_the_tree_ends_where_it_is_told_and_sums_stay(service: Service, trees: UsageTrees) -> None:
    await sample(service)
    whole = lines((await only(service, trees)).tree)
    for depth in range(6):
        usage = await only(service, trees, depth=depth)
        assert lines(usage.tree) == [line for line in whole if line[0] < depth]
        assert usage.selected.amounts == {"CREDIT": 3_500_000}


async def test_what_waits_for_a_price_is_counted_and_costs_nothing(service: Service, trees: UsageTrees) -> None:
    await place(service, "ada", a="there")
    await submit(service, measurement(resource="a"), measurement(resource="a"))
    (node,) = (await only(service, trees)).tree
    assert node.sums == Sums(2, 2, {})
    await create_price(service)
    (node,) = (await only(service, trees)).tree
    assert node.sums == Sums(2, 0, {"CREDIT": 4_000_000})


async def test_a_report_is_of_one_customer_or_of_all_below_it_as_well(service: Service, trees: UsageTrees) -> None:
    """[B] theirs added up whatever any customer had measured under the same name of a resource."""
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    hierarchy = Hierarchy()
    for customer, value in (("agency", 1), ("ada", 20), ("bob", 300), ("other", 4000)):
        await create_customer(service, customer)
        await place(service, customer, same=app_path(customer, "y", "a"))
        await submit(service, measurement(customer, resource="same", value=value))
    async with service.pool.connection() as conn, conn.transaction():
        await hierarchy.move(conn, "ada", "agency")
        await hierarchy.move(conn, "bob", "ada")
    assert (await only(service, trees, customer="agency")).total.amounts == {"CREDIT": 1_000_000}
    all_of_them = await only(service, trees, customer="agency", descendants=True)
    assert all_of_them.total.amounts == {"CREDIT": 321_000_000}
    assert [node.name for node in all_of_them.tree] == ["cforg_ada", "cforg_agency", "cforg_bob"]
    assert (await only(service, trees, customer="bob", descendants=True)).total.amounts == {"CREDIT": 300_000_000}


# Periods


async def test_fixed_a_month_is_that_of_the_business_zone_whatever_the_databases(
    service: Service, trees: UsageTrees
) -> None:
    """[B] theirs took the time zone of the database session."""
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    for number, at in enumerate([MARCH.start - TICK, MARCH.start, MARCH.end - TICK, MARCH.end]):
        await submit(service, measurement(value=10**number, at=at))
    for zone in ("UTC", "Asia/Tokyo", "Pacific/Honolulu"):
        async with service.pool.connection() as conn, conn.transaction():
            await conn.execute("select set_config('timezone', %s, true)", [zone])
            (usage,) = (await trees.report(conn, "ada", [period_of(MARCH)])).periods
        assert usage.total.amounts == {"CREDIT": 110_000_000}


async def test_several_periods_are_one_report(service: Service, trees: UsageTrees, clock: TestClock) -> None:
    await create_price(service, model={"type": "per_unit", "amount": "1"})
    await place(service, "ada", a="there")
    now = clock.now()
    for days in range(60):
        await submit(service, measurement(resource="a", value=days + 1, at=now - timedelta(days=days)))
    for unit, after in (("day", -59), ("week", -9), ("month", -3), ("year", -1)):
        wanted = periods(unit, after, 1, now, NEW_YORK)  # type: ignore[arg-type]
        found = (await report(service, trees, *wanted)).periods
        assert [usage.period for usage in found] == wanted
        assert sum(usage.total.amounts.get("CREDIT", 0) for usage in found) == sum(range(1, 61)) * 1_000_000
        for usage in found:
            days_in = [
                days for days in range(60) if usage.period.start <= now - timedelta(days=days) < usage.period.end
            ]
            assert usage.total.amounts.get("CREDIT", 0) == sum(days + 1 for days in days_in) * 1_000_000
            assert [node.name for node in usage.tree] == (["there"] if days_in else [])


# Limits and refusals


async def test_a_report_is_refused_with_field_and_rule(
    service: Service, trees: UsageTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_customer(service, "ada")
    await create_customer(service, "bob")
    async with service.pool.connection() as conn, conn.transaction():
        await Hierarchy().move(conn, "bob", "ada")
    with pytest.raises(NotFound):
        await report(service, trees, customer="nobody")
    for options, field in (({"pattern": "a b"}, "pattern"), ({"display": "XXY"}, "display")):
        with pytest.raises(InvalidInput) as refused:
            await report(service, trees, **options)
        assert refused.value.field == field
    await place(service, "ada", a="one", b="two")
    await submit(service, measurement(resource="a"), measurement(resource="b"))
    monkeypatch.setattr(usage_tree, "MAX_LEAVES", 1)
    with pytest.raises(InvalidInput, match="at most 1 leaves"):
        await report(service, trees)
    assert (await only(service, trees, pattern="three")).elsewhere.sums.measurements == 2
    monkeypatch.setattr(usage_tree, "MAX_CUSTOMERS", 1)
    with pytest.raises(InvalidInput, match="at most 1 customers"):
        await report(service, trees, descendants=True)


async def test_amounts_without_a_rate_have_no_cost(service: Service, trees: UsageTrees) -> None:
    await create_price(service)
    await create_price(service, "disk", asset="EUR")
    await submit(service, measurement(), measurement(meter="disk"))
    assert (await only(service, trees, display="USD")).displays == {}
    async with service.pool.connection() as conn, conn.transaction():
        await service.display_rates.add(conn, "EUR", "USD", Decimal("1.1"), datetime(2026, 1, 1, tzinfo=UTC))
    assert set((await only(service, trees, display="USD")).displays) == {"EUR"}
    assert set((await only(service, trees, display="CREDIT")).displays) == {"CREDIT"}


# Nothing is lost


@pytest.mark.parametrize("seed", range(4))
async def test_the_sum_of_a_tree_is_the_bill_of_its_month(service: Service, trees: UsageTrees, seed: int) -> None:
    """Whatever was used, priced and placed, in whatever order."""
    chance = random.Random(seed)
    customers, meters = ("ada", "bob"), ("m1", "m2", "m3", "m4")
    assets = ("CREDIT", "USD")
    paths = [app_path("x", "w_dev", "a"), app_path("x", "w_prod", "a"), app_path("y", "w", "b"), "orphan.app_q", "z"]

    async def price(meter: str) -> None:
        await create_price(service, meter, chance.choice(MODELS[:-1]), asset=chance.choice(assets))

    for meter in meters[:2]:
        await price(meter)
    for round_ in range(6):
        await submit(
            service,
            *(
                measurement(
                    chance.choice(customers),
                    chance.randint(0, 10**6),
                    meter=chance.choice(meters),
                    resource=chance.choice(["", "r1", "r2", "r3", "r4", "r5"]),
                    at=MARCH.start + timedelta(hours=chance.randrange(-700, 1500)),
                    sender_id=fresh("id"),
                )
                for _ in range(40)
            ),
        )
        for customer in customers:
            resource, path, meter = f"r{chance.randint(1, 5)}", chance.choice(paths), chance.choice(meters)
            await place(service, customer, meter, **{resource: path})
        if round_ == 3:
            await price("m3")
    for customer in customers:
        for month in ("2026-01", "2026-02", "2026-03", "2026-04", "2026-05"):
            wanted = parse_month(month)
            async with service.pool.connection() as conn:
                bill = await service.bills.bill(conn, customer, wanted)
            for pattern in ("*", PLATFORM, "nothing"):
                usage = await only(service, trees, period_of(wanted), customer=customer, pattern=pattern)
                assert usage.total.amounts == bill.totals
                assert usage.total.measurements == sum(line.measurements for line in bill.lines)
                assert_adds_up(usage)


def assert_adds_up(usage: PeriodUsage) -> None:
    """The headings add up to the total, and the children of every node to the node."""
    assert added([usage.selected, usage.elsewhere.sums, usage.unplaced.sums]) == usage.total
    assert added([node.sums for node in usage.tree]) == usage.selected
    for node in [*usage.tree, usage.unplaced]:
        assert_node_adds_up(node)


def assert_node_adds_up(node: Node) -> None:
    if node.children:
        assert added([child.sums for child in node.children]) == node.sums
    for child in node.children:
        assert child.path is None or node.path is None or node.path.rpartition(".")[0] in child.path
        assert_node_adds_up(child)


def added(parts: list[Sums]) -> Sums:
    total = Sums()
    for part in parts:
        total.measurements += part.measurements
        total.unpriced += part.unpriced
        for asset, amount in part.amounts.items():
            total.amounts[asset] = total.amounts.get(asset, 0) + amount
    return total


LABELS = st.sampled_from(["a", "b_dev", "cforg_x", "cforg_y", "space_w", "space_w_dev", "space_w_prod", "app_q"])
PATHS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
USED = (st.sampled_from([None, "CREDIT", "USD"]), st.integers(-(10**30), 10**30), st.integers(1, 9))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    heading = draw(st.sampled_from(["selected", "elsewhere", "unplaced"]))
    name = {"selected": draw(PATHS), "unplaced": draw(st.sampled_from(["m1", "m2", ""])), "elsewhere": None}[heading]
    asset, amount, measurements = (draw(part) for part in USED)
    waiting = measurements if asset is None else 0
    return Row(draw(st.integers(0, 1)), heading, name, asset, 0 if asset is None else amount, measurements, waiting)  # type: ignore[arg-type]


TWO = [Period(label, MARCH.start, MARCH.end, (date.min, date.max)) for label in ("one", "two")]


@given(st.lists(rows(), max_size=20))
def test_every_level_adds_up(found: list[Row]) -> None:
    reports = grow(TWO, found)
    for number, usage in enumerate(reports):
        assert_adds_up(usage)
        assert usage.total.measurements == sum(row.measurements for row in found if row.period == number)
    assert [usage.tree for usage in grow(TWO, found, 0)] == [[], []]


@given(PATHS)
def test_the_way_to_a_leaf(path: str) -> None:
    steps = steps_to(path)
    assert (steps[-1].level, steps[-1].path) == ("leaf", path)
    assert [step.level for step in steps[:-1]].count("leaf") == 0
    assert all(path.startswith(step.path) for step in steps if step.level != "space_family")
    assert all(one.path.count(".") <= other.path.count(".") for one, other in pairwise(steps))


def test_a_path_of_hundreds_of_labels_has_a_leaf_that_is_not_that_deep() -> None:
    steps = steps_to(".".join("a" * 500))
    assert len(steps) == usage_tree.MAX_LEVELS
    assert steps[-1].name.count("a") == 500 - usage_tree.MAX_LEVELS + 1
