"""The two meters of OpenStack projects, with their prices: what the first of the five systems knew by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from psycopg import AsyncConnection

from tallystick.kernel.errors import Conflict
from tallystick.kernel.money import CREDIT
from tallystick.metering.model import Meter
from tallystick.metering.service import Meters
from tallystick.pricing.functions import PerUnit
from tallystick.pricing.model import NewPrice
from tallystick.pricing.service import Pricing

VCPU = Meter(
    key="project_vcpu_usage",
    kind="counter",
    unit="vCPU·h",
    name="cpu",
    description="vCPU hours of a project, as a running total",
)
RAM = Meter(
    key="project_mb_usage",
    kind="counter",
    unit="MiB·h",
    name="ram",
    description="MiB hours of memory of a project, as a running total",
)

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
MIB_PER_GIB = Decimal(1024)


async def install_openstack_meters(
    conn: AsyncConnection,
    meters: Meters,
    pricing: Pricing,
    *,
    vcpu_credit_per_hour: Decimal,
    ram_credit_per_hour: Decimal,
    precision: int,
) -> None:
    """Creates meters and prices that are missing. What an operator has changed since stays as it is."""
    quantum = Decimal(1).scaleb(-precision)
    standing = await meters.all(conn)
    models = ((VCPU, PerUnit(vcpu_credit_per_hour)), (RAM, PerUnit(ram_credit_per_hour, per=MIB_PER_GIB)))
    for meter, model in models:
        if meter.key not in standing:
            await meters.put(conn, meter)
            try:
                await pricing.create(conn, NewPrice(meter.key, "", None, ALWAYS, CREDIT, quantum, model))
            except Conflict:  # another process starts at the same moment
                continue
