"""What load balancers are told."""

from __future__ import annotations

import pytest

from tallystick.database.pool import Pool
from tallystick.operations import health
from tallystick.operations.health import Health
from tallystick.service import open_service
from tallystick.settings import Settings


async def test_a_service_with_a_database_is_healthy(database_url: str) -> None:
    async with open_service(Settings(database_pool_size=4), database_url) as service:
        condition = await Health(service.intake).check(service.pool)
    latency = condition["database"].pop("latency_ms")
    version = condition["database"].pop("version")
    assert condition == {"status": "healthy", "database": {"status": "healthy"}, "intake": {"queued": 0}}
    assert latency >= 0
    assert int(version.split(".")[0]) >= 15


async def test_a_service_without_a_database_is_not(database_url: str) -> None:
    async with open_service(Settings(database_pool_size=4), database_url) as service:
        pass
    condition = await Health(service.intake).check(service.pool)
    assert condition == {"status": "unhealthy", "database": {"status": "unhealthy"}, "intake": {"queued": 0}}


async def test_a_database_that_does_not_answer_in_time_counts_as_gone(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.01)
    async with open_service(Settings(database_pool_size=4), database_url) as service:
        taken = [await pool.getconn() for _ in range(pool.max_size)]
        condition = await Health(service.intake).check(pool)
        for connection in taken:
            await pool.putconn(connection)
    assert condition["status"] == "unhealthy"
