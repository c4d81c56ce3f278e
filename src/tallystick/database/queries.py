"""SQL stands in ``queries.sql`` files next to the service that uses it; here it is read."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

import aiosql
from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format


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


_COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def copy_text(text: str) -> str:
    """A text as it stands in a row of COPY in PostgreSQL's text format."""
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        return text.translate(_COPY_ESCAPES)
    return text


class UuidArray:
    """A PostgreSQL array of UUIDs as its bytes on the wire: by far the cheapest to make and to read."""

    __slots__ = ("_ids",)

    def __init__(self, ids: Iterable[UUID | None]) -> None:
        """``None`` stands for null."""
        self._ids = [item.int.to_bytes(16) if item is not None else None for item in ids]

    @classmethod
    def of_bytes(cls, ids: Iterable[bytes]) -> UuidArray:
        """One of ids that are bytes already."""
        of_bytes = cls(())
        of_bytes._ids += ids
        return of_bytes

    @classmethod
    def joined(cls, arrays: Iterable[UuidArray]) -> UuidArray:
        """One array of the ids of several."""
        joined = cls(())
        for array_ in arrays:
            joined._ids += array_._ids
        return joined

    @property
    def items(self) -> bytes:
        """The bytes of all ids; nil for null."""
        return b"".join([item or _NIL for item in self._ids])

    @property
    def wire(self) -> bytes:
        """As PostgreSQL takes it (array_recv)."""
        if not self._ids:
            return _EMPTY
        header = struct.pack("!iiIii", 1, _MAY_HAVE_NULLS, _UUID_OID, len(self._ids), 1)
        return header + b"".join([_LENGTH + item if item else _NULL for item in self._ids])


_NIL = bytes(16)
_LENGTH = struct.pack("!i", 16)
_NULL = struct.pack("!i", -1)
_UUID_OID = adapters.types["uuid"].oid
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP_OID = adapters.types["timestamptz"].oid
_MAY_HAVE_NULLS = 1
_EMPTY = struct.pack("!iiI", 0, 0, _UUID_OID)


@lru_cache(maxsize=10_000)
def _timestamp(at: datetime) -> bytes:
    """An element of a ``TimestampArray``. Kept, as most measurements share their instants with others."""
    return struct.pack("!iq", 8, (at - _EPOCH) // _MICROSECOND)


class TimestampArray:
    """A PostgreSQL array of instants (timestamptz) as its bytes on the wire."""

    __slots__ = ("_elements",)

    def __init__(self, instants: Iterable[datetime]) -> None:
        """``instants`` are aware."""
        self._elements = list(map(_timestamp, instants))

    @property
    def wire(self) -> bytes:
        """As PostgreSQL takes it (array_recv)."""
        dimensions = 1 if self._elements else 0
        header = struct.pack("!iiI", dimensions, 0, _TIMESTAMP_OID)
        return header + (struct.pack("!ii", len(self._elements), 1) if dimensions else b"") + b"".join(self._elements)


class _UuidArrayDumper(Dumper):
    format = Format.BINARY
    oid = adapters.types["uuid"].array_oid

    def dump(self, obj: UuidArray) -> bytes:
        return obj.wire


class _TimestampArrayDumper(Dumper):
    format = Format.BINARY
    oid = adapters.types["timestamptz"].array_oid

    def dump(self, obj: TimestampArray) -> bytes:
        return obj.wire


adapters.register_dumper(UuidArray, _UuidArrayDumper)
adapters.register_dumper(TimestampArray, _TimestampArrayDumper)
