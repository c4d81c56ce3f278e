"""A platform with an app and a service, an account for it, and a time that passes only when somebody waits."""

from __future__ import annotations

from typing import Any

from tallystick.metering.sources.cloud_foundry import CloudFoundry
from tallystick.metering.sources.cloud_foundry_client import Account, Limits, Waiting
from tallystick.metering.sources.sweep import Item, Sweep
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi


class Time:
    """Stands still but for pauses, which it keeps. Of all that jitter could be, it is the most."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds

    def waiting(self) -> Waiting:
        return Waiting(self.pause, lambda: self.seconds, lambda below: below - 1)


def account_of(capi: Capi, secret: str = CLIENT_SECRET) -> Account:
    return Account(capi.url, CLIENT_ID, secret)


def source_of(capi: Capi, time: Time | None = None, **limits: Any) -> CloudFoundry:
    """A source that reads the double; without a ``time`` of the test's, pauses take none."""
    return CloudFoundry(account_of(capi), Limits(**limits), (time or Time()).waiting())


async def sweep_of(capi: Capi, time: Time | None = None, **limits: Any) -> Sweep:
    return await source_of(capi, time, **limits).sweep()


def by_resource(sweep: Sweep) -> dict[str, Item]:
    """The items by their resources, each of which is there once."""
    found = {item.resource: item for item in sweep.items}
    assert len(found) == len(sweep.items)
    return found


def put_platform(capi: Capi, apps: int = 1) -> None:
    """One organization with one space, apps ``app-1`` and so on of 2 x 512 MB, and a database service ``svc-1``."""
    numbers = range(1, apps + 1)
    capi.tell(
        "put",
        organizations=[{"guid": "org-1", "name": "agency"}],
        spaces=[{"guid": "space-1", "name": "web_dev", "organization": "org-1"}],
        apps=[{"guid": f"app-{n}", "name": f"shop {n}", "space": "space-1"} for n in numbers],
        processes=[{"guid": f"process-{n}", "app": f"app-{n}", "instances": 2, "memory_in_mb": 512} for n in numbers],
        service_offerings=[{"guid": "offering-1", "name": "aws-rds"}],
        service_plans=[{"guid": "plan-1", "name": "micro.psql", "offering": "offering-1"}],
        service_instances=[{"guid": "svc-1", "name": "db", "space": "space-1", "plan": "plan-1"}],
    )
