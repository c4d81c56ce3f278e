"""Marks a test as ``integration`` when it needs PostgreSQL or a running server, so that nobody has to remember to.

A test is one if ``OUTSIDE_FIXTURES`` has one of its fixtures, be it asked for directly or through others. A test that
starts processes by itself says so with ``pytest.mark.integration``.
"""

from __future__ import annotations

import pytest

OUTSIDE_FIXTURES = frozenset(
    {"database_server", "database", "database_url", "capi_process", "oidc_process", "postgres", "server"}
)
"""The fixtures at the root of everything that leaves the process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not OUTSIDE_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
