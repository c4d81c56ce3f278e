"""The trail of one charge, from the raw measurement to the transfer, so that a person can follow it with a pencil."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from tallystick.database.pool import Connection
from tallystick.database.queries import Queries
from tallystick.kernel.errors import NotFound
from tallystick.kernel.money import format_amount, format_quantity
from tallystick.ledger.wallets import AccountCode, repayment_id
from tallystick.metering.charges import ChargeId
from tallystick.pricing.functions import Dynamic, Model, describe, parse_model, price_function
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_suffix(".sql"))

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a source sent. ``customer`` is a key, ``payer_ids`` who pays or paid for it; ``value`` counts ``unit``."""

    customer: str
    payer_ids: list[UUID]
    source: str
    sender_id: str
    meter: str
    unit: str
    kind: str
    resource: str
    agent: str
    at: datetime
    recorded_at: datetime
    value: Decimal
    unit_price: Decimal | None

    def as_json(self) -> Json:
        return {
            "customer": self.customer,
            "source": self.source,
            "sender_id": self.sender_id,
            "meter": self.meter,
            "unit": self.unit,
            "kind": self.kind,
            "resource": self.resource,
            "agent": self.agent,
            "at": _time(self.at),
            "recorded_at": _time(self.recorded_at),
            "value": format_quantity(self.value),
            "unit_price": None if self.unit_price is None else format_quantity(self.unit_price),
        }


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """The price that was applied. ``customer`` is a key if it is for one alone; ``quantum`` counts ``asset``."""

    id: UUID
    meter: str
    kind: str
    customer: str | None
    effective_from: datetime
    asset: str
    quantum: Decimal
    model: Model

    def as_json(self) -> Json:
        return {
            "id": str(self.id),
            "meter": self.meter,
            "kind": self.kind,
            "customer": self.customer,
            "effective_from": _time(self.effective_from),
            "asset": self.asset,
            "quantum": format_quantity(self.quantum),
            "model": self.model.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Moved:
    """A transfer in a customer's books, from the account of one role to another's. ``amount`` is in microunits.

    One that is ``waiting`` has been promised since ``at`` to a ledger elsewhere, which has not carried it out yet.
    """

    id: UUID
    customer: str
    debited: str
    credited: str
    amount: int
    asset: str
    at: datetime
    waiting: bool

    def as_json(self) -> Json:
        return {
            "id": str(self.id),
            "customer": self.customer,
            "from": self.debited,
            "to": self.credited,
            "amount": format_amount(self.amount),
            "asset": self.asset,
            "at": _time(self.at),
            "waiting": self.waiting,
        }


@dataclass(frozen=True, slots=True)
class Posted:
    """How far the posting of a month took the charge's usage total, and what that came to in microunits.

    Without a ``transfer_id`` its charges had moved that much themselves.
    """

    quantity_before: Decimal
    quantity_after: Decimal
    amount: int
    transfer_id: UUID | None

    def as_json(self) -> Json:
        return {
            "quantity_before": format_quantity(self.quantity_before),
            "quantity_after": format_quantity(self.quantity_after),
            "amount": format_amount(self.amount),
            "transfer": self.transfer_id and str(self.transfer_id),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """All there is to say about one charge. Amounts are microunits of the price's asset.

    Without a price there are no totals, amount and transfers, and ``missing`` says what it waits for. The first
    transfer moved the charge, perhaps together with others of its batch; a second one repaid arrears from the wallet
    afterwards: those of this charge if the payer is prepaid, or older ones with what came back. A charge whose payer is
    posted monthly moves nothing by itself: ``postings`` say how its total was posted, and the transfers are theirs.
    """

    id: ChargeId
    measured: Measured
    quantity: Decimal
    remark: str | None
    period: date
    total_before: Decimal | None
    total_after: Decimal | None
    price: PriceVersion | None
    amount: int | None
    arithmetic: list[str]
    postings: list[Posted]
    is_noted: bool
    """Whether the charge's month has changed since it was posted, or is not posted yet."""
    transfers: list[Moved]
    missing: str | None

    @property
    def lines(self) -> list[str]:
        """The trail in words."""
        return [*_tell_measurement(self), *_tell_price(self), *_tell_transfers(self)]

    def as_json(self) -> Json:
        return {
            "id": str(self.id),
            "measurement": self.measured.as_json(),
            "quantity": format_quantity(self.quantity),
            "remark": self.remark,
            "period": f"{self.period:%Y-%m}",
            "total_before": None if self.total_before is None else format_quantity(self.total_before),
            "total_after": None if self.total_after is None else format_quantity(self.total_after),
            "price": self.price and self.price.as_json(),
            "asset": self.price and self.price.asset,
            "amount": None if self.amount is None else format_amount(self.amount),
            "arithmetic": self.arithmetic,
            "postings": [posted.as_json() for posted in self.postings],
            "is_noted": self.is_noted,
            "transfers": [transfer.as_json() for transfer in self.transfers],
            "missing": self.missing,
            "lines": self.lines,
        }


class Explain:
    """Read only. Works on the caller's connection."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing

    async def charge(self, conn: Connection, charge_id: ChargeId) -> Explanation:
        """The trail of one charge, or of a measurement that waits for a price. Raises ``NotFound``."""
        key = {"customer_id": charge_id.customer_id, "id": charge_id.measurement_id}
        row = await (await conn.execute(_SQL.charge, key)).fetchone()
        if row is None:
            raise NotFound(f"there is no charge {charge_id}", field="charge")
        measured = Measured(*row[:13])
        quantity, remark, period, before, after, amount, transfer_id, is_noted = row[13:]
        found = await (await conn.execute(_SQL.price, key)).fetchone()
        price = PriceVersion(*(*found[:7], parse_model(found[7]))) if found else None
        postings = await self._postings(conn, key) if price and transfer_id is None else []
        moved_by = [transfer_id, *(posted.transfer_id for posted in postings)]
        return Explanation(
            id=charge_id,
            measured=measured,
            quantity=quantity,
            remark=remark,
            period=period,
            total_before=before,
            total_after=after,
            price=price,
            amount=None if amount is None else int(amount),
            arithmetic=describe(price.model, price.quantum, before, after, price.asset) if price else [],
            postings=postings,
            is_noted=is_noted,
            transfers=await self._transfers(conn, measured.payer_ids, [id_ for id_ in moved_by if id_ is not None]),
            missing=None if price else await self._missing(conn, charge_id.customer_id, measured),
        )

    async def _postings(self, conn: Connection, key: dict[str, UUID]) -> list[Posted]:
        rows = await (await conn.execute(_SQL.postings, key)).fetchall()
        return [Posted(before, after, int(amount), transfer_id) for before, after, amount, transfer_id in rows]

    async def _transfers(self, conn: Connection, payer_ids: list[UUID], transfer_ids: list[UUID]) -> list[Moved]:
        parameters = {
            "payer_ids": payer_ids,
            "ids": transfer_ids,
            "repayment_ids": [repayment_id(transfer_id) for transfer_id in transfer_ids],
        }
        rows = await (await conn.execute(_SQL.transfers, parameters)).fetchall()
        return [Moved(row[0], row[1], _role(row[2]), _role(row[3]), int(row[4]), *row[5:]) for row in rows]

    async def _missing(self, conn: Connection, customer_id: UUID, measured: Measured) -> str:
        prices = await self._pricing.price_list(conn)
        price = prices.at(measured.meter, measured.kind, customer_id, measured.at).price
        if price is None:
            when = _time(measured.at)
            return f"no price of {_named(measured)} is in force at {when}; one that starts by then will charge it"
        if isinstance(price.model, Dynamic) and measured.unit_price is None:
            return f"price {price.id} is dynamic, and the measurement brought no unit price"
        return f"price {price.id} was created since: what waited for it is being charged"


def _tell_measurement(told: Explanation) -> list[str]:
    measured = told.measured
    named = (("kind", measured.kind), ("resource", measured.resource), ("agent", measured.agent))
    what = "".join([f"meter {measured.meter!r}", *(f", {name} {value!r}" for name, value in named if value)])
    value = f"{format_quantity(measured.value)} {measured.unit}".rstrip()
    unit_price = "" if measured.unit_price is None else f" at a unit price of {format_quantity(measured.unit_price)}"
    reason = told.remark or ("the value as it is" if told.quantity == measured.value else "nothing says why")
    return [
        f"charge {told.id}",
        f"measured for customer {measured.customer!r} at {_time(measured.at)}: {what}, {value}{unit_price}",
        f"sent by {measured.source!r} as {measured.sender_id!r}, recorded at {_time(measured.recorded_at)}",
        f"quantity {format_quantity(told.quantity)}: {reason}",
    ]


def _tell_price(told: Explanation) -> list[str]:
    price, before, after, amount = told.price, told.total_before, told.total_after, told.amount
    if price is None or before is None or after is None or amount is None:
        return [f"counted in {told.period:%Y-%m} without a price: {told.missing}"]
    whose = "for everybody" if price.customer is None else f"for customer {price.customer!r} alone"
    lines = [
        f"total of {told.period:%Y-%m} at its price: {format_quantity(before)} before, {format_quantity(after)} after",
        f"price {price.id} {whose}, in force from {_time(price.effective_from)}: {json.dumps(price.model.as_json())}",
        *told.arithmetic,
    ]
    function = price_function(price.model, price.quantum)
    if function(after) - function(before) != amount:
        lines.append(f"but {format_amount(amount)} {price.asset} was charged, which does not follow")
    return lines


def _tell_transfers(told: Explanation) -> list[str]:
    if told.price is None:
        return []
    lines = [_tell_posted(posted, told.price.asset) for posted in told.postings]
    if told.is_noted:
        lines.append(f"more of the total of {told.period:%Y-%m} is to be posted as a whole")
    if not (lines or told.transfers):
        lines.append("no transfer moved it" if told.amount else "nothing had to move")
    return [*lines, *map(_tell_moved, told.transfers)]


def _tell_posted(posted: Posted, asset: str) -> str:
    way = f"{format_quantity(posted.quantity_before)} to {format_quantity(posted.quantity_after)}"
    if posted.transfer_id is None:
        return f"the total from {way} was posted charge by charge"
    return f"the total from {way} was posted as a whole: {format_amount(posted.amount)} {asset} of {posted.transfer_id}"


def _tell_moved(moved: Moved) -> str:
    return (
        f"transfer {moved.id} {'waits for the ledger since' if moved.waiting else 'at'} {_time(moved.at)}: "
        f"{format_amount(moved.amount)} {moved.asset} "
        f"from {moved.debited} to {moved.credited} of customer {moved.customer!r}"
    )


def _named(measured: Measured) -> str:
    return f"meter {measured.meter!r}" + (f", kind {measured.kind!r}" if measured.kind else "")


def _role(code: int) -> str:
    return AccountCode(code).name.lower()


def _time(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
