"""What the platform's billing had only drawn for its customers: what they used, what they have, what it costs them.

An administrator's token shows everybody; one with the scope ``usage.read`` shows the customer whom it names. Amounts
are microcredits, as integers. Administrators also see a customer's books as that system keeps them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from pydantic import Field
from starlette.requests import Request

from tallystick.access.tokens import READ_SCOPE, MissingScope
from tallystick.billing.platform_ledger import ACCOUNT_TYPES, CREDITS, Booking
from tallystick.customers.model import Customer
from tallystick.kernel.calendar import parse_month
from tallystick.kernel.errors import NotFound
from tallystick.kernel.money import CREDIT, format_quantity
from tallystick.ledger.wallets import Balance
from tallystick.metering.charges import Usage
from tallystick.metering.organizations import Organization
from tallystick.service import Service
from tallystick.web.gate import caller_of
from tallystick.web.native import DEFAULT_LIMIT, Asked, Cursor, DecimalText, Limit, Listing, Serving, Shown, transaction
from tallystick.web.native_customers import MonthText
from tallystick.web.platform_admin import PlatformPrice, platform_price
from tallystick.web.platform_billing import refuses
from tallystick.web.routes import ExactRoute
from tallystick.web.values import Key

customers = APIRouter(prefix="/customer", tags=["Platform billing"], route_class=ExactRoute, responses=refuses(404))
admin = APIRouter(prefix="/admin", tags=["Platform billing"], route_class=ExactRoute, responses=refuses(404))


# For customers


class UsageLine(Shown):
    """`amount_microcredits` is null while the usage waits for a price, and if its price is in another `asset`."""

    meter: str
    kind_natural_id: str
    kind_name: str | None
    unit_of_measure: str
    quantity: DecimalText
    measurements: int
    asset: str | None
    amount_microcredits: int | None


class PlatformUsage(Shown):
    """A business month: [`start`, `end`)."""

    customer: str
    month: str
    start: datetime
    end: datetime
    amount_microcredits: int
    lines: list[UsageLine]


class PlatformBalance(Shown):
    """What a customer's own wallet holds. If `payer` is somebody else, that one's wallet pays, not this one."""

    customer: str
    payer: str
    balance_microcredits: int
    held_microcredits: int
    available_microcredits: int
    granted_microcredits: int
    used_microcredits: int
    expired_microcredits: int


@customers.get("/{key:key}/usage")
async def show_platform_usage(key: Key, request: Request, service: Serving, month: MonthText = None) -> PlatformUsage:
    """What a customer used in a business month, by meter, kind and price, and what that comes to."""
    wanted = None if month is None else parse_month(month, service.settings.zone)
    async with transaction(service) as conn:
        customer = await _seen(conn, service, request, key)
        bill = await service.bills.bill(conn, customer.key, wanted)
        names = await service.kinds.names(conn, {(line.meter, line.kind) for line in bill.lines})
    return PlatformUsage(
        customer=customer.key,
        month=str(bill.month),
        start=bill.month.start,
        end=bill.month.end,
        amount_microcredits=bill.totals.get(CREDIT, 0),
        lines=[_line(line, names.get((line.meter, line.kind))) for line in bill.lines],
    )


@customers.get("/{key:key}/balance")
async def show_platform_balance(key: Key, request: Request, service: Serving) -> PlatformBalance:
    """What a customer has left, and what became of the rest."""
    async with transaction(service) as conn:
        customer = await _seen(conn, service, request, key)
        standings = await service.wallets.balances(conn, customer.id, [CREDITS])
    standing = standings[0] if standings else Balance(CREDITS, wallet=0, arrears=0, used=0, granted=0)
    return PlatformBalance(
        customer=customer.key,
        payer=customer.payer or customer.key,
        balance_microcredits=standing.balance,
        held_microcredits=standing.held,
        available_microcredits=standing.available,
        granted_microcredits=standing.granted,
        used_microcredits=standing.used,
        expired_microcredits=standing.expired,
    )


@customers.get("/{key:key}/price")
async def list_prices_in_force(
    key: Key, request: Request, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[PlatformPrice]:
    """What a customer pays now, by meter and kind: its own price where it has one, else everybody's."""
    async with transaction(service) as conn:
        customer = await _seen(conn, service, request, key)
        page = await service.pricing.in_force(conn, customer.id, cursor, limit)
    return Listing(items=[platform_price(price) for price in page.items], next=page.next)


