"""Where customers and their resources stand, and usage rolled up along it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Query
from pydantic import Field

from tallystick.billing.periods import MAX_OFFSET, Period, Unit, period_of, periods
from tallystick.billing.usage_tree import EVERYTHING, MAX_LEVELS, Level, Node, PeriodUsage, Sums
from tallystick.customers.hierarchy import Place
from tallystick.kernel.calendar import month_of, parse_month
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import format_amount
from tallystick.ledger.rates import Display, converted
from tallystick.metering.paths import MAX_PATH_CHARACTERS, MAX_PATTERN_CHARACTERS, path_below, slug
from tallystick.metering.resources import Placement, Wanted
from tallystick.service import Service
from tallystick.web.native import (
    DEFAULT_LIMIT,
    Asked,
    Cursor,
    DecimalText,
    Limit,
    Listing,
    Serving,
    Shown,
    refusals,
    routes_of,
    transaction,
)
from tallystick.web.native_assets import DisplayIn, DisplayShown, display_shown
from tallystick.web.values import Key, Text

MAX_ITEMS = 1000
"""The most resources that one request places."""
REPORT_PLACES = 3
"""Decimals of amounts as the report shows them."""

router = routes_of("/customers", "Resources")

PathText = Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARACTERS, examples=["apps.usage.cforg_x.space_y"])]
PatternText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_PATTERN_CHARACTERS,
        description="Labels joined by dots. `%`: any characters, `a|b`: either, `*`: any labels, `*{1,}`: one or more",
        examples=["apps.usage.cforg_%.space_%.*{1,}"],
    ),
]


# Customers below customers


class PlaceShown(Shown):
    """`path` is made of the slugs of the keys on the way down to a customer; `level` is 1 at the top."""

    key: str
    name: str | None
    parent: str | None
    level: int
    slug: str
    path: str


class ParentAsked(Asked):
    parent: Annotated[Key | None, Field(description="Key of the customer it is to stand below; null: none")]


@router.put("/{key:key}/parent", responses=refusals(404, 409, body=True))
async def move_customer(key: Key, body: ParentAsked, service: Serving) -> PlaceShown:
    """Puts a customer, with all below it, below another one. Who pays for it stays the same."""
    async with transaction(service) as conn:
        return _place(await service.hierarchy.move(conn, key, body.parent))


@router.get("/{key:key}/ancestors", responses=refusals(404))
async def list_ancestors(
    key: Key, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[PlaceShown]:
    """Whoever stands above a customer, its parent first."""
    async with transaction(service) as conn:
        page = await service.hierarchy.ancestors(conn, key, cursor, limit)
    return Listing(items=[_place(place) for place in page.items], next=page.next)


@router.get("/{key:key}/descendants", responses=refusals(404))
async def list_descendants(
    key: Key, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[PlaceShown]:
    """Whoever stands below a customer, on any level, in the order of their keys."""
    async with transaction(service) as conn:
        page = await service.hierarchy.descendants(conn, key, cursor, limit)
    return Listing(items=[_place(place) for place in page.items], next=page.next)


def _place(place: Place) -> PlaceShown:
    slugs = [slug(key) for key in place.keys]
    return PlaceShown(
        key=place.key,
        name=place.name,
        parent=place.parent,
        level=place.level,
        slug=slugs[-1],
        path=".".join(slugs),
    )


# Resources in the tree of their customer


class ResourceShown(Shown):
    """`pinned`: a person put it there, and sources leave it there. `placed_at`: when it came there.

    `name` is what its source calls it, null if none has said: its path is made of slugs.
    """

    meter: str
    resource: str
    name: str | None
    path: str
    slug: str
    pinned: bool
    created_at: datetime
    placed_at: datetime


class PlaceAsked(Asked):
    """Either the whole `path`, or a `parent` path and a `name`, of which the slug is made."""

    path: PathText | None = None
    parent: Annotated[PathText | None, Field(description="Path of what it is to stand below")] = None
    name: Annotated[Key | None, Field(description="What people call it: `my app` becomes `my_app`")] = None
    pinned: Annotated[bool, Field(strict=True, description="Sources are to leave it there")] = True


class PlacementAsked(Asked):
    meter: Key
    resource: Annotated[Text, Field(description="Empty: the meter's usage that names no resource")]
    path: PathText


class PlacementsAsked(Asked):
    items: Annotated[list[PlacementAsked], Field(min_length=1, max_length=MAX_ITEMS)]
    pinned: Annotated[bool, Field(strict=True, description="Sources are to leave them there")] = True


class PlacementsShown(Shown):
    changed: int
    unchanged: int


class MoveAsked(Asked):
    path: Annotated[PathText, Field(description="What is to be moved, with all below it")]
    to: Annotated[PathText | None, Field(description="Path of what it is to stand below; null: nothing")]
    name: Annotated[Key | None, Field(description="Another name; without one it keeps its slug")] = None
    merge: Annotated[bool, Field(strict=True, description="Put it together with what stands there already")] = False


class MovedShown(Shown):
    path: str
    resources: int


@router.get("/{key:key}/resources", responses=refusals(404))
async def list_resources(
    key: Key,
    service: Serving,
    under: Annotated[PathText | None, Query(description="Only what stands at this path or below it")] = None,
    over: Annotated[PathText | None, Query(description="Only what stands above this path")] = None,
    slug: Key | None = None,
    pattern: PatternText | None = None,
    meter: Key | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[ResourceShown]:
    """A customer's resources that have a place, in the order of their paths."""
    wanted = Wanted(under, over, slug, pattern, meter)
    async with transaction(service) as conn:
        page = await service.resources.page(conn, key, wanted, cursor, limit)
    return Listing(items=[ResourceShown.model_validate(found) for found in page.items], next=page.next)


