"""Events as they are sent, and who reads them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tallystick.metering.model import Batch, Measurement
from tallystick.metering.sources.cloud_events import read

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
JSON = "application/json"
LINES = "application/x-ndjson"
ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"
ABSENT = object()

HEADERS = {
    "CE-SpecVersion": "1.0",
    "ce-id": "e1",
    "ce-source": "/gateway",
    "ce-subject": "acme",
    "ce-type": "tokens",
    "ce-time": "2026-02-03T04:05:06.789Z",
    "Content-Type": "application/json",
    "X-Other": "1",
}
"""The same event in binary mode, without its data."""


def event(data_members: dict[str, Any] | None = None, /, **attributes: Any) -> dict[str, Any]:
    """A complete event with some members replaced, or removed by ``ABSENT``."""
    members: dict[str, Any] = {
        "specversion": "1.0",
        "id": "e1",
        "source": "/gateway",
        "subject": "acme",
        "type": "tokens",
        "time": "2026-02-03T04:05:06.789Z",
        "data": {"value": 7, "kind": "model-x", "resource": "app", "agent": "bob"} | (data_members or {}),
    } | attributes
    if isinstance(members["data"], dict):
        members["data"] = {name: value for name, value in members["data"].items() if value is not ABSENT}
    return {name: value for name, value in members.items() if value is not ABSENT}


MEASUREMENT = Measurement(
    source="events:/gateway",
    sender_id="e1",
    customer="acme",
    meter="tokens",
    at=datetime(2026, 2, 3, 4, 5, 6, 789_000, UTC),
    value=Decimal(7),
    kind="model-x",
    resource="app",
    agent="bob",
)


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def read_json(value: object, content_type: str = JSON) -> Batch:
    return read(dump(value), content_type, NOW)
