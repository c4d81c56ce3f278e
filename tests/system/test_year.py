"""A year on the test clock: three customers, two sources, and what a pencil comes to (``year.py``).

Every hour the platform is read, every day the running totals of two projects are sent, and on the first of each month
the last one is posted: through both changes of the clock, a day on which the platform does not answer, a week that
arrives three weeks late, a price that rises in the middle of a month, an agreement that starts and ends, and an
organization that somebody else pays for from July on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import httpx
import pytest
import uvloop
from pydantic import SecretStr

from tallystick.service import open_service
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi
from tests.system import year
from tests.system.year import AWAY, BACK, BEGIN, DAY, END, HOUR, LATE, MAPPED, STAYS, WEEK, WEEK_END, Pencil
from tests.web.conftest import asking, settings

pytestmark = pytest.mark.integration

CUSTOMERS = ("agency", "org-1", "physics")
MONTHS = [f"2026-{number:02}" for number in range(1, 13)]
HOURS = dict(zip(MONTHS, (744, 672, 743, 720, 744, 720, 744, 744, 720, 744, 721, 744), strict=True))
GONE = "404 Not Found: Requested route ('api.example.org') does not exist."
"""What a platform's router says while nobody answers behind it."""
MODELS: dict[tuple[str, str], list[tuple[datetime, dict[str, Any]]]] = {
    ("cfapps", ""): [
        (BEGIN, {"type": "per_unit", "amount": "1", "per": "730"}),
        (year.DEARER, {"type": "per_unit", "amount": "1.25", "per": "730"}),
    ],
    ("cfservices", "micro"): [
        (
            BEGIN,
            {
                "type": "graduated",
                "tiers": [{"up_to": "1000", "amount": "1", "per": "20"}, {"up_to": None, "amount": "1", "per": "30"}],
            },
        )
    ],
    ("cfservices", "large"): [(BEGIN, {"type": "per_unit", "amount": "100", "per": "730"})],
}
"""The prices of ``year.PRICES`` that are not there from the start."""


