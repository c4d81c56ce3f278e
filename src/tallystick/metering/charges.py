"""Reading what was measured and charged: charges one by one, usage totals, the history of a wallet's credits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.ids import NIL
from tallystick.kernel.paging import Page, newest_first, read_newest_first
from tallystick.ledger.wallets import AccountCode, account_id
from tallystick.pricing.functions import parse_model, price_function

_SQL = Queries(Path(__file__).with_name("charges.sql"))

MAX_HISTORY = 100_000
"""Points of one credits history; a narrower range shows older ones."""

BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
END = datetime(9999, 12, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ChargeId:
    """A charge is named by its customer and its measurement."""

    customer_id: UUID
    measurement_id: UUID

    def __str__(self) -> str:
        return f"{self.customer_id}.{self.measurement_id}"

    @classmethod
    def parse(cls, text: str, field: str = "charge") -> ChargeId:
        """Reads what ``str`` wrote. Raises ``InvalidInput``."""
        try:
            customer, measurement = text.split(".")
            return cls(UUID(customer), UUID(measurement))
        except ValueError:
            raise InvalidInput(
                f"{field} must be two UUIDs joined by a dot, as a list of charges shows them", field=field
            ) from None


@dataclass(frozen=True, slots=True)
class Charge:
    """One measurement with what it cost: ``amount`` in microunits of ``asset``; both ``None`` while it waits."""

    id: ChargeId
    at: datetime
    recorded_at: datetime
    meter: str
    kind: str
    resource: str
    agent: str
    value: Decimal
    quantity: Decimal
    remark: str | None
    price_id: UUID | None
    asset: str | None
    amount: int | None
    transfer_id: UUID | None


@dataclass(frozen=True, slots=True)
class Usage:
    """A usage total and what it costs: ``F(quantity)`` in microunits of ``asset``; both ``None`` without a price."""

    period: date
    meter: str
    kind: str
    name: str
    unit: str
    price_id: UUID | None
    model: dict[str, object] | None
    quantity: Decimal
    measurements: int
    asset: str | None
    amount: int | None


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """Microcredits left and used so far, after the charge for a measurement taken ``at``.

    ``meter_name`` is its meter's friendly name, or the key of a meter that has none.
    """

    at: datetime
    left: int
    used: int
    meter_name: str


class Charges:
    """Read only. Works on the caller's connection."""

    async def page(
        self,
        conn: AsyncConnection,
        customer_id: UUID,
        cursor: str | None,
        limit: int,
        *,
        since: datetime = BEGINNING,
        until: datetime = END,
    ) -> Page[Charge]:
        """Charges of measurements taken in [``since``, ``until``), newest first."""
        before_at, before_id = read_newest_first(cursor)
        rows = await (
            await conn.execute(
                _SQL.page,
                {
                    "customer_id": customer_id,
                    "before_at": before_at,
                    "before_id": before_id,
                    "since": since,
                    "until": until,
                    "limit": limit + 1,
                },
            )
        ).fetchall()
        return newest_first([_charge(*row) for row in rows], limit, lambda one: (one.at, one.id.measurement_id))

    async def usage(self, conn: AsyncConnection, customer_id: UUID, first: date, last: date) -> list[Usage]:
        """The usage totals of the periods that begin on the days ``first`` to ``last``, priced as they stand."""
        parameters = {"customer_id": customer_id, "first": first, "last": last}
        rows = await (await conn.execute(_SQL.usage, parameters)).fetchall()
        return [_usage(*row) for row in rows]

    async def history(
        self,
        conn: AsyncConnection,
        customer_id: UUID,
        ledger: int,
        since: datetime | None,
        until: datetime | None,
    ) -> list[HistoryPoint]:
        """Credits left after each charge for a measurement taken in [``since``, ``until``], newest first.

        Charges of months that are posted as a whole moved nothing by themselves, and are not among them.
        """
        rows = await (await conn.execute(_SQL.payers, {"customer_id": customer_id})).fetchall()
        payer_ids = [payer_id for (payer_id,) in rows]
        balance = (AccountCode.WALLET, AccountCode.ARREARS)
        parameters = {
            "customer_id": customer_id,
            "payer_ids": payer_ids,
            "ledger": ledger,
            "wallets": [account_id(payer_id, ledger, code) for payer_id in payer_ids for code in balance],
            "since": since or BEGINNING,
            "until": until or END,
            "limit": MAX_HISTORY,
        }
        rows = await (await conn.execute(_SQL.history, parameters)).fetchall()
        return [HistoryPoint(at, int(left), int(used), name) for at, left, used, name in rows]

    async def any(self, conn: AsyncConnection, customer_id: UUID) -> bool:
        """Whether anything was ever charged for this customer's usage."""
        return await (await conn.execute(_SQL.any_charge, {"customer_id": customer_id})).fetchone() is not None


def _charge(customer_id: UUID, measurement_id: UUID, *fields: Any) -> Charge:
    *described, amount, transfer_id = fields
    cost = int(amount) if amount is not None else None
    return Charge(ChargeId(customer_id, measurement_id), *(*described, cost, transfer_id))


def _usage(
    period: date,
    meter: str,
    kind: str,
    name: str,
    unit: str,
    price_id: UUID,
    asset: str | None,
    quantum: Decimal,
    model: dict[str, object] | None,
    quantity: Decimal,
    measurements: int,
) -> Usage:
    priced = price_id != NIL
    amount = price_function(parse_model(model), quantum)(quantity) if priced else None
    return Usage(
        period, meter, kind, name, unit, price_id if priced else None, model, quantity, measurements, asset, amount
    )
