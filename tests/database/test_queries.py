"""Every named query of every ``.sql`` file is understood by a real PostgreSQL with the real schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

import tallystick
from tallystick.database.pool import Connection, Pool
from tallystick.database.queries import Queries, UuidArray, array
from tests.conftest import new_database

SOURCE = Path(tallystick.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.sql") if path.parent.name != "migrations")
NAME = re.compile(r"^-- name: *(\w+)[!<^$*#]*", re.MULTILINE)
PLACEHOLDER = re.compile(r"%\((\w+)\)s")
PREPARABLE = ("select", "insert", "update", "delete", "merge", "values", "with")
"""The only statements that can be prepared, and the only ones that take parameters."""


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def numbered(query: str) -> str:
    """The query with ``$1``, ``$2`` and so on, one for each name, as ``PREPARE`` wants it."""
    names = list(dict.fromkeys(PLACEHOLDER.findall(query)))
    return PLACEHOLDER.sub(lambda found: f"${names.index(found[1]) + 1}", query).replace("%%", "%")


@pytest.fixture(scope="module")
def prepared(database_server: str, database_template: str) -> Iterator[psycopg.Connection]:
    """A connection to a migrated database."""
    with (
        new_database(database_server, database_template) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        yield connection


def test_there_are_queries() -> None:
    assert len(FILES) >= 7


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_query_of_a_file_is_loaded_under_its_own_name(path: Path) -> None:
    names = NAME.findall(path.read_text(encoding="utf-8"))
    assert sorted(loaded for loaded, _ in Queries(path)) == sorted(set(names))
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_query_is_used(path: Path) -> None:
    code = "".join(module.read_text(encoding="utf-8") for module in path.parent.glob("*.py"))
    assert [query for query, _ in Queries(path) if not re.search(rf"\b_[A-Z]+\.{query}\b", code)] == []


@pytest.mark.integration
@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_query_is_understood(path: Path, prepared: psycopg.Connection) -> None:
    for query, text in Queries(path):
        try:
            understand(prepared, text)
        except psycopg.Error as error:
            pytest.fail(f"{name(path)}: {query}: {error}")


def understand(connection: psycopg.Connection, query: str) -> None:
    with connection.transaction(force_rollback=True):
        match re.sub(r"--.*", "", query).split()[0].lower():
            case word if word in PREPARABLE:
                connection.execute(f"PREPARE checked AS {numbered(query)}".encode())
                connection.execute("DEALLOCATE checked")
            case "copy":
                with connection.cursor().copy(query.encode()):
                    pass
            case _:
                connection.execute(query.encode())


# How queries are read


def test_placeholders_become_psycopgs_and_casts_stay(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text(
        "-- name: found\nselect :key::text, '{}'::jsonb from things where key = :key\n-- name: made!\nselect 1\n"
    )
    queries = Queries(file)
    assert queries.found == "select %(key)s::text, '{}'::jsonb from things where key = %(key)s"
    assert dict(queries) == {"found": queries.found, "made": "select 1"}
    assert numbered(queries.found) == "select $1::text, '{}'::jsonb from things where key = $1"


def test_a_query_that_does_not_exist_is_named(tmp_path: Path) -> None:
    file = tmp_path / "queries.sql"
    file.write_text("-- name: found\nselect 1\n")
    with pytest.raises(AttributeError, match=r"^no query is named lost$"):
        _ = Queries(file).lost


async def test_arrays_arrive_as_they_were(pool: Pool) -> None:
    ids = [UUID(int=1), UUID(int=2**128 - 1)]
    numbers = [0, -1, 10**40]

    async def arrived(conn: Connection, type_name: str, items: object) -> object:
        (value,) = await (await conn.execute(f"select %s::{type_name}[]".encode(), [items])).fetchone() or (None,)
        return value

    async with pool.connection() as conn:
        assert await arrived(conn, "uuid", UuidArray(ids)) == ids
        assert await arrived(conn, "uuid", UuidArray([])) == []
        assert await arrived(conn, "uuid", UuidArray([None, ids[0], None])) == [None, ids[0], None]
        assert await arrived(conn, "numeric", array(numbers)) == numbers
        assert await arrived(conn, "uuid", array([ids[0].hex, "NULL"])) == [ids[0], None]


# Advisory locks

LOCK = re.compile(r"pg_(?:try_)?advisory_xact_lock(?:_shared)?\((\d+), (\d+)\)")


def test_no_two_rooms_use_the_same_advisory_lock() -> None:
    """Its numbers mean one thing. Whoever took another's would wait for it, or keep it waiting, without a reason."""
    rooms: dict[tuple[str, str], set[str]] = {}
    for path in FILES:
        for lock in LOCK.findall(path.read_text(encoding="utf-8")):
            rooms.setdefault(lock, set()).add(name(path).rpartition("/")[0].partition("/")[0])
    assert len(rooms) >= 4
    assert {lock: users for lock, users in rooms.items() if len(users) > 1} == {}
