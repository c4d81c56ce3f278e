"""Customers: who they are, what they have, what they used and what it cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Response

from tallystick.customers.model import DEFAULT_REGION, Customer, CustomerChange, NewCustomer, Region
from tallystick.kernel.calendar import Month, month_of, parse_month
from tallystick.kernel.errors import NotFound
from tallystick.kernel.money import format_amount, format_quantity
from tallystick.ledger.rates import Display
from tallystick.ledger.wallets import CreditPolicy, PostingPolicy
from tallystick.metering.charges import BEGINNING, END, Usage
from tallystick.service import Service
from tallystick.web.native import (
    DEFAULT_LIMIT,
    LEFT_OUT,
    Asked,
    Cursor,
    DecimalText,
    Limit,
    Listing,
    Serving,
    Shown,
    refusals,
    routes_of,
    transaction,
)
from tallystick.web.native_assets import DisplayIn, DisplayShown, display_shown
from tallystick.web.values import Instant, Key, Text

router = routes_of("/customers", "Customers")


class CustomerAsked(Asked):
    key: Key
    name: Text | None = None
    email: Text | None = None
    parent: Key | None = None
    payer: Key | None = None
    credit_policy: CreditPolicy = "postpaid"
    posting_policy: PostingPolicy = "immediate"
    region: Region = DEFAULT_REGION
    vip: bool = False


class CustomerChanged(Asked):
    """What is left out stays as it is."""

    name: Text = LEFT_OUT
    email: Text = LEFT_OUT
    region: Region = LEFT_OUT
    vip: bool = LEFT_OUT


class CustomerShown(Shown):
    id: UUID
    key: str
    name: str | None
    email: str | None
    parent: str | None
    payer: str | None
    credit_policy: CreditPolicy
    posting_policy: PostingPolicy
    region: Region
    vip: bool
    created_at: datetime


class BalanceShown(Shown):
    asset: str
    balance: DecimalText
    held: DecimalText
    available: DecimalText
    used: DecimalText
    granted: DecimalText


class CustomerWithBalances(CustomerShown):
    balances: list[BalanceShown]


@router.post("", status_code=201, responses=refusals(409, body=True))
async def create_customer(body: CustomerAsked, service: Serving) -> CustomerWithBalances:
    """Creates a customer. Usage of an unknown key creates one too, postpaid."""
    async with transaction(service) as conn:
        customer = await service.accounts.create(conn, NewCustomer(**body.model_dump()))
    return _with_balances(customer, [])


@router.get("")
async def list_customers(
    service: Serving,
    name: Annotated[
        Key | None, Query(description="A regular expression that the name fits, in any case; without a name, the key")
    ] = None,
    customer_id: Annotated[UUID | None, Query(alias="id")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[CustomerShown]:
    """Customers in the order of their keys; all of them, or by id or name."""
    async with transaction(service) as conn:
        page = await service.customers.page(conn, cursor, limit, name=name, customer_id=customer_id)
    return Listing(items=[CustomerShown.model_validate(customer) for customer in page.items], next=page.next)


@router.get("/{key:key}", responses=refusals(404))
async def get_customer(key: Key, service: Serving) -> CustomerWithBalances:
    """One customer, with what its own wallets hold by asset."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        assets = await service.assets.held(conn, customer.id)
        balances = await service.wallets.balances(conn, customer.id, assets)
    shown = [
        BalanceShown(
            asset=assets[balance.ledger].code,
            balance=format_amount(balance.balance),
            held=format_amount(balance.held),
            available=format_amount(balance.available),
            used=format_amount(balance.used),
            granted=format_amount(balance.granted),
        )
        for balance in balances
    ]
    return _with_balances(customer, shown)


@router.patch("/{key:key}", responses=refusals(404, 409, body=True))
async def change_customer(key: Key, body: CustomerChanged, service: Serving) -> CustomerShown:
    """Changes what is given of a customer. Its key, and what it used and paid, stay."""
    async with transaction(service) as conn:
        changed = await service.accounts.change(conn, key, CustomerChange(**body.model_dump(exclude_unset=True)))
    return CustomerShown.model_validate(changed)


