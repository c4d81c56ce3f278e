"""Keyset paging: a page ends with a cursor that says where the next one starts, so added rows shift nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.ids import NIL

Item = TypeVar("Item")

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items, and the cursor of the next page if there is one."""

    items: list[Item]
    next: str | None


def next_cursor(*place: str) -> str:
    """The cursor of a place in an ordered list: opaque to callers, safe in a URL."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, parts: int) -> tuple[str, ...] | None:
    """The place a cursor names; ``None`` for the start. Raises ``InvalidInput`` if it is not one of ours."""
    if cursor is None:
        return None
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[str])
    except ValueError:  # neither base64 nor a flat list of Unicode texts
        place = []
    if len(place) != parts or any("\0" in part for part in place):
        raise foreign_cursor()
    return tuple(place)


def newest_first(found: list[Item], limit: int, place: Callable[[Item], tuple[datetime, UUID]]) -> Page[Item]:
    """A page of a list in descending order of ``place``, a time and an id: ``limit`` items of those found.

    One more than that must have been looked for; it says whether there is another page.
    """
    items = found[:limit]
    if len(found) <= limit:
        return Page(items, None)
    at, id_ = place(items[-1])
    return Page(items, next_cursor(at.isoformat(), str(id_)))


def read_newest_first(cursor: str | None) -> tuple[datetime, UUID]:
    """The time and the id before which the next page of such a list starts. Raises ``InvalidInput``."""
    place = read_cursor(cursor, 2)
    if place is None:
        return _LATEST, NIL
    try:
        return datetime.fromisoformat(place[0]), UUID(place[1])
    except ValueError:
        raise foreign_cursor() from None


def foreign_cursor() -> InvalidInput:
    """For a cursor that no page of the list at hand has given."""
    return InvalidInput("cursor must be one that a page of this list gave", field="cursor")
