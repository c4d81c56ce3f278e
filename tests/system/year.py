"""A year as it is planned, and what it comes to: an independent calculation, with nothing of Tallystick in it.

``agency`` has an OpenStack project, is posted monthly, and has an agreement from February to October; from July on it
pays for ``org-1`` too, an organization of the platform that is posted monthly. ``physics`` is a prepaid OpenStack
project.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import NamedTuple
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def local(text: str) -> datetime:
    """An instant that New York's clocks show once."""
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


# The plan

BEGIN, END = local("2026-01-01"), local("2027-01-01")
GRANTS = {"org-1": 300, "physics": 40_000}
"""Credits that are given at the beginning."""
TOP_UP, TOP_UP_CREDITS = local("2026-08-03T14:50"), 45_000
"""Of ``physics``, which has run out by then."""
AGREED, AGREED_UNTIL, TIER_CREDITS = local("2026-02-15"), local("2026-10-15"), 45_000
MAPPED = local("2026-07-15T12:45")
DEARER = local("2026-09-16")
"""Memory costs more from then on."""
AWAY, BACK = local("2026-06-10"), local("2026-06-11")
"""A day on which the platform does not answer. What a service's hours would have been is estimated; apps' are free."""


class Stay(NamedTuple):
    """Something of the organization's on the platform, as large as this meanwhile. A service is of some plan."""

    guid: str
    since: datetime
    until: datetime = END + DAY
    instances: int = 1
    memory_mb: int = 0
    plan: str = ""


STAYS = (
    Stay("shop", BEGIN, local("2026-04-20T15:20"), 2, 512),
    Stay("shop", local("2026-04-20T15:20"), local("2026-12-24T18:20"), 5, 512),
    Stay("shop", local("2026-12-24T18:20"), instances=1, memory_mb=768),
    Stay("nightly", local("2026-03-08T00:20"), local("2026-03-08T04:20"), 3, 1024),  # a night of an hour less
    Stay("nightly", local("2026-11-01T00:20"), local("2026-11-01T04:20"), 3, 1024),  # and one of an hour more
    Stay("survey", local("2026-09-01T09:20"), local("2026-10-01T00:20"), 1, 333),
    Stay("db", BEGIN, plan="micro"),
    Stay("cache", local("2026-04-02T11:20"), local("2026-11-03T08:20"), plan="micro"),
    Stay("queue", local("2026-02-01T00:20"), local("2026-06-10T09:20"), plan="large"),  # nobody saw it go
    Stay("index", local("2026-06-10T10:20"), local("2026-12-01T00:20"), plan="large"),  # nor this one come
)

PROJECTS = {
    "physics": {"project_vcpu_usage": Decimal("7.345"), "project_mb_usage": Decimal("6144.5")},
    "agency": {"project_vcpu_usage": Decimal("2.0075"), "project_mb_usage": Decimal(4096)},
}
"""What the running totals of each project rise by in an hour."""
RESTARTED_AFTER_HOURS = 5000
"""The exporter begins again at zero then."""
WEEK, WEEK_END = datetime(2026, 5, 24, 5, 30, tzinfo=UTC), datetime(2026, 5, 31, 5, 30, tzinfo=UTC)
LATE = WEEK_END + 21 * DAY
"""A week of both projects arrives three weeks late; what followed it on time, of ``agency`` behind it."""


