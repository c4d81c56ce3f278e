"""Proves where counters stand: each at a value that was measured, beyond which nothing was counted."""

from __future__ import annotations

from pathlib import Path

from tallystick.database.queries import Queries, UuidArray
from tallystick.metering.model import Meter
from tallystick.metering.quantify import counter_scope
from tallystick.operations.findings import Examination

_SQL = Queries(Path(__file__).with_suffix(".sql"))

CHECK = "counters_stand"


class CountersProof:
    """The check of counters, in one run."""

    def __init__(self, examination: Examination) -> None:
        self._examination = examination

    async def counters(self) -> None:
        """The state of every counter against its measurements.

        Which state is a series' only this side can derive, so the ids of all counters' series go along.
        """
        run = self._examination
        customers, series, scopes = [], [], []
        async for rows in run.rows("counted_series", _SQL.counted_series):
            for customer_id, series_id, meter, resource in rows:
                customers.append(customer_id)
                series.append(series_id)
                scopes.append(counter_scope(Meter(meter), resource))
        run.parameters |= {
            "counter_customers": UuidArray(customers),
            "counter_series": UuidArray(series),
            "counter_scopes": UuidArray(scopes),
        }
        await run.count(CHECK, _SQL.counters)