@router.delete("/{key:key}", status_code=204, response_class=Response, responses=refusals(404))
async def delete_customer(key: Key, service: Serving) -> None:
    """Forgets a customer and its agents. The books keep what it used and paid, under its id, which names nobody."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        if not await service.accounts.delete(conn, customer.id):
            raise NotFound(f"there is no customer {key!r}", field="key")


def _with_balances(customer: Customer, balances: list[BalanceShown]) -> CustomerWithBalances:
    return CustomerWithBalances(**CustomerShown.model_validate(customer).model_dump(), balances=balances)


# Usage, charges, bills


class UsageShown(Shown):
    meter: str
    kind: str
    name: str
    unit: str
    quantity: DecimalText
    measurements: int
    price: UUID | None
    model: dict[str, Any] | None
    asset: str | None
    amount: DecimalText | None
    display: DisplayShown | None = None


class MonthOfUsage(Shown):
    customer: str
    month: str
    start: datetime
    end: datetime
    lines: list[UsageShown]


class TotalShown(Shown):
    asset: str
    amount: DecimalText
    display: DisplayShown | None = None


class BillShown(MonthOfUsage):
    state: str
    totals: list[TotalShown]


class ChargeShown(Shown):
    id: str
    at: datetime
    recorded_at: datetime
    meter: str
    kind: str
    resource: str
    agent: str
    value: DecimalText
    quantity: DecimalText
    remark: str | None
    price: UUID | None
    asset: str | None
    amount: DecimalText | None
    transfer: UUID | None


_INSTANT = timedelta(microseconds=1)

MonthText = Annotated[str | None, Query(description="YYYY-MM in the business zone; this month if left out")]


@router.get("/{key:key}/usage", responses=refusals(404), response_model_exclude_unset=True)
async def usage(key: Key, service: Serving, month: MonthText = None) -> MonthOfUsage:
    """What a customer used in a month, by meter, kind and price. An amount is missing where usage waits for a price."""
    wanted = _month(service, month)
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        lines = await service.charges.usage(conn, customer.id, wanted.first_day, wanted.first_day)
    return MonthOfUsage(
        customer=key, month=str(wanted), start=wanted.start, end=wanted.end, lines=[_usage(line) for line in lines]
    )


@router.get("/{key:key}/bill", responses=refusals(404), response_model_exclude_unset=True)
async def bill(key: Key, service: Serving, month: MonthText = None, display: DisplayIn = None) -> BillShown:
    """A customer's bill of a month: the usage totals, priced, and their sum by asset. It is always ready.

    With `display`, each amount also shows what it comes to in that asset, at the rate in force when the month ended, or
    now. What is owed is the amount itself.
    """
    wanted = _month(service, month)
    async with transaction(service) as conn:
        made = await service.bills.bill(conn, key, wanted)
        shown_in = None
        if display is not None:
            asset = await service.assets.get(conn, display, "display")
            instant = min(service.clock.now(), wanted.end - _INSTANT)
            shown_in = await service.display_rates.display(conn, made.totals, asset, instant)
    return BillShown(
        customer=key,
        month=str(made.month),
        start=made.month.start,
        end=made.month.end,
        state=made.state,
        lines=[_usage(line, shown_in) for line in made.lines],
        totals=[
            TotalShown(asset=code, amount=format_amount(total), **display_shown(shown_in, code, total))
            for code, total in sorted(made.totals.items())
        ],
    )


@router.get("/{key:key}/charges", responses=refusals(404))
async def charges(
    key: Key,
    service: Serving,
    since: Instant | None = None,
    until: Instant | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[ChargeShown]:
    """Every measurement taken in [since, until) with what it cost, newest first."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        page = await service.charges.page(
            conn, customer.id, cursor, limit, since=since or BEGINNING, until=until or END
        )
    items = [
        ChargeShown(
            id=str(charge.id),
            at=charge.at,
            recorded_at=charge.recorded_at,
            meter=charge.meter,
            kind=charge.kind,
            resource=charge.resource,
            agent=charge.agent,
            value=format_quantity(charge.value),
            quantity=format_quantity(charge.quantity),
            remark=charge.remark,
            price=charge.price_id,
            asset=charge.asset,
            amount=_amount(charge.amount),
            transfer=charge.transfer_id,
        )
        for charge in page.items
    ]
    return Listing(items=items, next=page.next)


def _month(service: Service, text: str | None) -> Month:
    zone = service.settings.zone
    return month_of(service.clock.now(), zone) if text is None else parse_month(text, zone)


def _usage(line: Usage, display: Display | None = None) -> UsageShown:
    return UsageShown(
        meter=line.meter,
        kind=line.kind,
        name=line.name,
        unit=line.unit,
        quantity=format_quantity(line.quantity),
        measurements=line.measurements,
        price=line.price_id,
        model=line.model,
        asset=line.asset,
        amount=_amount(line.amount),
        **display_shown(display, line.asset, line.amount),
    )


def _amount(microunits: int | None) -> str | None:
    return None if microunits is None else format_amount(microunits)
