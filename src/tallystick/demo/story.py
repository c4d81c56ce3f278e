"""What happens in the demo's month: who is there, what it costs, what is used, and what goes wrong.

Three kinds of senders, as they are in life: an exporter in front of an OpenStack cloud, AI products that count
tokens, and a platform that looks every hour at how much memory its applications hold. The same month always tells the
same story.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tallystick.kernel.calendar import Month

VCPU, RAM = "project_vcpu_usage", "project_mb_usage"
"""The service knows these two, and their prices, without being told."""
TOKENS, MEMORY = "ai_tokens", "app_memory"

HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
MIB_PER_GIB = 1024

METERS: dict[str, dict[str, str]] = {
    TOKENS: {"kind": "delta", "unit": "token", "name": "AI tokens"},
    MEMORY: {"kind": "gauge", "unit": "MB·h", "name": "application memory"},
}

CUSTOMERS: list[dict[str, Any]] = [
    {"key": "genome-atlas", "name": "Genome Atlas"},
    {"key": "climate-grid", "name": "Climate Grid"},
    {"key": "protein-fold", "name": "Protein Folding Lab"},
    {"key": "lumen-labs", "name": "Lumen Labs", "credit_policy": "prepaid"},
    {"key": "acme-support", "name": "Acme Support Desk", "credit_policy": "prepaid"},
    {"key": "city", "name": "The City"},
    {"key": "city-permits", "name": "Building Permits", "parent": "city", "payer": "city"},
    {"key": "city-library", "name": "City Library", "parent": "city", "payer": "city"},
]

GRANTS: list[tuple[str, str, str]] = [
    ("genome-atlas", "CREDIT", "60000"),
    ("climate-grid", "CREDIT", "25000"),
    ("protein-fold", "CREDIT", "10000"),
    ("lumen-labs", "USD", "100"),
    ("acme-support", "USD", "5"),
    ("city", "CREDIT", "500"),
]


def per_unit(amount: str, per: str) -> dict[str, Any]:
    """So much for so many units."""
    return {"type": "per_unit", "amount": amount, "per": per}


def graduated(*tiers: tuple[str | None, str, str]) -> dict[str, Any]:
    """Up to a total, so much for so many units; beyond it, what the next tier says."""
    names = ("up_to", "amount", "per")
    return {"type": "graduated", "tiers": [dict(zip(names, tier, strict=True)) for tier in tiers]}


PRICES: list[dict[str, Any]] = [
    {"meter": TOKENS, "kind": "gemini-2.5-pro/input", "asset": "USD", "model": per_unit("0.00125", "1000")},
    {"meter": TOKENS, "kind": "gemini-2.5-pro/output", "asset": "USD", "model": per_unit("0.01", "1000")},
    {"meter": TOKENS, "kind": "gemini-2.5-flash/input", "asset": "USD", "model": per_unit("0.0003", "1000")},
    {
        "meter": TOKENS,
        "kind": "gemini-2.5-flash/output",
        "asset": "USD",
        "model": graduated(("1000000", "0.0025", "1000"), (None, "0.002", "1000")),
    },
    # One GB, held for a month of 730 hours, costs 20 credits.
    {"meter": MEMORY, "kind": "", "asset": "CREDIT", "model": per_unit("20", "747520")},
]

UNPRICED_KIND = "gemini-3-flash/output"
"""A model that is used before anybody has said what it costs."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One value at one time, as its sender knows it."""

    at: datetime
    customer: str
    meter: str
    value: Decimal
    kind: str = ""
    resource: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Day:
    """What each sender has to say about a day."""

    start: datetime
    counters: list[Usage]
    tokens: list[Usage]
    memory: list[Usage]

    def __len__(self) -> int:
        return len(self.counters) + len(self.tokens) + len(self.memory)


def tell(month: Month) -> Iterator[Day]:
    """The days of a month (UTC days, cut where the business month begins and ends)."""
    cloud = [Project(*project) for project in PROJECTS]
    start = month.start
    while start < month.end:
        end = min((start + timedelta(days=1)).replace(hour=0, minute=0), month.end)
        yield Day(
            start,
            [usage for at in _steps(start, end, QUARTER) for project in cloud for usage in project.sweep(at)],
            [usage for product in AI_PRODUCTS for usage in _requests(*product, start, end)],
            [usage for at in _steps(start, end, HOUR) for usage in _readings(at)],
        )
        start = end


