"""Where resources stand: each in one place of its customer's reporting tree, given by a source or by a person.

Only reports look at it. A resource without a place is charged like any other; its usage is shown under a heading of its
own until somebody gives it one, and moves there at once, in past months too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key, check_text
from tallystick.metering.paths import MAX_PATH_CHARACTERS, above, check_path, expression, is_within, path_below

_SQL = Queries(Path(__file__).with_suffix(".sql"))

STRIPES = 64
"""Customers are spread over this many locks for their trees."""

ROWS_AT_ONCE = 10_000
"""So many resources are placed by one statement."""

_LAST = "~"
"""Stands behind every path."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a resource of a meter is to stand. An empty ``resource`` is the meter's usage that names none.

    ``name`` is what its source calls it, ``None`` if the source does not say.
    """

    meter: str
    resource: str
    path: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that has a place. ``pinned``: a person put it there, and sources leave it there.

    ``name``: what its source calls it, ``None`` if none has said.
    """

    meter: str
    resource: str
    path: str
    slug: str
    pinned: bool
    created_at: datetime
    placed_at: datetime
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which resources: at or below ``under``, above ``over``, with this slug, pattern and meter. All must hold."""

    under: str | None = None
    over: str | None = None
    slug: str | None = None
    pattern: str | None = None
    meter: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a part of the tree stands now, and how many resources came along."""

    path: str
    resources: int


