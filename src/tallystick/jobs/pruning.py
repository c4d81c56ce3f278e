"""The job ``prune-jobs``: removes what is left of jobs that are long done."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import structlog

from tallystick.database.pool import Pool
from tallystick.database.queries import Queries
from tallystick.jobs.kinds import Run
from tallystick.kernel.clock import Clock

AT_ONCE = 1000
"""Jobs removed in one transaction."""

_SQL = Queries(Path(__file__).with_name("queries.sql"))
_log = structlog.get_logger()


class Pruning:
    """Keeps jobs that succeeded, and slots, for so many days."""

    def __init__(self, pool: Pool, clock: Clock, *, keep_days: int) -> None:
        self._pool = pool
        self._clock = clock
        self._keep_days = keep_days

    async def run(self, _: Run) -> None:
        removed = 0
        async with self._pool.connection() as conn:
            await conn.execute(_SQL.prune_slots, {"before": self._clock.now() - timedelta(days=self._keep_days)})
            while True:
                cursor = await conn.execute(_SQL.prune, {"days": self._keep_days, "limit": AT_ONCE})
                removed += cursor.rowcount
                if cursor.rowcount < AT_ONCE:
                    break
        if removed:
            _log.info("job.pruned", jobs=removed)