@dataclass(frozen=True)
class Story:
    """The service in this process, asked through its surface, and the platform that it reads."""

    http: httpx.AsyncClient
    capi: Capi

    async def ask(self, method: str, path: str, **request: Any) -> Any:
        response = await self.http.request(method, path, **request)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    async def get(self, path: str, **query: str) -> Any:
        return await self.ask("GET", f"/api/v1/{path}", params=query)

    async def put(self, path: str, body: dict[str, Any]) -> Any:
        return await self.ask("PUT", f"/api/v1/{path}", json=body)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self.ask("POST", f"/api/v1/{path}", json=body)

    # What happens

    async def begin(self) -> None:
        """The platform, meters, prices, and two of the customers; the third one comes with the first reading."""
        self.capi.tell(
            "put",
            organizations=[{"guid": "org-1", "name": "agency"}],
            spaces=[{"guid": "space-1", "name": "web", "organization": "org-1"}],
            service_offerings=[{"guid": "aws-rds"}],
            service_plans=[{"guid": guid, "offering": "aws-rds"} for guid in ("micro", "large")],
        )
        held = {"kind": "gauge", "unit": "instance·h", "on_gap": "held", "max_gap_hours": 24}
        await self.put("meters/cfservices", held)
        for meter, kind in MODELS:
            await self.price(meter, kind, 0)
        await self.post("customers", {"key": "agency", "posting_policy": "monthly"})
        await self.post("customers", {"key": "physics", "credit_policy": "prepaid"})
        await self.grant("physics", year.GRANTS["physics"])
        await self.put("tiers/research", {"credits": year.TIER_CREDITS})
        await self.post("customers/agency/agreements", {"tier": "research", "start": "2026-02-15", "end": "2026-10-15"})

    async def price(self, meter: str, kind: str, version: int) -> None:
        since, model = MODELS[meter, kind][version]
        await self.post("prices", {"meter": meter, "kind": kind, "effective_from": since.isoformat(), "model": model})

    async def grant(self, customer: str, credits_given: int) -> None:
        await self.post(f"customers/{customer}/grants", {"asset": "CREDIT", "amount": credits_given})

    async def show(self, at: datetime) -> None:
        """Has the platform hold what it holds at an instant."""
        here = {stay.guid: stay for stay in STAYS if stay.since <= at < stay.until}
        for stay in here.values():
            if stay.plan:
                self.capi.tell("put", service_instances=[{"guid": stay.guid, "space": "space-1", "plan": stay.plan}])
            else:
                size = {"instances": stay.instances, "memory_in_mb": stay.memory_mb}
                self.capi.tell(
                    "put",
                    apps=[{"guid": stay.guid, "space": "space-1"}],
                    processes=[{"guid": f"web-{stay.guid}", "app": stay.guid, **size}],
                )
        for stay in STAYS:
            if stay.until == at and stay.guid not in here:
                gone = {"service_instances": [stay.guid]}
                if not stay.plan:
                    gone = {"apps": [stay.guid], "processes": [f"web-{stay.guid}"]}
                self.capi.tell("drop", **gone)

    async def send(self, at: datetime) -> None:
        """Sends the running totals that arrive at an instant, as the OpenStack exporter's line protocol has them."""
        lines = [
            f"{meter},project_name={project},location_id=1 value={year.running_total(project, meter, when)}"
            f" {int(when.timestamp())}"
            for project, meters in year.PROJECTS.items()
            for when in year.arriving(project, at)
            for meter in meters
        ]
        await self.ask("POST", "/write?precision=s", content="\n".join(lines))

    async def go_away(self) -> None:
        for path in ("/", "/oauth/token", "/v3/processes", "/v3/apps", "/v3/service_instances"):
            self.capi.tell("when", path=path, status=404, body=GONE)

    async def come_back(self) -> None:
        self.capi.tell("set", rules=[])

    async def run(self) -> None:
        """Goes from one happening to the next, and on until the year's last month is posted."""
        plan: list[tuple[datetime, Callable[[], Awaitable[None]]]] = [
            (BEGIN, self.begin),
            (BEGIN + HOUR, lambda: self.grant("org-1", year.GRANTS["org-1"])),
            (AWAY, self.go_away),
            (BACK, self.come_back),
            (MAPPED, lambda: self.put("customers/org-1/payer", {"payer": "agency"})),
            (year.TOP_UP, lambda: self.grant("physics", year.TOP_UP_CREDITS)),
            (year.DEARER - 6 * DAY, lambda: self.price("cfapps", "", 1)),
        ]
        instants = {instant for stay in STAYS for instant in (stay.since, stay.until) if instant < END}
        plan += [(instant, lambda instant=instant: self.show(instant)) for instant in instants]  # type: ignore[misc]
        first = BEGIN.replace(minute=30)
        days = [first + number * DAY for number in range((END - BEGIN) // DAY + 1)]
        plan += [(day, lambda day=day: self.send(day)) for day in days]  # type: ignore[misc]
        for instant, happen in sorted(plan, key=lambda each: each[0]):
            await self.put("test-clock", {"now": instant.isoformat()})
            await happen()
        await self.put("test-clock", {"now": (END + 6.5 * HOUR).isoformat()})


@dataclass
class Outcome:
    """What the service says after the year."""

    bills: dict[tuple[str, str], Any] = field(default_factory=dict)
    postings: dict[str, list[Any]] = field(default_factory=dict)
    balances: dict[str, Any] = field(default_factory=dict)
    grants: list[Any] = field(default_factory=list)
    prices: dict[str, datetime] = field(default_factory=dict)
    readings: list[Any] = field(default_factory=list)
    dead_jobs: list[Any] = field(default_factory=list)
    late: list[Any] = field(default_factory=list)

    @classmethod
    async def of(cls, story: Story) -> Outcome:
        outcome = cls()
        for price in (await story.get("prices", limit="100"))["items"]:
            outcome.prices[price["id"]] = datetime.fromisoformat(price["effective_from"])
        for key in CUSTOMERS:
            for month in MONTHS:
                outcome.bills[key, month] = await story.get(f"customers/{key}/bill", month=month)
            outcome.postings[key] = (await story.get(f"customers/{key}/postings", limit="100"))["items"]
            (outcome.balances[key],) = (await story.get(f"customers/{key}"))["balances"]
        outcome.grants = (await story.get("customers/agency/grants"))["items"]
        outcome.readings = await pages(story, "readings")
        outcome.dead_jobs = await pages(story, "jobs", state="dead")
        week = {"since": (WEEK + HOUR / 60).isoformat(), "until": (WEEK_END + HOUR / 60).isoformat()}
        outcome.late = await pages(story, "customers/agency/charges", **week)
        return outcome


async def pages(story: Story, path: str, **query: str) -> list[Any]:
    items: list[Any] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        cursor = {"cursor": page["next"]} if page["next"] else {}
        page = await story.get(path, limit="1000", **query, **cursor)
        items += page["items"]
    return items


async def rehearse(capi: Capi, url: str) -> Outcome:
    account = {"cf_api_url": capi.url, "cf_client_id": CLIENT_ID, "cf_client_secret": SecretStr(CLIENT_SECRET)}
    chosen = settings(database_pool_size=4, job_attempts=1, **account)
    async with (
        open_service(chosen, url, rehearse_from=BEGIN) as service,
        service.at_work(worker=False),
        asking(service) as http,
    ):
        story = Story(http, capi)
        await story.run()
        return await Outcome.of(story)


@pytest.mark.timeout(1800)
def test_a_year_is_billed_and_posted_as_a_pencil_has_it(
    capi: Capi, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sniffio", None)  # httpx looks for it in vain, with every step of every request
    happened, pencil = uvloop.run(rehearse(capi, database_url)), Pencil()
    assert_readings(happened)
    assert_bills(happened, pencil)
    assert_postings(happened, pencil)
    assert_balances(happened, pencil)
    assert tally(database_url, "verify")["holds"]
    explain_a_charge_of_the_late_week(happened, pencil, database_url)


def assert_readings(happened: Outcome) -> None:
    """One for every hour, of which those of the day without the platform failed."""
    taken = {datetime.fromisoformat(reading["interval_start"]): reading["state"] for reading in happened.readings}
    assert len(happened.readings) == len(taken) == sum(HOURS.values()) + 7
    assert {hour for hour, state in taken.items() if state != "complete"} == {
        AWAY + number * HOUR for number in range(24)
    }
    assert {job["name"] for job in happened.dead_jobs} == {"measure-usage"}
    assert len(happened.dead_jobs) == 24
    for month, hours in HOURS.items():
        assert sum(year.month(hour) == month for hour in taken) == hours


def assert_bills(happened: Outcome, pencil: Pencil) -> None:
    for (customer, month), bill in happened.bills.items():
        shown = {
            (line["meter"], line["kind"], since(happened, line)): (Fraction(line["quantity"]), micro(line["amount"]))
            for line in bill["lines"]
        }
        due = {
            key[2:]: (total, pencil.cost(key)) for key, total in pencil.totals.items() if key[:2] == (customer, month)
        }
        assert shown == due, (customer, month)
        assert [(total["asset"], micro(total["amount"])) for total in bill["totals"]] == [
            ("CREDIT", sum(amount for _, amount in due.values()))
        ]
    (before, after) = [line for line in happened.bills["org-1", "2026-09"]["lines"] if line["meter"] == "cfapps"]
    assert {before["price"], after["price"]} < set(happened.prices)
    assert Fraction(before["quantity"]) + Fraction(after["quantity"]) == 720 * 5 * 512 + (720 - 10) * 333


def since(happened: Outcome, line: dict[str, Any]) -> datetime:
    """From when on a line's price is in force; those that were there from the start, from the beginning of the year."""
    return max(happened.prices[line["price"]], BEGIN)


def assert_postings(happened: Outcome, pencil: Pencil) -> None:
    for customer in CUSTOMERS:
        shown = [
            (posting["month"], posting["number"], micro(posting["amount"]), posting["description"])
            for posting in happened.postings[customer]
        ]
        due = [
            (month, number, amount, year.describe(month, number))
            for payer, month, number, amount in pencil.postings
            if payer == customer
        ]
        assert sorted(shown) == sorted(due), customer
    supplements = {posting["month"] for posting in happened.postings["agency"] if posting["number"]}
    assert supplements == {"2026-05", "2026-10"}  # the late week, and what came after the agreement's end
    assert [posting["posted_at"] for posting in happened.postings["org-1"] if posting["month"] == "2026-07"] == [
        utc(MAPPED)
    ]


def assert_balances(happened: Outcome, pencil: Pencil) -> None:
    for customer in CUSTOMERS:
        shown = happened.balances[customer]
        assert micro(shown["balance"]) == pencil.balance(customer), customer
        assert micro(shown["used"]) == pencil.used[customer], customer
        assert micro(shown["granted"]) == pencil.granted[customer], customer
    (agreed,) = happened.grants
    assert micro(agreed["expired"]) == pencil.expired["agency"]
    assert (agreed["effective_at"], agreed["expires_at"]) == (utc(year.AGREED), utc(year.AGREED_UNTIL))
    assert pencil.expired["agency"] > 0 > pencil.balance("agency")


def explain_a_charge_of_the_late_week(happened: Outcome, pencil: Pencil, url: str) -> None:
    """Its quantity is the rise of an hour, and what it is a part of was posted with the supplement."""
    assert len(happened.late) == 7 * 24 * 2
    charge = next(charge for charge in happened.late if charge["meter"] == "project_vcpu_usage")
    assert (charge["at"], charge["recorded_at"], charge["quantity"]) == (utc(WEEK_END), utc(LATE), "2.0075")
    trail = tally(url, "explain", charge["id"])
    ((amount,),) = [posting[3:] for posting in pencil.postings if posting[:3] == ("agency", "2026-05", 1)]
    supplements = [posting for posting in happened.postings["agency"] if posting["number"]]
    (transfer,) = [posting["id"] for posting in supplements if posting["month"] == "2026-05"]
    (total,) = [total for key, total in pencil.totals.items() if key[:3] == ("agency", "2026-05", "project_vcpu_usage")]
    hours_late = Fraction(Decimal("2.0075")) * (7 * 24 + 22)  # and those of May that came behind it
    before = total - hours_late
    assert not trail["is_noted"]
    assert Fraction(trail["postings"][0]["quantity_before"]) == 0
    assert [Fraction(posting["quantity_after"]) for posting in trail["postings"]] == [before, total]
    assert trail["postings"][1]["transfer"] == transfer
    (moved,) = [moved for moved in trail["transfers"] if moved["id"] == transfer]
    assert (moved["customer"], micro(moved["amount"]), moved["at"]) == ("agency", amount, "2026-07-01T10:01:00Z")
    assert (moved["from"], moved["to"]) == ("wallet", "used")


def micro(text: str) -> int:
    scaled = Fraction(text) * 10**6
    assert scaled.denominator == 1
    return int(scaled)


def utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def tally(url: str, *words: str) -> Any:
    """What a command answers."""
    ran = subprocess.run(
        [sys.executable, "-m", "tallystick.cli", *words, "--json"],
        env=os.environ | {"TALLY_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        timeout=timedelta(minutes=5).total_seconds(),
        check=True,
    )
    return json.loads(ran.stdout)
