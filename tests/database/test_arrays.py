"""Arrays that are sent as their bytes are what PostgreSQL reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.database.queries import TimestampArray, UuidArray

instants = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.fixture(scope="module")
def connection(database_server: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_server, autocommit=True) as connection:
        connection.execute("set time zone utc")
        yield connection


@given(st.lists(instants), st.lists(st.uuids()))
@example([datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, microsecond=1, tzinfo=UTC)], [])
def test_instants_and_ids(connection: psycopg.Connection, instants: list[datetime], ids: list[UUID]) -> None:
    arrays = [TimestampArray(instants), UuidArray.of_bytes([each.bytes for each in ids])]
    assert connection.execute("select %s, %s", arrays).fetchone() == (instants, ids)