# An OpenStack cloud: running totals, every quarter of an hour

PROJECTS = [
    ("genome-atlas", "8676", 24, 96),
    ("climate-grid", "8677", 16, 32),
    ("protein-fold", "8678", 6, 12),
]
"""Project, location, and the vCPUs and GiB of its machines at night. By day it runs half as many again."""

START_HOURS = Decimal(100)
"""Where every total begins: below where it ended a month before, so that one month can be played after another."""

RESTARTED, RESTARTED_ON = "protein-fold", 12
"""This project's exporter forgets its past on this day of the month: its totals fall, and are counted from there on."""


class Project:
    """The exporter's totals of one project: hours since a fixed start, of each vCPU and of each MiB."""

    def __init__(self, name: str, location: str, vcpus: int, gibibytes: int) -> None:
        self.name = name
        self._location = location
        self._vcpus = vcpus
        self._gibibytes = gibibytes
        self._hours = START_HOURS
        self._restarts = name == RESTARTED

    def sweep(self, at: datetime) -> list[Usage]:
        """The totals at ``at``, a quarter of an hour after those before."""
        by_day = at.weekday() < 5 and 8 <= at.hour < 18
        self._hours += Decimal("0.375") if by_day else Decimal("0.25")
        if self._restarts and at.day == RESTARTED_ON:
            self._hours, self._restarts = START_HOURS, False
        return [
            Usage(at, self.name, VCPU, self._hours * self._vcpus, resource=self._location),
            Usage(at, self.name, RAM, self._hours * self._gibibytes * MIB_PER_GIB, resource=self._location),
        ]


# Two AI products: what each request read and wrote

AI_PRODUCTS = [
    ("lumen-labs", "gemini-2.5-pro", 120),
    ("acme-support", "gemini-2.5-flash", 90),
]
"""Customer, model, and requests on a working day."""

NEW_MODEL_FROM_DAY = 25
"""From here on one of them also tries a model that has no price."""


def _requests(customer: str, model: str, per_day: int, start: datetime, end: datetime) -> Iterator[Usage]:
    chance = random.Random(f"{customer} {start:%d}")  # noqa: S311  # a story, not a secret
    name = f"{customer}-{start:%Y%m%dT%H}"
    count = per_day if start.weekday() < 5 else per_day // 4
    seconds = sorted(chance.sample(range(int((end - start).total_seconds())), count))
    for number, second in enumerate(seconds):
        at = start + timedelta(seconds=second)
        for part, fewest, most in (("input", 200, 4000), ("output", 50, 1500)):
            tokens = Decimal(chance.randint(fewest, most))
            yield Usage(at, customer, TOKENS, tokens, f"{model}/{part}", id=f"{name}-{number:03}-{part}")
    if customer == "acme-support" and start.day >= NEW_MODEL_FROM_DAY:
        yield Usage(start + HOUR, customer, TOKENS, Decimal(1200), UNPRICED_KIND, id=f"{name}-trial")


# A platform: how much memory each application holds, every hour

APPLICATIONS = [
    ("city-permits", "permits-web", 1024),
    ("city-permits", "permits-worker", 2048),
    ("city-library", "catalogue", 512),
    ("city-library", "reading-room", 768),
]
"""Customer, application, and its megabytes."""


def _readings(at: datetime) -> Iterator[Usage]:
    for customer, application, megabytes in APPLICATIONS:
        yield Usage(at, customer, MEMORY, Decimal(megabytes), resource=application, id=f"{application}-{at:%Y%m%dT%H}")


def _steps(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    while start < end:
        yield start
        start += step


# What goes wrong, as it does

SENT_TWICE_ON = 5
"""On this day of the month the AI products' batch is sent again, because its answer was lost."""

UNREADABLE_LINES = (
    b"project_vcpu_usage,project_name=genome-atlas,location_id=8676 value=NaN 1767225600000000000\n"
    b"project_gpu_usage,project_name=genome-atlas,location_id=8676 value=17.5 1767225600000000000\n"
)
"""A value that is no number, and a total that nobody has a meter for. InfluxDB forwards everything."""


def late_request(month: Month) -> Usage:
    """A request of the month's third day, which its sender found in a drawer at the end."""
    at = month.start + timedelta(days=2, hours=3)
    return Usage(at, "lumen-labs", TOKENS, Decimal(2500), "gemini-2.5-pro/output", id=f"lumen-labs-{at:%Y%m%d}-late")
