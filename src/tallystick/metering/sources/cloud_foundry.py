"""A Cloud Foundry platform as a source of readings: what its apps and services are at the moment of a sweep.

``cfapps``: an app that is started uses the sum of instances times memory over its processes, in MB. ``cfservices``: a
managed service instance is there, so its value is 1, under the kind that is its plan; user-provided ones are free.

The customer is the organization, by its guid; who pays for it is said later. What cannot be assigned is kept, with the
fault in words: an item whose space is not known has no customer, and stands below ``orphan``.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tallystick.kernel.errors import NotFound
from tallystick.ledger.wallets import PostingPolicy
from tallystick.metering.paths import ORPHANS, PLATFORM_ROOT, path_below
from tallystick.metering.sources.cloud_foundry_client import (
    Account,
    Beside,
    Kept,
    Limits,
    Listing,
    Platform,
    Waiting,
    open_platform,
)
from tallystick.metering.sources.cloud_foundry_wire import App, Process, Resource, ServiceInstance
from tallystick.metering.sources.sweep import Failure, Item, Sweep

KEY: Final = "cloud-foundry"
APPS: Final = "cfapps"
SERVICES: Final = "cfservices"
ONE_OFF: Final = "oneoff"
"""The meter of single apps that were asked for by hand."""
POSTING: Final = "monthly"
"""Its organizations are posted once a month, as the platform's billing does."""

ACCOUNT: Final = "account"
"""The part of the source that fails if its account is shown nothing."""

PRESENT: Final = Decimal(1)

_STARTED = "STARTED"
_MANAGED = "managed"
_GUID = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""What may stand in the path of a request."""

_INCLUDE = {"include": "space.organization"}
_FIELDS = {
    "type": _MANAGED,
    "fields[space]": "guid,name,relationships.organization",
    "fields[space.organization]": "guid,name",
    "fields[service_plan]": "guid,name,relationships.service_offering",
    "fields[service_plan.service_offering]": "guid,name",
}


class CloudFoundry:
    """The platform that an account can see."""

    key = KEY
    posting_policy: PostingPolicy = POSTING

    def __init__(self, account: Account, limits: Limits | None = None, waiting: Waiting | None = None) -> None:
        self._account = account
        self._limits = limits or Limits()
        self._waiting = waiting or Waiting()
        self._kept = Kept()

    async def sweep(self) -> Sweep:
        """All apps and services. If one of the two meters cannot be read, the other stands.

        Raises ``PlatformUnavailable`` or ``PlatformRefuses`` if the platform gives no token.
        """
        async with open_platform(self._account, self._limits, self._waiting, self._kept) as platform:
            await platform.sign_in()
            parts = await asyncio.gather(_sweep_apps(platform), _sweep_services(platform))
        items = [item for part in parts for item in part.items]
        failures = [failure for part in parts for failure in part.failures]
        customers = {guid: name for part in parts for guid, name in part.customers.items()}
        if not (items or failures or platform.shows_everything):
            sentence = "CF_CLIENT_ID is shown nothing: give it the authority cloud_controller.global_auditor"
            failures.append(Failure(ACCOUNT, sentence))
        return Sweep(items, failures, customers)

    async def app_item(self, guid: str) -> Item:
        """One app, under the meter ``oneoff``: that it is there.

        Raises ``NotFound`` if there is none, ``PlatformUnavailable``, ``PlatformRefuses``.
        """
        if _GUID.fullmatch(guid):
            async with open_platform(self._account, self._limits, self._waiting, self._kept) as platform:
                found = await platform.single(f"/v3/apps/{guid}", App, _INCLUDE)
            if found is not None:
                return _app_item(ONE_OFF, found[0], PRESENT, _Places(found[1]).of(found[0]))
        raise NotFound("the platform has no app with this guid", field="guid")


@dataclass(slots=True)
class OneApp:
    """One app as a source of its own, to be read by hand."""

    platform: CloudFoundry
    guid: str
    key: str = f"{KEY}-app"
    posting_policy: PostingPolicy = POSTING

    async def sweep(self) -> Sweep:
        """Raises what ``CloudFoundry.app_item`` raises."""
        return Sweep([await self.platform.app_item(self.guid)], [])


async def _sweep_apps(platform: Platform) -> Sweep:
    """Apps by their processes. Without all of those nobody knows what an app uses, so then no app is an item."""
    processes = await platform.list("processes", "/v3/processes", Process, adds_up=True)
    apps = await platform.list("apps", "/v3/apps", App, _INCLUDE)
    failures = [Failure(APPS, fault) for fault in (*processes.faults, *apps.faults)]
    items = await asyncio.to_thread(app_items, processes, apps) if processes.is_whole else []
    return Sweep(items, failures, _names(apps.beside))


async def _sweep_services(platform: Platform) -> Sweep:
    instances = await platform.list("service instances", "/v3/service_instances", ServiceInstance, _FIELDS)
    items = await asyncio.to_thread(service_items, instances)
    return Sweep(items, [Failure(SERVICES, fault) for fault in instances.faults], _names(instances.beside))


# Rules


def app_items(processes: Listing[Process], apps: Listing[App]) -> list[Item]:
    """What started apps use. Processes of apps that are not listed are nobody's."""
    memory_mb: Counter[str | None] = Counter()
    unclear = set()
    for process in processes.resources.values():
        app = process.related("app")
        if process.instances is None or process.memory_in_mb is None:
            unclear.add(app)
        else:
            memory_mb[app] += process.instances * process.memory_in_mb
    places = _Places(apps.beside)
    return [
        _app_item(
            APPS,
            app,
            Decimal(memory_mb[guid]),
            places.of(app),
            "a process of it has no instances or no memory" if guid in unclear else None,
        )
        for guid, app in apps.resources.items()
        if app.state == _STARTED
    ]


