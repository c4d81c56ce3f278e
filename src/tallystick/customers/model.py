"""Customers: whoever is metered or pays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tallystick.ledger.wallets import CreditPolicy, PostingPolicy


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer. ``payer`` is who pays for it; without one it pays for itself."""

    id: UUID
    key: str
    name: str | None
    email: str | None
    parent: str | None  # keys, not ids: this is how people name them
    payer: str | None
    credit_policy: CreditPolicy
    posting_policy: PostingPolicy
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """What is asked for when a customer is created; ``parent`` and ``payer`` are keys of existing customers."""

    key: str
    name: str | None = None
    email: str | None = None
    parent: str | None = None
    payer: str | None = None
    credit_policy: CreditPolicy = "postpaid"
    posting_policy: PostingPolicy = "immediate"
