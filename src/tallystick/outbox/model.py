"""What an event is, before anybody is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from tallystick.customers.model import Customer, Region
from tallystick.kernel.ids import NIL


class Subject(NamedTuple):
    """The customer whom an event is about, as it was when that happened."""

    id: UUID
    key: str
    region: Region | Literal["all"]
    vip: bool

    @classmethod
    def of(cls, customer: Customer) -> Subject:
        return cls(customer.id, customer.key, customer.region, customer.vip)


EVERYBODY: Final = Subject(NIL, "", "all", vip=False)
"""Of an event that concerns no customer in particular; it has no subject then."""


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
