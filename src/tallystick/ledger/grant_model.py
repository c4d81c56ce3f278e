"""What a grant is, what can be ordered about it, and which terms it may have."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from tallystick.kernel.errors import InvalidInput
from tallystick.ledger.desk import fingerprint
from tallystick.ledger.remaining import Wallet
from tallystick.ledger.wallets import Payer

DEFAULT_PRIORITY = 100
MAX_PRIORITY = 1000

Category = Literal["paid", "promotional"]
"""Whether somebody paid for the credits."""

GrantState = Literal["scheduled", "granted", "expired", "voided"]


@dataclass(frozen=True, slots=True)
class CreditGrant:
    """Credits for the wallet of ``payer``: ``amount`` microunits, which count in [``effective_at``, ``expires_at``).

    ``id`` is also the id of the transfer by which they come in. ``source`` says where they come from, ``reason`` why
    they were given.
    """

    payer: Payer
    id: UUID
    ledger: int
    amount: int
    category: Category
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    source: str
    reason: str | None
    state: GrantState
    created_at: datetime
    attempts: int = 0
    due_at: datetime | None = None

    @property
    def wallet(self) -> Wallet:
        """Where the credits go."""
        return self.payer.id, self.ledger


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a grant, in microunits: used (arrears that it repaid included), left, or taken away at its end.

    All are 0 as long as it has not come in.
    """

    grant: CreditGrant
    used: int
    remaining: int
    taken: int


@dataclass(frozen=True, slots=True)
class GrantCredits:
    """Order: give credits to a customer (a key), now or at ``effective_at``. They go to whoever pays for it."""

    type: ClassVar[Literal["grant_credits"]] = "grant_credits"

    id: UUID
    customer: str
    ledger: int
    amount: int
    category: Category = "promotional"
    priority: int = DEFAULT_PRIORITY
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    source: str = ""
    reason: str | None = None
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> bytes:
        """What must be the same when a key comes again."""
        terms = self.category, self.priority, self.effective_at, self.expires_at, self.source, self.reason
        return fingerprint(self.type, self.customer, self.ledger, self.amount, *terms)


@dataclass(frozen=True, slots=True)
class VoidGrant:
    """Order: take back what is left of a grant of a customer (a key)."""

    type: ClassVar[Literal["void_grant"]] = "void_grant"

    id: UUID
    customer: str
    grant_id: UUID
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> bytes:
        """What must be the same when a key comes again."""
        return fingerprint(self.type, self.customer, self.grant_id)


def planned(order: GrantCredits, payer: Payer, now: datetime) -> CreditGrant | InvalidInput:
    """The grant that is ordered, still to come in; or why there cannot be one."""
    effective_at = order.effective_at or now
    if effective_at < now:
        return InvalidInput("effective_at must not be in the past", field="effective_at")
    if order.expires_at is not None and order.expires_at <= effective_at:
        return InvalidInput("expires_at must be later than effective_at, and than now", field="expires_at")
    return CreditGrant(
        payer,
        order.id,
        order.ledger,
        order.amount,
        order.category,
        order.priority,
        effective_at,
        order.expires_at,
        order.source,
        order.reason,
        "scheduled",
        now,
    )