@router.put("/{key:key}/resources", responses=refusals(404, body=True))
async def place_resources(key: Key, body: PlacementsAsked, service: Serving) -> PlacementsShown:
    """Says where several resources stand: all of them or, if one cannot stand there, none."""
    placements = [Placement(item.meter, item.resource, item.path) for item in body.items]
    async with transaction(service) as conn:
        changed = await service.resources.put(conn, key, placements, pinned=body.pinned)
    return PlacementsShown(changed=changed, unchanged=len(placements) - changed)


@router.post("/{key:key}/resources/move", responses=refusals(404, 409, body=True))
async def move_resources(key: Key, body: MoveAsked, service: Serving) -> MovedShown:
    """Moves what stands at a path, with all below it. Sources leave it there from then on."""
    async with transaction(service) as conn:
        moved = await service.resources.move(conn, key, body.path, body.to, name=body.name, merge=body.merge)
    return MovedShown(path=moved.path, resources=moved.resources)


@router.get("/{key:key}/resources/{meter:key}/{resource:key}", responses=refusals(404))
async def get_resource(key: Key, meter: Key, resource: Key, service: Serving) -> ResourceShown:
    """Where one resource stands."""
    async with transaction(service) as conn:
        return ResourceShown.model_validate(await service.resources.get(conn, key, meter, resource))


@router.put("/{key:key}/resources/{meter:key}/{resource:key}", responses=refusals(404, body=True))
async def place_resource(key: Key, meter: Key, resource: Key, body: PlaceAsked, service: Serving) -> ResourceShown:
    """Says where one resource stands. Its usage, past usage too, is reported there from then on."""
    placement = Placement(meter, resource, _path(body))
    async with transaction(service) as conn:
        await service.resources.put(conn, key, [placement], pinned=body.pinned)
        return ResourceShown.model_validate(await service.resources.get(conn, key, meter, resource))


@router.delete("/{key:key}/resources/{meter:key}/{resource:key}", status_code=204, responses=refusals(404))
async def forget_resource(key: Key, meter: Key, resource: Key, service: Serving) -> None:
    """Takes a resource's place away. Its usage stays, and is reported as without a path."""
    async with transaction(service) as conn:
        await service.resources.forget(conn, key, meter, resource)


def _path(body: PlaceAsked) -> str:
    if body.path is not None:
        if body.parent is not None or body.name is not None:
            raise InvalidInput("path must not be given together with parent and name", field="path")
        return body.path
    if body.name is None:
        raise InvalidInput("name must be given with parent, or else path: a path without a slug is none", field="name")
    return path_below(body.parent or "", body.name)


# Usage along the tree


class AmountShown(Shown):
    """`amount` is exact, and so is `microunits`, which are millionths of it; `rounded` is what the report prints."""

    asset: str
    microunits: Annotated[str, Field(pattern=r"^-?\d+$")]
    amount: DecimalText
    rounded: DecimalText
    display: DisplayShown | None = None


