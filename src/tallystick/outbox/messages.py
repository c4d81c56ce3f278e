"""Events as the messages that subscribers receive."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from tallystick.outbox.catalogue import CATALOGUE
from tallystick.outbox.model import Event

EVENTS: Final = "tallystick.events"
"""The exchange of all events, as CloudEvents."""

ORIGINAL: Final = "topic_customers"
"""The exchange of the account management, with routing keys and bodies as its subscribers know them."""

SOURCE: Final = "/tallystick"
TYPE_PREFIX: Final = "tallystick."
CLOUD_EVENT: Final = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that tells of an event; how it is sent is the publisher's business."""

    event: Event
    exchange: str
    routing_key: str
    content_type: str
    body: bytes


def messages(event: Event) -> list[Outgoing]:
    """What is sent for an event: a CloudEvent and, if the account management told it already, that too."""
    sent = [Outgoing(event, EVENTS, routing_key(event), CLOUD_EVENT, msgspec.json.encode(cloud_event(event)))]
    known = CATALOGUE.get(event.type)
    if known is not None and known.original is not None:
        key = known.original.format(region=event.subject.region, standing=_standing(event))
        sent.append(Outgoing(event, ORIGINAL, key, "text/plain", str(event.data["id"]).encode()))
    return sent


def routing_key(event: Event) -> str:
    """``account.created.emea.vip``: type, region, and ``vip`` or ``standard``."""
    return f"{event.type}.{event.subject.region}.{_standing(event)}"


def cloud_event(event: Event) -> dict[str, Any]:
    """The event in the structured mode of CloudEvents 1.0; region and vip are extensions."""
    subject = {"subject": event.subject.key} if event.subject.key else {}  # it must not be empty
    return {
        "specversion": "1.0",
        "id": str(event.id),
        "source": SOURCE,
        "type": TYPE_PREFIX + event.type,
        "time": _instant(event.at),
        **subject,
        "region": event.subject.region,
        "vip": event.subject.vip,
        "datacontenttype": "application/json",
        "data": event.data,
    }


def _standing(event: Event) -> str:
    return "vip" if event.subject.vip else "standard"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
