"""The tests' own bookkeeping: what is emptied between tests is everything."""

from __future__ import annotations

import re

import psycopg

from tests.conftest import new_database
from tests.metering.books import EMPTY

TABLES = "select tablename from pg_tables where schemaname = 'public' and tablename !~ '^_?yoyo_'"


def test_every_table_is_emptied_or_set_back(database: str) -> None:
    """Whoever adds a table says here what becomes of it between tests, or one test would find what another one left."""
    with psycopg.connect(database) as conn:
        tables = {name for (name,) in conn.execute(TABLES)}
    assert set(re.findall(r"(?:delete from|update) (\w+)", EMPTY)) == tables


def test_an_emptied_database_is_as_a_new_one(database_server: str, database_template: str) -> None:
    with new_database(database_server, database_template) as url, psycopg.connect(url) as conn:
        tables = [name for (name,) in conn.execute(TABLES) if name != "catalogue"]
        new = {name: conn.execute(f"select * from {name}".encode()).fetchall() for name in tables}
        conn.execute("insert into assets (code, ledger, name, scale, symbol) values ('TOKEN', 1001, 'Token', 2, 'T')")
        conn.execute("insert into display_rates values ('TOKEN', 'USD', now(), 2, now())")
        conn.execute("insert into ledger_home (name) values ('elsewhere')")
        conn.execute("update holds_checked set sequence = 7")
        conn.execute(EMPTY.encode())
        assert {name: conn.execute(f"select * from {name}".encode()).fetchall() for name in tables} == new
