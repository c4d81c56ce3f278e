"""Bills: what a customer owes for a business month. A bill is always ready, because it is the usage totals."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection

from tallystick.customers.model import Customer
from tallystick.customers.service import Customers
from tallystick.kernel.calendar import Month, month_of
from tallystick.kernel.clock import Clock
from tallystick.metering.charges import Charges, Usage


@dataclass(frozen=True, slots=True)
class Bill:
    """A customer's month: its lines are usage totals, ``totals`` adds them up by asset in microunits.

    A draft until finalised.
    """

    customer: Customer
    month: Month
    state: str
    lines: list[Usage]
    totals: dict[str, int]


class Bills:
    """Read only. Works on the caller's connection."""

    def __init__(self, clock: Clock, zone: ZoneInfo, customers: Customers, charges: Charges) -> None:
        self._clock = clock
        self._zone = zone
        self._customers = customers
        self._charges = charges

    async def bill(self, conn: AsyncConnection, customer_key: str, month: Month | None = None) -> Bill:
        """The bill of a customer for ``month`` (this one if left out). Raises ``NotFound``."""
        customer = await self._customers.get(conn, customer_key)
        month = month or month_of(self._clock.now(), self._zone)
        lines = await self._charges.usage(conn, customer.id, month.first_day, month.first_day)
        totals: dict[str, int] = {}
        for line in lines:
            if line.asset is not None and line.amount is not None:
                totals[line.asset] = totals.get(line.asset, 0) + line.amount
        return Bill(customer, month, "draft", lines, totals)
