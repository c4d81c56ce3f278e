"""Customers: whoever is metered or pays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from tallystick.ledger.wallets import CreditPolicy, PostingPolicy

Region = Literal["emea", "nam", "apac"]
"""Whose business a customer is: Europe, the Middle East and Africa; North America; Asia and the Pacific."""

DEFAULT_REGION: Region = "nam"


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer. ``payer`` is who pays for it; without one it pays for itself. ``vip``: it is looked after."""

    id: UUID
    key: str
    name: str | None
    email: str | None
    parent: str | None  # keys, not ids: this is how people name them
    payer: str | None
    credit_policy: CreditPolicy
    posting_policy: PostingPolicy
    region: Region
    vip: bool
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
    region: Region = DEFAULT_REGION
    vip: bool = False


@dataclass(frozen=True, slots=True)
class CustomerChange:
    """What is asked for when a customer is changed; what is ``None`` stays as it is."""

    name: str | None = None
    email: str | None = None
    region: Region | None = None
    vip: bool | None = None
