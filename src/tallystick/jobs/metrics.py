"""What Prometheus is told of jobs. It stands in the database, so any server tells it of all workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

from tallystick.database.pool import Connection
from tallystick.database.queries import Queries
from tallystick.operations.metrics import Source

_SQL = Queries(Path(__file__).with_name("metrics.sql"))

STATES = ("waiting", "running", "dead")
"""Those that are done are not counted: there are as many as there were since they were pruned."""


def job_metrics(names: Sequence[str], *, lost_after_seconds: int) -> Source:
    """How many jobs of each kind are in each state, how late the first in the queue is, how many workers there are.

    A worker that has given no sign of life for ``lost_after_seconds`` is none.
    """

    async def read(conn: Connection) -> list[Metric]:
        rows = await (await conn.execute(_SQL.counts, {"names": list(names)})).fetchall()
        counted = {name: counts for name, *counts in rows}
        jobs = GaugeMetricFamily("tallystick_jobs", "Jobs, by kind and state.", labels=["job", "state"])
        for name in names:
            for state, count in zip(STATES, counted.get(name, (0, 0, 0)), strict=True):
                jobs.add_metric([name, state], count)
        first = await (await conn.execute(_SQL.lag_seconds)).fetchone()
        lag = GaugeMetricFamily("tallystick_jobs_lag_seconds", "How long the first in the queue could have run.")
        lag.add_metric([], first[0] if first else 0)
        ((alive,),) = await (await conn.execute(_SQL.workers, {"seconds": lost_after_seconds})).fetchall()
        return [jobs, lag, GaugeMetricFamily("tallystick_workers", "Workers that give signs of life.", value=alive)]

    return read
