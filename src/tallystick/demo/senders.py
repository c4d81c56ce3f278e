"""The formats in which usage arrives: each sender writes its own, and none knows of the others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tallystick.demo.story import Usage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Post:
    """One request: where it goes, what it says it is, and what it holds."""

    path: str
    content_type: str
    body: bytes


def influx_lines(usages: Iterable[Usage]) -> Post:
    """What InfluxDB forwards of an OpenStack exporter that Prometheus has scraped: running totals with all labels."""
    return Post("/write?db=usage", "text/plain", "".join(map(_line, usages)).encode())


def _line(usage: Usage) -> str:
    tags = {
        "__name__": usage.meter,
        "domain_id": "f3a1b0",
        "domain_name": "elixir",
        "instance": "usage_exporter:8080",
        "job": "project_usages",
        "location": "site-a",
        "location_id": usage.resource,
        "project_id": usage.resource * 2,
        "project_name": usage.customer,
    }
    labels = "".join(f",{name}={text}" for name, text in tags.items())
    nanoseconds = (usage.at - _EPOCH) // timedelta(microseconds=1) * 1000
    return f"{usage.meter}{labels} value={usage.value:f} {nanoseconds}\n"


def cloud_events(usages: Iterable[Usage]) -> Post:
    """A batch of CloudEvents 1.0, as an AI product sends what its requests have used."""
    events = [{"specversion": "1.0", "source": "/ai/requests", **_event(usage)} for usage in usages]
    return Post("/api/v1/events", "application/cloudevents-batch+json", json.dumps(events).encode())


def json_lines(usages: Iterable[Usage]) -> Post:
    """Plain events, one a line, as a script writes them that asks a platform every hour."""
    lines = "".join(json.dumps(_event(usage)) + "\n" for usage in usages)
    return Post("/api/v1/events", "application/x-ndjson", lines.encode())


def _event(usage: Usage) -> dict[str, Any]:
    data = {"value": f"{usage.value:f}", "kind": usage.kind, "resource": usage.resource}
    return {
        "id": usage.id,
        "subject": usage.customer,
        "type": usage.meter,
        "time": usage.at.isoformat(),
        "data": {name: text for name, text in data.items() if text},
    }