def _app_item(meter: str, app: App, value: Decimal, place: _Place, fault: str | None = None) -> Item:
    path = path_below(place.path, "app", app.name or "")
    return Item(meter, app.guid, value, place.customer, "", path, app.name, _both(place.fault, fault))


def service_items(instances: Listing[ServiceInstance]) -> list[Item]:
    """The managed service instances: each is there once, whatever its size."""
    places = _Places(instances.beside)
    return [
        _service_item(instance, instances.beside, places.of(instance))
        for instance in instances.resources.values()
        if instance.type == _MANAGED
    ]


def _service_item(instance: ServiceInstance, beside: Beside, place: _Place) -> Item:
    kind = instance.related("service_plan") or ""
    plan = beside.plans.get(kind)
    offering = beside.offerings.get(plan.related("service_offering") or "") if plan else None
    path = path_below(place.path, "svc", _name(offering), _name(plan), instance.name or "")
    fault = _both(place.fault, None if kind else "it has no plan")
    return Item(SERVICES, instance.guid, PRESENT, place.customer, kind, path, instance.name, fault)


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose it is what stands there, and the path below which it stands."""

    customer: str | None
    path: str = ORPHANS
    fault: str | None = None


class _Places:
    """The places of resources, by their spaces. Many share one, so it is worked out once."""

    def __init__(self, beside: Beside) -> None:
        self._beside = beside
        self._known: dict[str, _Place] = {}

    def of(self, resource: Resource) -> _Place:
        guid = resource.related("space") or ""
        place = self._known.get(guid)
        if place is None:
            place = self._known[guid] = self._place(self._beside.spaces.get(guid))
        return place

    def _place(self, space: Resource | None) -> _Place:
        if space is None:
            return _Place(None, fault="its space is not known")
        guid = space.related("organization")
        if not guid:
            return _Place(None, fault="the organization of its space is not known")
        organization = path_below(PLATFORM_ROOT, "cforg", _name(self._beside.organizations.get(guid)))
        return _Place(guid, path_below(organization, "space", _name(space)))


def _names(beside: Beside) -> dict[str, str]:
    """The names of organizations, which are customers."""
    return {guid: name for guid, organization in beside.organizations.items() if (name := _name(organization))}


def _name(resource: Resource | None) -> str:
    return resource.name or "" if resource else ""


def _both(*faults: str | None) -> str | None:
    return "; ".join(fault for fault in faults if fault) or None
