"""What a hold is, what may become of it, and the transfers that make it so: rules without I/O.

    wallet --(hold: pending)--> used        settled: posted, with at most what is held; what is left is free again
                                            released, expired: voided

A hold is closed once, by whoever comes first. What is settled beyond it is charged as usage that has already happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, Literal, NamedTuple, TypeAlias
from uuid import UUID

from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.kernel.ids import derived_id
from tallystick.kernel.money import format_amount
from tallystick.ledger.contract import Transfer, TransferFlags
from tallystick.ledger.desk import fingerprint
from tallystick.ledger.wallets import (
    AccountCode,
    InsufficientCredits,
    Movement,
    Payer,
    TransferCode,
    repayments,
    transfer_of,
    usage_transfers,
)

DEFAULT_SECONDS = 900
MIN_SECONDS = 1
MAX_SECONDS = 30 * 24 * 3600
"""How long a hold may reserve credits: a month, for whoever forgets it keeps them from being spent."""

HoldState = Literal["open", "settled", "released", "expired"]
STATES: tuple[HoldState, ...] = ("open", "settled", "released", "expired")

OnExcess = Literal["charge", "refuse"]
"""What to do if more is settled than held. ``charge``: it has been used, so it is charged, and owed if need be.
``refuse``: nothing."""


class UnknownHold(NotFound):
    """The customer has no hold with this id."""

    code = "hold_not_found"


class ExceedsHold(InvalidInput):
    """More is to be settled than is held, and an excess is to be refused; the hold is still open."""

    code = "exceeds_hold"


class HoldSettled(Conflict):
    """The hold was settled before, with another amount if it is to be settled."""

    code = "hold_settled"


class HoldReleased(Conflict):
    """The hold was released before."""

    code = "hold_released"


class HoldExpired(Conflict):
    """The hold's time was up before, and its credits are free again."""

    code = "hold_expired"


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits of ``payer`` reserved for a customer; amounts in microunits of the asset whose number is ``ledger``."""

    customer_id: UUID
    id: UUID
    payer: Payer
    ledger: int
    amount: int
    description: str | None
    created_at: datetime
    expires_at: datetime
    state: HoldState = "open"
    settled_amount: int = 0
    """What was taken of the hold."""
    excess: int = 0
    """What was charged besides."""
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """An order to reserve ``amount`` for ``customer`` (a key), at the most for ``expires_in_seconds``."""

    id: UUID
    customer: str
    ledger: int
    amount: int
    expires_in_seconds: int = DEFAULT_SECONDS
    description: str | None = None
    idempotency_key: str | None = None
    type: ClassVar[str] = "hold"

    @property
    def hold_id(self) -> UUID:
        return self.id

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(
            self.type, self.customer, self.ledger, self.amount, self.expires_in_seconds, self.description
        )


@dataclass(frozen=True, slots=True)
class SettleHold:
    """An order to take ``amount`` for what was held; the rest of the hold is free again."""

    id: UUID
    customer: str
    hold_id: UUID
    amount: int
    on_excess: OnExcess = "charge"
    idempotency_key: str | None = None
    type: ClassVar[str] = "settle"

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.type, self.customer, self.hold_id, self.amount, self.on_excess)


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """An order to let go of what was held."""

    id: UUID
    customer: str
    hold_id: UUID
    idempotency_key: str | None = None
    type: ClassVar[str] = "release"

    @property
    def fingerprint(self) -> bytes:
        return fingerprint(self.type, self.customer, self.hold_id)


HoldOrder: TypeAlias = PlaceHold | SettleHold | ReleaseHold

Place = tuple[UUID, UUID]
"""A customer and the id of a hold of his."""


class Resolution(NamedTuple):
    """The transfer that resolved a hold in the books, and the excess that came with it."""

    flags: int
    amount: int
    excess: int
    at: datetime


def placed(order: PlaceHold, customer_id: UUID, payer: Payer, now: datetime) -> Hold:
    """The hold that an order asks for."""
    expires_at = now + timedelta(seconds=order.expires_in_seconds)
    return Hold(customer_id, order.id, payer, order.ledger, order.amount, order.description, now, expires_at)


class Closings:
    """Some holds as they stand now, by customer and id, and what becomes of them."""

    def __init__(self, holds: Iterable[tuple[Hold, Resolution | None]], now: datetime) -> None:
        """Holds as they were written down, each with what the books say has resolved it, if they say so."""
        self._now = now
        self.holds: dict[Place, Hold] = {}
        self._were_open: set[Place] = set()
        for hold, resolution in holds:
            place = hold.customer_id, hold.id
            self.holds[place] = self._standing(hold, resolution)
            if hold.state == "open":
                self._were_open.add(place)

    @property
    def closed(self) -> list[Hold]:
        """Those that are to be closed in the books; for what stands there already, posting it again changes nothing."""
        return [hold for place, hold in self.holds.items() if place in self._were_open and hold.state != "open"]

    def carry_out(self, order: SettleHold | ReleaseHold, place: Place) -> Hold | TallyError:
        """Closes a hold, unless it is closed."""
        hold = self.holds.get(place)
        if hold is None:
            return unknown_hold(order.hold_id)
        after = self._settled(hold, order) if isinstance(order, SettleHold) else self._released(hold)
        if isinstance(after, Hold):
            self.holds[place] = after
        return after

    def _standing(self, hold: Hold, resolution: Resolution | None) -> Hold:
        if hold.state != "open":
            return hold
        if resolution is not None:
            return _resolved(hold, resolution)
        return replace(hold, state="expired", closed_at=self._now) if hold.expires_at <= self._now else hold

    def _settled(self, hold: Hold, order: SettleHold) -> Hold | TallyError:
        excess = max(0, order.amount - hold.amount)
        if hold.state == "settled" and hold.settled_amount + hold.excess == order.amount:
            return hold
        if hold.state != "open":
            return _closed(hold)
        if excess and order.on_excess == "refuse":
            return ExceedsHold(
                f"amount must be at most what is held, {format_amount(hold.amount)}, to be settled without an excess",
                field="amount",
            )
        taken = order.amount - excess
        return replace(hold, state="settled", settled_amount=taken, excess=excess, closed_at=self._now)

    def _released(self, hold: Hold) -> Hold | TallyError:
        if hold.state == "released":
            return hold
        return replace(hold, state="released", closed_at=self._now) if hold.state == "open" else _closed(hold)


# Transfers


def excess_id(hold_id: UUID) -> UUID:
    """The id of the transfer that charges what was settled beyond a hold."""
    return derived_id("excess", hold_id)


def placing_transfer(hold: Hold) -> Transfer:
    """What reserves the credits."""
    held = Movement(hold.id, hold.payer, hold.ledger, hold.amount)
    return transfer_of(held, AccountCode.WALLET, AccountCode.USED, TransferCode.HOLD, TransferFlags.PENDING)


def closing_transfers(hold: Hold) -> list[Transfer]:
    """What closes a hold in the books, as its state says. Release and expiry share an id: it is voided once.

    What is set free may leave credits in a prepaid wallet that owes arrears, so they are repaid.
    """
    if hold.state != "settled":
        freed = Movement(derived_id("release", hold.id), hold.payer, hold.ledger, hold.amount)
        return [_resolving(freed, hold, TransferFlags.VOID_PENDING), *repayments(freed)]
    settled = Movement(derived_id("settlement", hold.id), hold.payer, hold.ledger, hold.settled_amount)
    if not hold.excess:
        posted = _resolving(settled, hold, TransferFlags.POST_PENDING)
        return [posted, *repayments(settled)] if hold.settled_amount < hold.amount else [posted]
    # Linked, so that an excess is never charged for a hold that turns out to be closed already. It has the code of
    # holds: transfers of usage are those that measurements were charged with, and proved to be.
    charge, *rest = usage_transfers(Movement(excess_id(hold.id), hold.payer, hold.ledger, hold.excess, hold.id))
    posted = _resolving(settled, hold, TransferFlags.POST_PENDING | TransferFlags.LINKED)
    return [posted, charge._replace(code=TransferCode.HOLD), *rest]


def _resolving(movement: Movement, hold: Hold, flags: TransferFlags) -> Transfer:
    accounts = AccountCode.WALLET, AccountCode.USED
    return transfer_of(movement, *accounts, TransferCode.HOLD, flags, pending_id=hold.id)


def _resolved(hold: Hold, by: Resolution) -> Hold:
    """An open hold as the books say it stands."""
    if by.flags & TransferFlags.VOID_PENDING:
        return replace(hold, state="released" if by.at < hold.expires_at else "expired", closed_at=by.at)
    return replace(hold, state="settled", settled_amount=by.amount, excess=by.excess, closed_at=by.at)


# Refusals


def unknown_hold(hold_id: UUID) -> UnknownHold:
    """What to say about a hold that is not there."""
    return UnknownHold(f"the customer has no hold {hold_id}", field="id")


def _closed(hold: Hold) -> TallyError:
    if hold.state == "settled":
        settled = format_amount(hold.settled_amount + hold.excess)
        return HoldSettled(f"the hold {hold.id} was settled with {settled} before", field="id")
    kind = HoldReleased if hold.state == "released" else HoldExpired
    return kind(f"the hold {hold.id} is {hold.state}: nothing is held any more", field="id")


def insufficient(hold: Hold, available: int | None) -> InsufficientCredits:
    """What to say of a wallet that has only ``available`` left, or had too little when nobody heard the answer."""
    needed = format_amount(hold.amount, places=2)
    if available is None:
        return InsufficientCredits(f"Insufficient balance: {needed} was needed")
    return InsufficientCredits(
        f"Insufficient balance: {needed} is needed, {format_amount(available, places=2)} is available"
    )
