"""SQL stands in ``queries.sql`` files next to the service that uses it; here it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosql


class Queries:
    """The named queries of one ``.sql`` file, as attributes: SQL text with ``%(name)s`` placeholders for psycopg."""

    def __init__(self, path: Path) -> None:
        loaded: Any = aiosql.from_path(path, "psycopg", mandatory_parameters=False)
        self._sql: dict[str, str] = {
            name: getattr(loaded, name).sql for name in loaded.available_queries if not name.endswith("_cursor")
        }

    def __getattr__(self, name: str) -> str:
        try:
            return self._sql[name]
        except KeyError:
            raise AttributeError(f"no query is named {name}") from None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._sql.items())


def array(items: Iterable[object]) -> str:
    """The text of a PostgreSQL array of numbers, dates or ids that are text already.

    One string parses far faster than psycopg adapts thousands of elements one by one. Not for other text: nothing is
    quoted.
    """
    return "{" + ",".join(map(str, items)) + "}"


def uuid_array(ids: Iterable[UUID]) -> str:
    """The text of a PostgreSQL array of UUIDs."""
    return "{" + ",".join([item.hex for item in ids]) + "}"
