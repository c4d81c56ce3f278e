"""Careful senders: each sends its requests in order, sends again what was not answered, and some of what was.

What they sent is what the books must hold in the end, whatever happened in between: every measurement and every bill
once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any
from uuid import UUID, uuid5

import httpx
import msgspec

from tallystick.metering.model import Measurement, Meter
from tallystick.pricing.functions import parse_model
from tallystick.pricing.model import NewPrice
from tests.metering.reference import Accountant
from tests.system.conftest import Server

BEGIN = datetime(2026, 3, 27, tzinfo=UTC)
"""Usage goes on from here into April."""

PLENTY = 1_000_000
"""Credits with which wallets begin that are billed: more than anybody bills."""

METERS = {
    "tokens": Meter("tokens"),
    "storage": Meter("storage", "gauge", "max"),
    "users": Meter("users", "delta", "unique"),
    "late": Meter("late"),
    "project_vcpu_usage": Meter("project_vcpu_usage", "counter"),
}
STEPS: dict[str, Any] = {
    "type": "volume",
    "tiers": [
        {"up_to": "100", "amount": "0.07"},
        {"up_to": "5000", "amount": "0.02"},
        {"up_to": None, "amount": "0.0013"},
    ],
}
MODELS: dict[str, dict[str, Any]] = {
    "tokens": STEPS,
    "storage": {"type": "per_unit", "amount": "1", "per": "730"},
    "users": {"type": "package", "amount": "0.5", "size": "3"},
    "late": {"type": "per_unit", "amount": "1", "per": "3"},
}
CUSTOMERS = {"ada": None, "lab": None, "org": None, "org-left": "org", "org-right": "org"}
"""Payers by customer; ``org`` is prepaid, and soon in arrears."""

WALLETS = ("wallet-1", "wallet-2")


@dataclass(frozen=True)
class Request:
    """Something to be sent, with what it means."""

    path: str
    content: bytes
    content_type: str
    idempotency_key: str | None = None
    measurements: tuple[Measurement, ...] = ()
    billed: tuple[str, Decimal] | None = None

    def send(self, client: httpx.Client) -> httpx.Response:
        headers = {"Content-Type": self.content_type}
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = self.idempotency_key
        return client.post(self.path, content=self.content, headers=headers)


@dataclass
class Sender:
    """One client. What it sends depends on name and seed alone: a twin sends the same."""

    name: str
    seed: int
    customers: tuple[str, ...] = tuple(CUSTOMERS)
    answered: list[Request] = field(default_factory=list)
    unanswered: Request | None = None

    def __post_init__(self) -> None:
        self._dice = random.Random(f"{self.seed}-{self.name}")
        self._dice_for_repeats = random.Random(f"{self.seed}-{self.name}-again")
        self._numbers = count(1)
        self._running_total = Decimal(self._dice.randrange(10**6))

    def send(self, url: str, stop: threading.Event, answers: Counter[str]) -> None:
        """Sends until told to stop, or until the service is gone."""
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                self.unanswered = self.unanswered or self.think()
                if not _is_answered(client, self.unanswered):
                    return
                self.answered.append(self.unanswered)
                self.unanswered = None
                answers[self.name] += 1
                dice = self._dice_for_repeats
                if dice.random() < 0.3 and not _is_answered(client, dice.choice(self.answered)):
                    return

    def finish(self, url: str) -> None:
        """Sends what was not answered, and some of what was."""
        again = self._dice_for_repeats.sample(self.answered, len(self.answered) // 4)
        with httpx.Client(base_url=url, timeout=60) as client:
            for request in [*([self.unanswered] if self.unanswered else []), *again]:
                assert _is_answered(client, request)
        self.answered += [self.unanswered] if self.unanswered else []
        self.unanswered = None

    def think(self) -> Request:
        return self._dice.choices([self._events, self._lines, self._bill], [4, 2, 3])[0]()

    def _events(self) -> Request:
        measurements = tuple(self._measurement() for _ in range(self._dice.choice([1, 2, 30, 120])))
        events = [
            {
                "specversion": "1.0",
                "id": m.sender_id,
                "source": self.name,
                "subject": m.customer,
                "type": m.meter,
                "time": m.at.isoformat(),
                "data": {"value": str(m.value)},
            }
            for m in measurements
        ]
        content_type = "application/cloudevents-batch+json"
        return Request("/api/v1/events", msgspec.json.encode(events), content_type, measurements=measurements)

    def _measurement(self) -> Measurement:
        number = next(self._numbers)
        return Measurement(
            f"events:{self.name}",
            str(uuid5(UUID(int=self.seed), f"{self.name}-{number}")) if number % 2 else str(number),
            self._dice.choice(self.customers),
            self._dice.choice(["tokens", "tokens", "storage", "users", "late"]),
            BEGIN + timedelta(minutes=7 * number),
            Decimal(self._dice.randrange(1, 9000)).scaleb(-self._dice.randrange(3)),
        )

    def _lines(self) -> Request:
        """The next readings of this sender's own running total; a later one must not overtake them."""
        measurements = []
        for _ in range(self._dice.randrange(1, 20)):
            self._running_total += Decimal(self._dice.randrange(1, 500)).scaleb(-2)
            at = BEGIN + timedelta(minutes=next(self._numbers))
            measurements.append(
                Measurement(
                    "line-protocol",
                    at.isoformat(),
                    f"project-{self.name}",
                    "project_vcpu_usage",
                    at,
                    self._running_total,
                )
            )
        lines = [
            f"{m.meter},project_name={m.customer},location_id=1 value={m.value} {int(m.at.timestamp())}"
            for m in measurements
        ]
        content = "\n".join(lines).encode()
        return Request("/write?precision=s", content, "text/plain", measurements=tuple(measurements))

    def _bill(self) -> Request:
        wallet, amount = self._dice.choice(WALLETS), Decimal(self._dice.randrange(1, 300)).scaleb(-4)
        body = f'{{"user_id":"{wallet}","amount":{amount:f}}}'.encode()
        key = f"{self.name}-{next(self._numbers)}"
        return Request("/api/v1/bill", body, "application/json", key, billed=(wallet, amount))


