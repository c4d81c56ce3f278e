"""What the benchmarks send: set-up, batches of CloudEvents, single events, bills of wallets.

Generating a batch must cost next to nothing, because the generator shares the cores with what it measures. So all
events are rendered with the same width: a batch is a template whose ids and times are patched column by column, one
strided assignment per character column of 10,000 events.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from bench.client import Address, Request, render, render_head

BATCH_EVENTS: Final = 10_000
CUSTOMERS: Final = 1_000
WALLETS: Final = 1_000
TEMPLATES: Final = 8  # batches differ in customers, meters and values; 2.4 MB each
INITIAL_BALANCE: Final = 1_000_000  # credits of a wallet
BILL_AMOUNT: Final = "0.25"  # credits; exact in binary too, so that a check may add up

EVENTS_PATH: Final = "/api/v1/events"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
EVENT_TYPE: Final = "application/cloudevents+json"

EFFECTIVE_FROM: Final = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Meter:
    """A priced meter; keys, kinds and values are nine, nine and five characters wide, so events are equally long."""

    key: str
    unit: str
    kind: str
    model: dict[str, Any]
    fraction_digits: int  # of its values

    def value(self) -> str:
        """A random JSON number of five characters."""
        if self.fraction_digits == 0:
            return str(random.randint(10_000, 99_999))
        return f"{random.uniform(0.001, 9.999):.{self.fraction_digits}f}"


METERS: Final = (
    Meter("ai_tokens", "token", "gpt-large", {"type": "per_unit", "amount": "1", "per": "730"}, 0),
    Meter("vcpu_time", "h", "m1.medium", {"type": "per_unit", "amount": "0.035", "per": "1"}, 3),
    Meter(
        "disk_time",
        "GB.h",
        "ssd-local",
        {
            "type": "graduated",
            "tiers": [{"up_to": "100", "amount": "0"}, {"up_to": None, "amount": "0.07", "per": "1"}],
        },
        3,
    ),
    Meter("api_calls", "call", "read-only", {"type": "package", "amount": "5", "size": "1000"}, 0),
)


def customer_key(number: int) -> str:
    return f"customer-{number:04d}"


def setup_requests(address: Address) -> Iterator[Request]:
    """Four meters, and a price of each since the beginning of 2026."""
    for meter in METERS:
        definition = {
            "kind": "delta",
            "unit": meter.unit,
            "aggregation": "sum",
            "name": meter.key,
            "description": "A meter of the benchmark",
        }
        yield render(address, "PUT", f"/api/v1/meters/{meter.key}", msgspec.json.encode(definition))
    for meter in METERS:
        price = {
            "meter": meter.key,
            "kind": meter.kind,
            "customer": None,
            "effective_from": EFFECTIVE_FROM,
            "asset": "CREDIT",
            "quantum": "0.000001",
            "model": meter.model,
        }
        yield render(address, "POST", "/api/v1/prices", msgspec.json.encode(price))


# --- batches ---------------------------------------------------------------------------------------------------------

_ID = "00000000-0000-7000-8000-000000000000"
_TIME = "2000-01-01T00:00:00.000Z"
_EVENTS_PER_MILLISECOND = BATCH_EVENTS // 1000


@dataclass(slots=True)
class _Template:
    """A rendered batch; `stride` is the width of one event with its separator."""

    body: bytearray
    stride: int
    id_at: int
    time_at: int

    @classmethod
    def random(cls) -> _Template:
        events = [_render_event(n // _EVENTS_PER_MILLISECOND) for n in range(BATCH_EVENTS)]
        widths = {len(event) for event in events}
        assert len(widths) == 1, "events of one template must be equally long"
        return cls(
            body=bytearray(("[" + ",".join(events) + "]").encode()),
            stride=widths.pop() + 1,
            id_at=1 + events[0].index('"id":"') + 6,
            time_at=1 + events[0].index('"time":"') + 8,
        )

    def at_second(self, second: int) -> bytes:
        """The batch of one second of usage: event n happened, and got its id, at millisecond n / 10."""
        stamps = "".join(f"{ms:012x}" * _EVENTS_PER_MILLISECOND for ms in range(second * 1000, second * 1000 + 1000))
        for digit in range(12):
            column = self.id_at + digit + (digit >= 8)  # the ninth digit stands behind a hyphen
            self._patch(column, stamps[digit::12].encode())
        for position, character in enumerate(f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"):
            self._patch(self.time_at + position, character.encode() * BATCH_EVENTS)
        return bytes(self.body)

    def _patch(self, column: int, characters: bytes) -> None:
        self.body[column :: self.stride] = characters


def _render_event(millisecond: int) -> str:
    meter = random.choice(METERS)
    random_hex = os.urandom(10).hex()
    event_id = f"00000000-0000-7{random_hex[:3]}-{'89ab'[random.getrandbits(2)]}{random_hex[3:6]}-{random_hex[6:18]}"
    return _event(
        event_id=event_id,
        customer=customer_key(random.randrange(CUSTOMERS)),
        meter=meter,
        time=f"{_TIME[:20]}{millisecond:03d}Z",
    )


def _event(event_id: str, customer: str, meter: Meter, time: str) -> str:
    return (
        f'{{"specversion":"1.0","id":"{event_id}","source":"/bench","subject":"{customer}","type":"{meter.key}",'
        f'"time":"{time}","datacontenttype":"application/json","data":{{"value":{meter.value()},"kind":"{meter.kind}"}}}}'
    )


@dataclass(slots=True)
class Batches:
    """Batches with fresh, time-ordered UUIDv7 ids; each batch is one second of simulated usage after the one before.

    Simulated time starts far enough in the past for `expected_batches` to end before now.
    """

    address: Address
    expected_batches: int
    second: int = field(init=False)
    _templates: list[_Template] = field(init=False)
    _head: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._templates = [_Template.random() for _ in range(TEMPLATES)]
        self.second = int(time.time()) - self.expected_batches
        length = len(self._templates[0].body)
        self._head = render_head(self.address, "POST", EVENTS_PATH, length, BATCH_TYPE)

    def __iter__(self) -> Iterator[Request]:
        while True:
            yield self.take()

    def take(self) -> Request:
        self.second += 1
        template = self._templates[self.second % TEMPLATES]
        return Request(self._head, template.at_second(self.second))


# --- small requests --------------------------------------------------------------------------------------------------


def single_events(address: Address) -> Iterator[Request]:
    """Single events of now, with fresh UUIDv7 ids, over all customers and meters; endless."""
    templates = [
        _event(_ID, customer_key(number % CUSTOMERS), METERS[number % len(METERS)], _TIME).encode()
        for number in range(CUSTOMERS)
    ]
    random.shuffle(templates)
    parts = [_split(template) for template in templates]
    head = render_head(address, "POST", EVENTS_PATH, len(templates[0]), EVENT_TYPE)
    while True:
        for before, between, after in parts:
            now_ms = time.time_ns() // 1_000_000
            yield Request(head, b"".join((before, uuid7(now_ms), between, rfc3339(now_ms), after)))


def _split(event: bytes) -> tuple[bytes, bytes, bytes]:
    before, rest = event.split(_ID.encode())
    between, after = rest.split(_TIME.encode())
    return before, between, after


def uuid7(milliseconds: int) -> bytes:
    """A version 7 UUID of RFC 9562, in text form."""
    value = milliseconds << 80 | 0x7 << 76 | random.getrandbits(12) << 64 | 0b10 << 62 | random.getrandbits(62)
    text = b"%032x" % value
    return b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def rfc3339(milliseconds: int) -> bytes:
    """A UTC time with milliseconds."""
    second = time.gmtime(milliseconds // 1000)
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ" % (*second[:6], milliseconds % 1000)


def account_requests(address: Address, users: list[str]) -> Iterator[Request]:
    """Open an account with the initial balance for each user."""
    for user in users:
        body = {"user_id": user, "initial_balance": INITIAL_BALANCE}
        yield render(address, "POST", "/api/v1/accounts", msgspec.json.encode(body))


def balance_requests(address: Address, users: list[str]) -> Iterator[Request]:
    for user in users:
        yield render(address, "POST", "/api/v1/balance", msgspec.json.encode({"user_id": user}))


def bill_requests(address: Address, users: list[str]) -> Iterator[Request]:
    """Bill the users in turn; endless."""
    rendered = [
        render(
            address,
            "POST",
            "/api/v1/bill",
            f'{{"user_id":"{user}","amount":{BILL_AMOUNT},"description":"One request of the benchmark"}}'.encode(),
        )
        for user in users
    ]
    while True:
        yield from rendered
