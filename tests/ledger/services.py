"""What tests of the whole service on either engine have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from tallystick.service import Service

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
"""When they begin."""

UNIT = 1_000_000
"""One credit or dollar, in microunits."""

CREDITS, DOLLARS = 1, 840
"""The ledgers of two assets."""

StartService = Callable[[], Awaitable[Service]]
