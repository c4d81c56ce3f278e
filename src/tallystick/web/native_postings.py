"""Who pays for a customer and when its usage is posted; what was posted, and how far the months are."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from tallystick.billing.posting import Posting, check_over
from tallystick.jobs import posting
from tallystick.kernel.calendar import month_before, month_starting, parse_month
from tallystick.kernel.money import format_amount, format_quantity
from tallystick.ledger.wallets import PostingPolicy
from tallystick.web.native import (
    DEFAULT_LIMIT,
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
from tallystick.web.native_customers import CustomerShown
from tallystick.web.values import Key

router = routes_of("/customers", "Postings")
months = routes_of("/postings", "Postings")


class PayerAsked(Asked):
    payer: Annotated[Key | None, Field(description="Key of the customer who is to pay; null: the customer itself")]


class PostingPolicyAsked(Asked):
    posting_policy: PostingPolicy


class PostingShown(Shown):
    """A payer's month in one asset. `number` is 0 for the month itself, and counts its supplements."""

    id: UUID
    month: str
    asset: str
    number: int
    amount: DecimalText
    description: str | None
    posted_at: datetime


class PostingLineShown(Shown):
    """How far a posting took a usage total of a customer, and what that came to."""

    customer: str
    meter: str
    kind: str
    price: UUID
    quantity_before: DecimalText
    quantity_after: DecimalText
    amount: DecimalText


class MonthShown(Shown):
    """How far a month is posted: `waiting` customers have usage that is not."""

    month: str
    waiting: int
    payers: int
    supplements: int
    last_posted_at: datetime | None


class MonthAsked(Asked):
    month: Annotated[
        str | None, Field(description="YYYY-MM, a month that is over; whatever came before it is posted too")
    ] = None


class JobToPost(Shown):
    """`duplicate`: it was waiting already."""

    job: int
    duplicate: bool
    waiting: int


@router.put("/{key:key}/payer", responses=refusals(404, 409, body=True))
async def set_payer(key: Key, body: PayerAsked, service: Serving) -> CustomerShown:
    """Has another customer pay for this one from now on. What it owes goes to its payer; the past stays as it was."""
    async with transaction(service) as conn:
        return CustomerShown.model_validate(await service.payers.change(conn, key, body.payer))


@router.put("/{key:key}/posting-policy", responses=refusals(404, body=True))
async def set_posting_policy(key: Key, body: PostingPolicyAsked, service: Serving) -> CustomerShown:
    """Has usage that this customer pays for posted at once, or by the month, from now on."""
    async with transaction(service) as conn:
        return CustomerShown.model_validate(await service.payers.set_posting_policy(conn, key, body.posting_policy))


@router.get("/{key:key}/postings", responses=refusals(404))
async def list_postings(
    key: Key, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[PostingShown]:
    """What was posted in a customer's books, newest first."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        page = await service.postings.page(conn, customer.id, cursor, limit)
    return Listing(items=[_shown(posting) for posting in page.items], next=page.next)


@router.get("/{key:key}/postings/{posting_id}/lines", responses=refusals(404))
async def list_posting_lines(
    key: Key, posting_id: UUID, service: Serving, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[PostingLineShown]:
    """What a posting is made of, in the order of the keys of those who used it."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        page = await service.postings.lines(conn, customer.id, posting_id, cursor, limit)
    items = [
        PostingLineShown(
            customer=line.customer,
            meter=line.meter,
            kind=line.kind,
            price=line.price_id,
            quantity_before=format_quantity(line.quantity_before),
            quantity_after=format_quantity(line.quantity_after),
            amount=format_amount(line.amount),
        )
        for line in page.items
    ]
    return Listing(items=items, next=page.next)


@months.get("")
async def list_months(service: Serving) -> Listing[MonthShown]:
    """How far the months that are over are posted, the last ones first."""
    async with transaction(service) as conn:
        progress = await service.postings.progress(conn)
    items = [
        MonthShown(
            month=str(month_starting(one.period)),
            waiting=one.waiting,
            payers=one.payers,
            supplements=one.supplements,
            last_posted_at=one.last_at,
        )
        for one in progress
    ]
    return Listing(items=items, next=None)


@months.post("", status_code=202, responses=refusals(body=True))
async def post_months(body: MonthAsked, service: Serving) -> JobToPost:
    """Has a month posted soon, with whatever is not posted of those before it. The schedule does so on the first day of
    each month; asking again posts what has come late since, as a supplement. Without a month the last one is meant.
    """
    zone, now = service.settings.zone, service.clock.now()
    month = month_before(now, zone) if body.month is None else parse_month(body.month, zone)
    check_over(month, now)
    async with transaction(service) as conn:
        job_id, is_duplicate = await service.jobs.ensure(conn, posting.NAME, str(month), {posting.MONTH: str(month)})
        waiting = await service.postings.waiting(conn, month)
    return JobToPost(job=job_id, duplicate=is_duplicate, waiting=waiting)


def _shown(one: Posting) -> PostingShown:
    return PostingShown(
        id=one.id,
        month=str(month_starting(one.period)),
        asset=one.asset,
        number=one.number,
        amount=format_amount(one.amount),
        description=one.description,
        posted_at=one.created_at,
    )
