"""Keyset paging: a page ends with a cursor that says where the next one starts, so added rows shift nothing."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from tallystick.kernel.errors import InvalidInput

Item = TypeVar("Item")

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


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
        raise InvalidInput("cursor must be one that a page of this list gave", field="cursor")
    return tuple(place)