def _is_answered(client: httpx.Client, request: Request) -> bool:
    """Whether the service answered. What it answers is always that it was done."""
    try:
        response = request.send(client)
    except httpx.TransportError:
        return False
    assert response.is_success, f"{request.path}: {response.status_code} {response.text}"
    if request.path == "/api/v1/events":
        receipt = response.json()
        assert receipt["accepted"] + receipt["duplicates"] == len(request.measurements)
        assert receipt["rejected"] == []
    return True


def set_up(server: Server) -> None:
    """Customers, wallets, meters, and prices of all meters but ``late``."""
    for key, payer in CUSTOMERS.items():
        policy = "prepaid" if key == "org" else "postpaid"
        server.post("/api/v1/customers", {"key": key, "payer": payer, "credit_policy": policy})
        server.post(f"/api/v1/customers/{key}/grants", {"asset": "CREDIT", "amount": "5"})
    for wallet in WALLETS:
        server.post("/api/v1/accounts", {"user_id": wallet, "initial_balance": PLENTY})
    for key, meter in METERS.items():
        if meter.kind != "counter":  # it is built in
            server.put(f"/api/v1/meters/{key}", {"kind": meter.kind, "aggregation": meter.aggregation})
    for meter_key in ("tokens", "storage", "users"):
        server.post("/api/v1/prices", price(meter_key))


def price(meter: str) -> dict[str, Any]:
    return {"meter": meter, "effective_from": "2026-01-01T00:00:00Z", "model": MODELS[meter]}


@dataclass(frozen=True)
class Load:
    """Senders at work."""

    answers: Counter[str]
    sending: list[Future[None]]

    def wait_for(self, answers: int) -> None:
        """Returns when so many more requests were answered. Raises what a sender raised."""
        enough = self.answers.total() + answers
        while self.answers.total() < enough:
            assert not all(each.done() for each in self.sending), "the service is gone"
            for each in self.sending:
                if each.done():
                    each.result()
            time.sleep(0.001)


@contextmanager
def under_load(senders: list[Sender], urls: list[str]) -> Iterator[Load]:
    """Lets all senders send, to the servers in turn."""
    stop, answers = threading.Event(), Counter[str]()
    with ThreadPoolExecutor(len(senders)) as threads:
        load = Load(
            answers,
            [
                threads.submit(sender.send, urls[number % len(urls)], stop, answers)
                for number, sender in enumerate(senders)
            ],
        )
        try:
            yield load
        finally:
            stop.set()
        for each in load.sending:
            each.result()


def assert_everything_is_charged_once(server: Server, senders: list[Sender]) -> Accountant:
    """The service's books, read through its routes, are those of an accountant who got every request once.

    Returns the accountant.
    """
    requests = list(dict.fromkeys(request for sender in senders for request in sender.answered))
    accountant = _accountant(server, requests)
    customers = {customer for customer, *_ in accountant.totals}
    shown: dict[Any, tuple[Fraction, int]] = {}
    for customer in customers:
        for month in {month for key, month, *_ in accountant.totals if key == customer}:
            for line in server.get(f"/api/v1/customers/{customer}/bill", month=month)["lines"]:
                price_id = UUID(line["price"]) if line["price"] else None
                place = (customer, month, price_id, line["meter"], line["kind"])
                shown[place] = (Fraction(line["quantity"]), line["measurements"])
    assert shown == {place: (total, accountant.counted[place]) for place, total in accountant.totals.items()}

    used: Counter[str] = Counter()
    for (customer, _), due in accountant.due().items():
        used[CUSTOMERS.get(customer) or customer] += due
    for wallet, amount in (request.billed for request in requests if request.billed):
        used[wallet] += int(amount.scaleb(6))
    for payer, microcredits in used.items():
        (standing,) = server.get(f"/api/v1/customers/{payer}")["balances"]
        assert Decimal(standing["used"]).scaleb(6) == microcredits, payer
        assert Decimal(standing["granted"]) - Decimal(standing["used"]) == Decimal(standing["balance"])
    verdict = server.get("/api/v1/verify")
    assert verdict["holds"], verdict
    return accountant


def _accountant(server: Server, requests: list[Request]) -> Accountant:
    """With the prices that the service has, all of which start before any usage."""
    accountant = Accountant(METERS)
    for listed in server.get("/api/v1/prices")["items"]:
        start = datetime.fromisoformat(listed["effective_from"])
        accountant.prices[UUID(listed["id"])] = NewPrice(
            listed["meter"], "", None, start, "CREDIT", Decimal(listed["quantum"]), parse_model(listed["model"])
        )
    for request in requests:
        accountant.record(list(request.measurements))
    return accountant