def _line(usage: Usage, kind_name: str | None) -> UsageLine:
    return UsageLine(
        meter=usage.meter,
        kind_natural_id=usage.kind,
        kind_name=kind_name,
        unit_of_measure=usage.unit,
        quantity=format_quantity(usage.quantity),
        measurements=usage.measurements,
        asset=usage.asset,
        amount_microcredits=usage.amount if usage.asset == CREDIT else None,
    )


# For administrators


class AccountTypeShown(Shown):
    """`normal` is the direction of the entries that raise such an account."""

    id: int
    name: str
    normal: int


class EntryShown(Shown):
    account_type: int
    direction: int
    amount_microcredits: int


class BookingShown(Shown):
    """Direction times amount adds up to 0 over the entries."""

    id: UUID
    occurred_at: datetime
    type: str
    description: str | None
    entries: list[EntryShown]


@admin.get("/account-type")
async def list_account_types() -> Listing[AccountTypeShown]:
    """The types of account in which that system books credits."""
    return Listing(items=[AccountTypeShown.model_validate(one) for one in ACCOUNT_TYPES], next=None)


@admin.get("/customer/{key:key}/transaction")
async def list_bookings(
    key: Key, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[BookingShown]:
    """What moved the credits in a customer's own books, newest first, as transactions of two entries."""
    async with service.pool.connection() as conn:
        customer = await _named(conn, service, key)
        page = await service.platform_ledger.page(conn, customer.id, cursor, limit)
    return Listing(items=[_booking(booking) for booking in page.items], next=page.next)


def _booking(booking: Booking) -> BookingShown:
    return BookingShown(
        id=booking.id,
        occurred_at=booking.occurred_at,
        type=booking.type,
        description=booking.description,
        entries=[
            EntryShown(account_type=entry.account_type, direction=entry.direction, amount_microcredits=entry.amount)
            for entry in booking.entries
        ],
    )


class OrganizationMapped(Asked):
    customer: Annotated[Key | None, Field(description="Who pays from now on; null: the organization itself")]


class OrganizationShown(Shown):
    """`id` is its guid on the platform, and its key as a customer. `customer` is who pays for it, null: itself."""

    id: str
    name: str | None
    customer: str | None
    created_at: datetime


@admin.get("/org")
async def list_organizations(
    service: Serving,
    mapped: Annotated[
        bool | None, Query(description="Only those that somebody else pays for, or that nobody does")
    ] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[OrganizationShown]:
    """Organizations by guid, with who pays for them. They appear when they are measured, before they are mapped."""
    async with transaction(service) as conn:
        page = await service.organizations.page(conn, cursor, limit, mapped=mapped)
    return Listing(items=[_organization(one) for one in page.items], next=page.next)


@admin.get("/org/{guid:key}")
async def get_organization(guid: Key, service: Serving) -> OrganizationShown:
    """One organization."""
    async with transaction(service) as conn:
        return _organization(await service.organizations.get(conn, guid))


@admin.put("/org/{guid:key}", responses=refuses(409))
async def map_organization(guid: Key, body: OrganizationMapped, service: Serving) -> OrganizationShown:
    """Has a customer pay for an organization from now on. What was charged before stays where it is.

    What the organization owes goes along. The customer must pay for itself.
    """
    async with transaction(service) as conn:
        await service.organizations.get(conn, guid)
        await service.payers.change(conn, guid, body.customer)
        return _organization(await service.organizations.get(conn, guid))


def _organization(one: Organization) -> OrganizationShown:
    return OrganizationShown(id=one.guid, name=one.name, customer=one.payer, created_at=one.created_at)


# Whom a path names, and who may see it


async def _seen(conn: AsyncConnection, service: Service, request: Request, name: str) -> Customer:
    """The customer whom a path names. Raises ``MissingScope`` if its caller may not see that one, ``NotFound``.

    Who may not see it is not told either whether it is there.
    """
    sender = caller_of(request).sender
    if sender is None or sender.customer == name:
        return await _named(conn, service, name)
    customer = await _find(conn, service, name)
    if customer is None or customer.id != sender.customer_id:
        raise MissingScope(READ_SCOPE)
    return customer


async def _named(conn: AsyncConnection, service: Service, name: str) -> Customer:
    customer = await _find(conn, service, name)
    if customer is None:
        raise NotFound(f"there is no customer {name!r}", field="key")
    return customer


async def _find(conn: AsyncConnection, service: Service, name: str) -> Customer | None:
    """The customer with this key or, if there is none, this id."""
    found = await service.customers.find(conn, [name])
    customer_id = found[name][0] if found else _uuid(name)
    if customer_id is None:
        return None
    page = await service.customers.page(conn, None, 1, customer_id=customer_id)
    return page.items[0] if page.items else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
