"""The two meters of a Cloud Foundry platform. Their prices are the operator's: a platform has none by itself."""

from __future__ import annotations

from typing import Final

from psycopg import AsyncConnection

from tallystick.metering.model import Meter
from tallystick.metering.service import Meters
from tallystick.metering.sources import cloud_foundry

APPS: Final = Meter(
    key=cloud_foundry.APPS,
    kind="gauge",
    unit="MB·h",
    name="apps",
    description="Memory of an app: instances times MB, summed over its processes",
)
SERVICES: Final = Meter(
    key=cloud_foundry.SERVICES,
    kind="gauge",
    unit="instance·h",
    name="services",
    description="Presence of a managed service instance; its kind is its plan",
)


async def install_cloud_foundry_meters(conn: AsyncConnection, meters: Meters) -> None:
    """Creates the meters that are missing. What an operator has changed since stays as it is."""
    standing = await meters.all(conn)
    for meter in (APPS, SERVICES):
        if meter.key not in standing:
            await meters.put(conn, meter)