class UsedShown(Shown):
    """`unpriced` of the measurements wait for a price, and are in none of the amounts."""

    measurements: int
    unpriced: int
    amounts: list[AmountShown]


class NodeShown(UsedShown):
    level: Level
    name: str
    path: str | None
    children: list[NodeShown]


class PeriodShown(Shown):
    """`selected`, which `tree` rolls up, with `elsewhere` and `unplaced` makes `total`: what was charged."""

    period: str
    start: datetime
    end: datetime
    total: UsedShown
    selected: UsedShown
    tree: list[NodeShown]
    elsewhere: NodeShown
    unplaced: NodeShown


class UsageTreeShown(Shown):
    customer: str
    name: str | None
    pattern: str
    periods: list[PeriodShown]


@router.get("/{key:key}/usage/tree", responses=refusals(404), response_model_exclude_unset=True)
async def usage_tree(
    key: Key,
    service: Serving,
    month: Annotated[
        str | None, Query(description="YYYY-MM in the business zone; this month if nothing is said")
    ] = None,
    period: Annotated[Unit | None, Query(description="What `after` and `before` count; `month` if left out")] = None,
    after: Annotated[
        int | None,
        Query(ge=-MAX_OFFSET, le=MAX_OFFSET, description="First period, counted from the present one: -1 is the last"),
    ] = None,
    before: Annotated[
        int | None,
        Query(ge=-MAX_OFFSET, le=MAX_OFFSET, description="The period before which it ends; 0 is the present one"),
    ] = None,
    pattern: PatternText = EVERYTHING,
    depth: Annotated[int | None, Query(ge=0, le=MAX_LEVELS, description="How many levels are shown")] = None,
    descendants: Annotated[bool, Query(description="With all customers that stand below this one")] = False,
    display: DisplayIn = None,
) -> UsageTreeShown:
    """What was used, rolled up along the paths of resources: organization, family of spaces, space, leaf.

    Usage at other paths than the pattern's, and usage without a path, stand apart; `total` is the bill of the month.
    With `display`, amounts also show what they come to in that asset, where there is a rate.
    """
    wanted = _periods(service, month, period, after, before)
    async with transaction(service) as conn:
        report = await service.usage_trees.report(
            conn, key, wanted, pattern=pattern, depth=depth, descendants=descendants, display=display
        )
    return UsageTreeShown(
        customer=report.customer.key,
        name=report.customer.name,
        pattern=report.pattern,
        periods=[_period(usage) for usage in report.periods],
    )


def _periods(
    service: Service, month: str | None, unit: Unit | None, after: int | None, before: int | None
) -> list[Period]:
    zone, now = service.settings.zone, service.clock.now()
    if unit is None and after is None and before is None:
        return [period_of(month_of(now, zone) if month is None else parse_month(month, zone))]
    if month is not None:
        raise InvalidInput("month must not be given together with period, after or before", field="month")
    return periods(unit or "month", -1 if after is None else after, 0 if before is None else before, now, zone)


def _period(usage: PeriodUsage) -> PeriodShown:
    return PeriodShown(
        period=usage.period.label,
        start=usage.period.start,
        end=usage.period.end,
        total=_used(usage.total, usage.displays),
        selected=_used(usage.selected, usage.displays),
        tree=[_node(node, usage.displays) for node in usage.tree],
        elsewhere=_node(usage.elsewhere, usage.displays),
        unplaced=_node(usage.unplaced, usage.displays),
    )


def _node(node: Node, displays: dict[str, Display]) -> NodeShown:
    return NodeShown(
        level=node.level,
        name=node.name,
        path=node.path,
        measurements=node.sums.measurements,
        unpriced=node.sums.unpriced,
        amounts=_amounts(node.sums, displays),
        children=[_node(child, displays) for child in node.children],
    )


def _used(sums: Sums, displays: dict[str, Display]) -> UsedShown:
    return UsedShown(measurements=sums.measurements, unpriced=sums.unpriced, amounts=_amounts(sums, displays))


def _amounts(sums: Sums, displays: dict[str, Display]) -> list[AmountShown]:
    return [
        AmountShown(
            asset=code,
            microunits=str(amount),
            amount=format_amount(amount),
            rounded=format_amount(converted(amount, Decimal(1), REPORT_PLACES), places=REPORT_PLACES),
            **display_shown(displays.get(code), code, amount),
        )
        for code, amount in sorted(sums.amounts.items())
    ]
