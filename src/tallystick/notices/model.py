"""What notices are about: rules, wallets as rules see them, and what was raised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple, TypeAlias
from uuid import UUID

Kind = Literal["share", "balance", "forecast", "unusual"]
"""What a rule looks at: the share of what was granted that is left, the balance, when it runs out, today's spending."""

LEVELS: Final[tuple[Kind, ...]] = ("share", "balance")
"""Kinds of rules that are a level of the balance: decided where money moves. The others are looked at by the hour."""

State = Literal["waiting", "sent", "failed", "unaddressed", "unsent"]
"""``failed``: given up. ``unaddressed``: there was nobody to write to. ``unsent``: no mail server was named."""

MAINTAINERS: Final = "maintainers"
GOVERNANCE: Final = "governance"

Wallet: TypeAlias = tuple[UUID, int]
"""A customer who pays, and an asset's ledger."""


@dataclass(frozen=True, slots=True)
class NewRule:
    """What is asked for when a rule is defined.

    ``threshold`` is a share of 1, microunits, days or a factor, by ``kind``. ``recipients`` and ``copies`` are
    addresses, or ``MAINTAINERS`` and ``GOVERNANCE``. ``subject`` and ``body`` are a template with ``$placeholders``, to
    which ``placeholders`` adds some of its own.
    """

    kind: Kind
    threshold: Decimal
    customer: str | None = None
    asset: str | None = None
    recipients: tuple[str, ...] = (MAINTAINERS,)
    copies: tuple[str, ...] = (GOVERNANCE,)
    subject: str | None = None
    body: str | None = None
    placeholders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for all customers, or for the wallets of one; ``number`` grows in the order of definition."""

    id: UUID
    number: int
    customer_id: UUID | None
    customer: str | None
    kind: Kind
    ledger: int | None
    asset: str | None
    threshold: Decimal
    recipients: tuple[str, ...]
    copies: tuple[str, ...]
    subject: str | None
    body: str | None
    placeholders: Mapping[str, str]
    created_at: datetime


class Standing(NamedTuple):
    """How a wallet stands, in microunits."""

    balance: int
    granted: int
    """By grants and top-ups that have not ended, and were not used up when money came in last."""
    came_in: int
    """All that ever came in, whatever became of it."""
    used: int
    """All that was ever used."""
    opened_at: datetime


class Memory(NamedTuple):
    """What is remembered of a wallet: which rules are not to be told, the last rule known then, and how it stood."""

    told: frozenset[UUID]
    seen: int
    came_in: int
    granted: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What was raised for a wallet because of a rule; amounts in microunits."""

    customer_id: UUID
    id: UUID
    rule_id: UUID
    kind: Kind
    ledger: int
    threshold: Decimal
    balance: int
    granted: int
    raised_at: datetime
    spent: int | None = None
    """Of a forecast: in the last days. Of unusual spending: today."""
    usual: int | None = None
    """Of unusual spending: on a day."""
    ends_at: datetime | None = None
    """Of a forecast: when nothing is left."""

    @property
    def wallet(self) -> Wallet:
        """The wallet that it is about."""
        return self.customer_id, self.ledger

    @property
    def exhausted(self) -> bool:
        """Whether it says that nothing is left."""
        return self.kind in LEVELS and self.threshold == 0


@dataclass(frozen=True, slots=True)
class Sending:
    """A notice as it is listed: whose it is, and how far it has been sent."""

    notice: Notice
    customer: str
    asset: str
    state: State
    attempts: int
    due_at: datetime | None
    error: str | None
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whose wallet it is: how people name it, and who looks after it."""

    key: str
    name: str | None
    maintainers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent. Without ``html``, a template of one's own has written it. Nobody in ``to``: nobody is known."""

    subject: str
    text: str
    html: str | None
    to: tuple[str, ...]
    copies: tuple[str, ...]
