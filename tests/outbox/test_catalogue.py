"""The catalogue says what is really sent, and the documentation what the catalogue says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tallystick.outbox.catalogue import CATALOGUE, EventType
from tallystick.outbox.messages import EVENTS, cloud_event
from tallystick.service import Service
from tests.outbox.conftest import Subscribe
from tests.outbox.events import event
from tests.outbox.test_publishing import TYPES, live
from tests.web.conftest import asking

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "events.md"


def section(kind: EventType) -> str:
    """What the page must say of a type."""
    original = ""
    if kind.original is not None:
        key = kind.original.replace("{", "<").replace("}", ">")
        original = f"On `topic_customers`: `{key}`.\n\n"
    return f"## `{kind.name}`\n\n{kind.meaning}\n\n{original}```json\n{json.dumps(kind.data, indent=2)}\n```\n"


def test_the_page_has_every_type_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    _, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    assert [each.rstrip() for each in sections] == [section(kind).rstrip() for kind in CATALOGUE.values()]


def test_the_page_shows_every_attribute() -> None:
    example = json.loads(PAGE.read_text(encoding="utf-8").partition("```json\n")[2].partition("```")[0])
    assert list(example) == list(cloud_event(event(1)))
    assert shape(example["data"]) == shape(CATALOGUE["account.created"].data)


def shape(value: Any) -> Any:
    """Names and types."""
    return {name: shape(each) for name, each in value.items()} if isinstance(value, dict) else type(value)


@pytest.mark.integration
async def test_what_is_sent_is_what_the_catalogue_shows(service: Service, subscribe: Subscribe) -> None:
    everything = await subscribe(EVENTS)
    assert service.messaging is not None
    async with service.messaging.running(), asking(service) as client:
        await live(client)
        heard = await everything.hear(len(TYPES))
    life = {kind for kind in CATALOGUE if kind.startswith(("account.", "agent."))}  # others: where they are caused
    assert {str(message.type) for message in heard} == life
    for message in heard:
        document = json.loads(message.body)
        assert document["type"] == f"tallystick.{message.type}"
        assert shape(document["data"]) == shape(CATALOGUE[str(message.type)].data)