def running_total(project: str, meter: str, at: datetime) -> Decimal:
    """What the exporter says at some half hour."""
    return PROJECTS[project][meter] * ((at - BEGIN) // HOUR % RESTARTED_AFTER_HOURS)


def arriving(project: str, at: datetime) -> list[datetime]:
    """The half hours whose running totals arrive at an instant: once a day those of the day, as a rule."""
    if at.hour != WEEK.hour or WEEK < at <= WEEK_END or (project == "agency" and WEEK < at < LATE):
        return []
    days = [at - DAY]
    if at == LATE:
        days = [WEEK + number * DAY for number in range(7)]
        days += [at - DAY] if project == "physics" else [WEEK_END + number * DAY for number in range(21)]
    return [day + number * HOUR for day in days for number in range(1, 25) if day + number * HOUR > BEGIN]


# The calculation

MICRO, CENT = Fraction(1, 10**6), Fraction(1, 100)
PRICES: dict[tuple[str, str], list[tuple[datetime, Fraction, Callable[[Fraction], Fraction]]]] = {
    ("cfapps", ""): [(BEGIN, MICRO, lambda q: q / 730), (DEARER, MICRO, lambda q: q * Fraction("1.25") / 730)],
    ("cfservices", "micro"): [(BEGIN, MICRO, lambda q: min(q, Fraction(1000)) / 20 + max(q - 1000, Fraction(0)) / 30)],
    ("cfservices", "large"): [(BEGIN, MICRO, lambda q: q * 100 / 730)],
    ("project_vcpu_usage", ""): [(BEGIN, CENT, lambda q: q)],
    ("project_mb_usage", ""): [(BEGIN, CENT, lambda q: q * Fraction("0.3") / 1024)],
}
"""By meter and kind: from when on, rounded to what, and how many credits a month's quantity costs."""

Key = tuple[str, str, str, str, datetime]
"""Of a total: customer, month, meter, kind, and since when its price is in force."""


class Pencil:
    """Goes through the year hour by hour, and adds up. Amounts are microcredits."""

    def __init__(self) -> None:
        self.totals: defaultdict[Key, Fraction] = defaultdict(Fraction)
        self.taken: defaultdict[Key, Fraction] = defaultdict(Fraction)  # of the totals, what has been posted
        self.last: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
        self.postings: list[tuple[str, str, int, int]] = []  # payer, month, number, amount
        self.granted = Counter({customer: given * 10**6 for customer, given in GRANTS.items()})
        self.used, self.expired = Counter[str](), Counter[str]()
        self.payers = {"agency": "agency", "org-1": "org-1"}
        for hour in range((END - BEGIN) // HOUR + 7):
            self.live(BEGIN + hour * HOUR)
        self.used["physics"] = sum(self.cost(key) for key in self.totals if key[0] == "physics")

    def live(self, hour: datetime) -> None:
        self.granted["agency"] += TIER_CREDITS * 10**6 * (hour == AGREED)
        self.granted["physics"] += TOP_UP_CREDITS * 10**6 * (hour <= TOP_UP < hour + HOUR)
        if hour == AGREED_UNTIL:
            self.post({"agency"}, before=month(END))
            self.expired["agency"] += max(self.balance("agency"), 0)
        for stay in STAYS if not AWAY <= hour < BACK else ():
            if stay.since <= hour + HOUR / 60 < stay.until:
                for missed in range(25 if hour == BACK and stay.plan and stay.since < AWAY else 1):
                    meter, value = ("cfservices", 1) if stay.plan else ("cfapps", stay.instances * stay.memory_mb)
                    self.use("org-1", meter, stay.plan, hour - missed * HOUR, Fraction(value))
        if hour.astimezone(NEW_YORK).strftime("%d %H") == "01 06":
            self.post({"agency", "org-1"}, before=month(hour))
        for project, meters in PROJECTS.items():
            for at, meter in product(arriving(project, hour + HOUR / 2), meters):
                self.use(project, meter, "", at, self.rise(project, meter, at))
        if hour <= MAPPED < hour + HOUR:
            self.post({"org-1"}, before=month(END))
            debt = max(-self.balance("org-1"), 0)
            self.used.update({"org-1": -debt, "agency": debt})
            self.payers["org-1"] = "agency"

    def rise(self, project: str, meter: str, at: datetime) -> Fraction:
        value = running_total(project, meter, at)
        before_at, before = self.last.get((project, meter), (BEGIN, value))
        if at >= before_at:
            self.last[project, meter] = at, value
        return Fraction(value - before) if at >= before_at and value > before else Fraction(0)

    def use(self, customer: str, meter: str, kind: str, at: datetime, quantity: Fraction) -> None:
        since = max(since for since, _, _ in PRICES[meter, kind] if since <= at)
        self.totals[customer, month(at), meter, kind, since] += quantity

    def cost(self, key: Key, taken: Fraction = Fraction(0)) -> int:
        ((quantum, function),) = [price[1:] for price in PRICES[key[2:4]] if price[0] == key[4]]
        steps = round(function(self.totals[key]) / quantum) - round(function(taken) / quantum)
        return int(steps * quantum * 10**6)

    def post(self, payers: set[str], before: str) -> None:
        due = Counter[tuple[str, str]]()
        for key, total in self.totals.items():
            if (payer := self.payers.get(key[0])) in payers and key[1] < before and total != self.taken[key]:
                due[payer, key[1]] += self.cost(key, self.taken[key])
                self.taken[key] = total
        for place, amount in due.items():
            self.postings.append((*place, sum(posting[:2] == place for posting in self.postings), amount))
            self.used[place[0]] += amount

    def balance(self, customer: str) -> int:
        return self.granted[customer] - self.used[customer] - self.expired[customer]


def month(at: datetime) -> str:
    """The month in which New York's calendar has an instant."""
    return f"{at.astimezone(NEW_YORK):%Y-%m}"


def describe(period: str, number: int) -> str:
    """What a posting says of itself."""
    first = date.fromisoformat(f"{period}-01")
    following = (first + timedelta(days=31)).replace(day=1)
    return f"Monthly usage {first}--{following}" + (f", supplement {number}" if number else "")
