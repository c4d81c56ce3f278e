"""procrastinate's part of our schema is the one that the installed version needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
from procrastinate.schema import SchemaManager

from tallystick.database.migrate import MIGRATIONS, migrate

OURS = {"jobs_started", "jobs_by_status", "jobs_give_up_queueing_lock"}
"""What we have added to procrastinate's tables."""

CATALOGUE = {
    "columns": """
        select table_name, column_name, data_type, column_default, is_nullable from information_schema.columns
        where table_schema = 'public' and table_name like 'procrastinate%'""",
    "indexes": """
        select indexname, indexdef from pg_indexes where schemaname = 'public' and tablename like 'procrastinate%'""",
    "constraints": """
        select conname, conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint
        where conrelid::regclass::text like 'procrastinate%'""",
    "functions": "select proname, pg_get_functiondef(oid) from pg_proc where proname like 'procrastinate%'",
    "triggers": """
        select tgname, pg_get_triggerdef(oid) from pg_trigger
        where not tgisinternal and tgrelid::regclass::text like 'procrastinate%'""",
    "types": """
        select t.typname, e.enumlabel from pg_type as t join pg_enum as e on e.enumtypid = t.oid
        where t.typname like 'procrastinate%'""",
}


def catalogue(url: str) -> dict[str, set[tuple[object, ...]]]:
    with psycopg.connect(url, autocommit=True) as connection:
        found = {name: set(connection.execute(query.encode()).fetchall()) for name, query in CATALOGUE.items()}
    return {name: {row for row in rows if row[0] not in OURS} for name, rows in found.items()}


def test_the_schema_is_the_installed_versions(database_url: str, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(SchemaManager.get_schema())
    needed = catalogue(empty_database_url)
    assert all(needed.values())
    assert catalogue(database_url) == needed


def test_books_that_are_in_use_live_by_the_machines_clock(empty_database_url: str, tmp_path: Path) -> None:
    """Whoever comes from a version that knew no other clock cannot be given one."""
    for file in MIGRATIONS.glob("*.sql"):
        if file.stem < "0007":
            shutil.copy(file, tmp_path)
    migrate(empty_database_url, tmp_path)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("insert into customers (id, key, created_at) values (gen_random_uuid(), 'ada', now())")
        migrate(empty_database_url)
        assert connection.execute("select kind, stands_at from books_clock").fetchall() == [("machine", None)]


def test_new_books_have_no_clock_yet(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert connection.execute("select kind from books_clock").fetchall() == []
