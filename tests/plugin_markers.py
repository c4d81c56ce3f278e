"""Marks a test by what it needs, so that nobody has to remember to.

- ``integration``: it needs PostgreSQL or a running server. It does if ``OUTSIDE_FIXTURES`` has one of its fixtures, be
  it asked for directly or through others. One that starts processes by itself says so with ``pytest.mark.integration``.
- ``database``: it tests a room that has SQL, on the server that the tests share. Only these can tell one version of
  PostgreSQL from another: the other rooms speak to these rooms alone, and ``tally serve`` on a folder of its own runs
  the wheel's PostgreSQL, whatever the tests are given.
"""

from __future__ import annotations

from pathlib import Path

import pytest

OUTSIDE_FIXTURES = frozenset(
    {"database_server", "database", "database_url", "capi_process", "oidc_process", "postgres", "server"}
)
"""The fixtures at the root of everything that leaves the process."""

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "tallystick"

SQL_ROOMS = frozenset(path.relative_to(SOURCE).parts[0] for path in SOURCE.rglob("*.sql"))
"""The rooms that have SQL; ``tests/test_architecture.py`` sees to it that the others run none."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if not OUTSIDE_FIXTURES.isdisjoint(fixtures):
            item.add_marker(pytest.mark.integration)
        if "database_server" in fixtures and item.path.relative_to(TESTS).parts[0] in SQL_ROOMS:
            item.add_marker(pytest.mark.database)
