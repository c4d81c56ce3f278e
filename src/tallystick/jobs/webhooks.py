"""The job ``prune-webhooks``: removes what became of events that webhooks were told long ago."""

from __future__ import annotations

import structlog

from tallystick.database.pool import Pool
from tallystick.jobs.kinds import Run
from tallystick.outbox.webhooks.service import prune

_log = structlog.get_logger()


class PruneWebhooks:
    """Keeps deliveries for so many days, and what waits for an endpoint no longer than that."""

    def __init__(self, pool: Pool, *, keep_days: int) -> None:
        self._pool = pool
        self._keep_days = keep_days

    async def run(self, _: Run) -> None:
        """Goes on wherever an attempt before this one ended."""
        if removed := await prune(self._pool, keep_days=self._keep_days):
            _log.info("webhook.pruned", deliveries=removed)