class Resources:
    """Places of resources. Works in the caller's transaction.

    Whoever changes a customer's tree holds a lock for it until the transaction ends, so of a move and a placement at
    the same time one sees what the other left.
    """

    def __init__(self, clock: Clock, customers: Customers) -> None:
        self._clock = clock
        self._customers = customers

    async def place(self, conn: AsyncConnection, placements: Iterable[tuple[str, Placement]]) -> int:
        """What a source says: where the resources of customers (by key) stand, and their names. The last word counts.

        Customers that do not exist yet are created, postpaid, as usage creates them. What a person placed stays there.
        Once in a transaction, which posts nothing before.
        Returns how many came to stand somewhere new. Raises ``InvalidInput`` for a path that is none.
        """
        wanted = list(placements)
        for _, placement in wanted:
            _check(placement)
        customers = await self._customers.ensure(conn, {key for key, _ in wanted}, "postpaid")
        rows = [(customers[key][0], placement) for key, placement in wanted]
        return await self._put(conn, rows, from_source=True, pinned=False)

    async def put(
        self, conn: AsyncConnection, customer_key: str, placements: Sequence[Placement], *, pinned: bool = True
    ) -> int:
        """What a person says. Unless ``pinned``, the next word of a source counts again.

        Returns how many were changed. Raises ``NotFound`` without such a customer, ``InvalidInput`` for a path that is
        none, a meter that does not exist, or a resource that is named twice.
        """
        customer_id = await self._customer_id(conn, customer_key)
        named: set[tuple[str, str]] = set()
        for placement in placements:
            _check(placement)
            name = placement.meter, placement.resource
            if name in named:
                raise InvalidInput(f"resource {name[1]!r} of meter {name[0]!r} is named twice", field="resource")
            named.add(name)
        await self._check_meters(conn, {placement.meter for placement in placements})
        rows = [(customer_id, placement) for placement in placements]
        return await self._put(conn, rows, from_source=False, pinned=pinned)

    async def get(self, conn: AsyncConnection, customer_key: str, meter: str, resource: str) -> Resource:
        """One resource. Raises ``NotFound`` without such a customer, or if the resource has no place."""
        parameters = {
            "customer_id": await self._customer_id(conn, customer_key),
            "meter": check_key(meter, "meter"),
            "key": check_text(resource, "resource"),
        }
        row = await (await conn.execute(_SQL.named, parameters)).fetchone()
        if row is None:
            raise _no_place(meter, resource)
        return Resource(*row)

    async def page(
        self, conn: AsyncConnection, customer_key: str, wanted: Wanted, cursor: str | None, limit: int
    ) -> Page[Resource]:
        """Resources in the order of their paths. Raises ``NotFound``, ``InvalidInput`` for a path or pattern."""
        customer_id = await self._customer_id(conn, customer_key)
        after_path, after_meter, after_key = read_cursor(cursor, 3) or ("", "", "")
        under = "" if wanted.under is None else check_path(wanted.under, "under")
        parameters = {
            "customer_id": customer_id,
            "first": under,
            "last": f"{under}/" if under else _LAST,
            "above": None if wanted.over is None else above(check_path(wanted.over, "over")),
            "slug": wanted.slug,
            "expression": None if wanted.pattern is None else expression(wanted.pattern),
            "meter": wanted.meter,
            "after_path": after_path,
            "after_meter": after_meter,
            "after_key": after_key,
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        found = [Resource(*row) for row in rows[:limit]]
        last = found[-1] if len(rows) > limit else None
        return Page(found, next_cursor(last.path, last.meter, last.resource) if last else None)

    async def move(
        self,
        conn: AsyncConnection,
        customer_key: str,
        path: str,
        to: str | None,
        *,
        name: str | None = None,
        merge: bool = False,
    ) -> Moved:
        """Moves what stands at ``path``, with all below it, below ``to`` (to the top, without one).

        It keeps its slug, unless ``name`` gives it another one. Raises ``NotFound`` without such a customer, or if
        nothing stands there; ``InvalidInput`` for a path that is none, a place below itself, or one that makes a path
        too long; ``Conflict`` if something stands at the new path already, unless they are to ``merge``.
        """
        check_path(path, "path")
        if to is not None and is_within(check_path(to, "to"), path):
            raise InvalidInput(f"to must not be {path} or below it: nothing can be moved under itself", field="to")
        target = path_below(to or "", path.rpartition(".")[2] if name is None else name)
        if target == path:
            raise InvalidInput(f"to must be another place: {path} stands there already", field="to")
        customer_id = await self._customer_id(conn, customer_key)
        await self._lock(conn, [customer_id])
        moving, longest = await self._extent(conn, customer_id, path)
        if not moving:
            raise NotFound(f"nothing stands at {path}", field="path")
        if longest - len(path) + len(target) > MAX_PATH_CHARACTERS:
            raise InvalidInput(f"to must leave paths of at most {MAX_PATH_CHARACTERS} characters", field="to")
        standing, _ = await self._extent(conn, customer_id, target)
        if standing - (moving if is_within(path, target) else 0) and not merge:
            raise Conflict(f"something stands at {target} already; say merge to put both together", field="to")
        parameters = {"customer_id": customer_id, "path": path, "target": target, "now": self._clock.now()}
        await conn.execute(_SQL.move, parameters)
        return Moved(target, moving)

    async def forget(self, conn: AsyncConnection, customer_key: str, meter: str, resource: str) -> None:
        """Takes a resource's place away; its usage stays, under the heading of what has none. Raises ``NotFound``."""
        customer_id = await self._customer_id(conn, customer_key)
        check_key(meter, "meter")
        check_text(resource, "resource")
        await self._lock(conn, [customer_id])
        parameters = {"customer_id": customer_id, "meter": meter, "key": resource}
        if not (await conn.execute(_SQL.forget, parameters)).rowcount:
            raise _no_place(meter, resource)

    async def _put(
        self, conn: AsyncConnection, rows: list[tuple[UUID, Placement]], *, from_source: bool, pinned: bool
    ) -> int:
        last = {(customer_id, placement.meter, placement.resource): placement for customer_id, placement in rows}
        await self._lock(conn, {customer_id for customer_id, _, _ in last})
        changed, now = 0, self._clock.now()
        items = list(last.items())
        for start in range(0, len(items), ROWS_AT_ONCE):
            part = items[start : start + ROWS_AT_ONCE]
            parameters = {
                "customer_ids": UuidArray(customer_id for (customer_id, _, _), _ in part),
                "meters": [meter for (_, meter, _), _ in part],
                "keys": [resource for (_, _, resource), _ in part],
                "paths": [placement.path for _, placement in part],
                "names": [placement.name for _, placement in part],
                "pinned": pinned,
                "from_source": from_source,
                "now": now,
            }
            changed += (await conn.execute(_SQL.put, parameters)).rowcount
            if from_source:
                await conn.execute(_SQL.rename, parameters)
        return changed

    async def _lock(self, conn: AsyncConnection, customer_ids: Iterable[UUID]) -> None:
        stripes = sorted({customer_id.int % STRIPES for customer_id in customer_ids})
        await conn.execute(_SQL.serialise, {"stripes": stripes})

    async def _extent(self, conn: AsyncConnection, customer_id: UUID, path: str) -> tuple[int, int]:
        row = await (await conn.execute(_SQL.extent, {"customer_id": customer_id, "path": path})).fetchone()
        number, longest = row or (0, 0)
        return int(number), int(longest)

    async def _customer_id(self, conn: AsyncConnection, key: str) -> UUID:
        check_key(key, "key")
        found = await self._customers.find(conn, [key])
        if key not in found:
            raise NotFound(f"there is no customer {key!r}", field="key")
        return found[key][0]

    async def _check_meters(self, conn: AsyncConnection, keys: set[str]) -> None:
        rows = await (await conn.execute(_SQL.meters, {"keys": sorted(keys)})).fetchall()
        if missing := sorted(keys - {key for (key,) in rows}):
            raise InvalidInput(f"meter names no meter: {missing[0]!r}", field="meter")


def _check(placement: Placement) -> None:
    check_key(placement.meter, "meter")
    check_text(placement.resource, "resource")
    check_path(placement.path, "path")
    if placement.name is not None:
        check_text(placement.name, "name")


def _no_place(meter: str, resource: str) -> NotFound:
    return NotFound(f"resource {resource!r} of meter {meter!r} has no place", field="resource")
