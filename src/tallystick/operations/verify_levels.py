"""Proves the levels of gauges whose gaps are filled: each interval was charged for what it stands at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from tallystick.database.queries import Queries, UuidArray
from tallystick.metering.gaps import level_scope
from tallystick.metering.model import Meter
from tallystick.metering.sources.values import EARLIEST
from tallystick.operations.findings import Examination
from tallystick.pricing.functions import Dynamic
from tallystick.pricing.model import Price

_SQL = Queries(Path(__file__).with_suffix(".sql"))

CHECK = "levels_equal_measurements"


class LevelsProof:
    """The check of levels, in one run."""

    def __init__(self, examination: Examination, prices: Mapping[UUID, Price]) -> None:
        self._examination = examination
        self._prices = prices

    async def levels(self) -> None:
        """Every level against the measurements of its interval, sent or estimated.

        A level knows its series by an id that only this side can derive, so the ids of all such series go along.
        """
        run = self._examination
        customers, series, scopes, minutes, sinces = [], [], [], [], []
        async for rows in run.rows("filled_series", _SQL.filled_series):
            for customer_id, series_id, source, meter, kind, resource, agent, interval_minutes, since in rows:
                customers.append(customer_id)
                series.append(series_id)
                scopes.append(level_scope(Meter(meter), source, kind, resource, agent))
                minutes.append(interval_minutes)
                sinces.append(since)
        run.parameters |= {
            "level_customers": UuidArray(customers),
            "level_series": UuidArray(series),
            "level_scopes": UuidArray(scopes),
            "level_minutes": minutes,
            "level_sinces": sinces,
            "dynamic": [price_id for price_id, price in self._prices.items() if isinstance(price.model, Dynamic)],
            "earliest": EARLIEST,
        }
        await run.count(CHECK, _SQL.levels)
