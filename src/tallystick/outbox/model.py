"""What an event is, before anybody is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from tallystick.customers.model import Customer, Region


class Subject(NamedTuple):
    """The customer whom an event is about, as it was when that happened."""

    id: UUID
    key: str
    region: Region
    vip: bool

    @classmethod
    def of(cls, customer: Customer) -> Subject:
        return cls(customer.id, customer.key, customer.region, customer.vip)


@dataclass(frozen=True, slots=True)
class Event:
    """A fact. ``id`` is derived from what caused it where that has a name, so the same fact has the same id.

    ``type`` is one of ``catalogue.CATALOGUE``; ``data`` has the fields of its example, and only what JSON knows.
    """

    id: UUID
    type: str
    at: datetime
    subject: Subject
    data: Mapping[str, Any]
