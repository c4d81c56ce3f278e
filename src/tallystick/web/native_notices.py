"""Notices: the rules by which people hear of balances, what was raised, and who looks after a customer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from fastapi import Query, Response
from pydantic import Field, WithJsonSchema

from tallystick.customers.maintainers import MAX_MAINTAINERS, maintainers_of, put_maintainers
from tallystick.jobs.notices import ARM
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import MICROUNITS, format_amount
from tallystick.notices.definitions import MAX_RECIPIENTS
from tallystick.notices.model import GOVERNANCE, MAINTAINERS, Kind, NewRule, Rule, Sending, State
from tallystick.notices.placeholders import MAX_BODY_CHARACTERS, MAX_PLACEHOLDERS, MAX_VALUE_CHARACTERS
from tallystick.notices.watch import threshold_text
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
from tallystick.web.values import EXACT_NUMBER, NUMBER_SCHEMA, Key, Text

router = routes_of("/notices", "Notices")
of_customers = routes_of("/customers", "Notices", refused=(404,))

Threshold = Annotated[Decimal, EXACT_NUMBER, WithJsonSchema(NUMBER_SCHEMA)]
Names = Annotated[list[Key], Field(max_length=MAX_RECIPIENTS)]
Value = Annotated[str, Field(max_length=MAX_VALUE_CHARACTERS, pattern=r"^[^\x00]*$")]


class RuleAsked(Asked):
    """A rule. `threshold` is a share from 0 to 1, an amount, whole days or a factor above 1, by `kind`.

    Without a `customer` it is about all, without an `asset` about each. `recipients` and `copies` are e-mail addresses,
    `maintainers` and `governance`. A template of one's own has a `subject` and a `body` with `$placeholders`.
    """

    kind: Kind
    threshold: Threshold
    customer: Key | None = None
    asset: Key | None = None
    recipients: Names = [MAINTAINERS]  # noqa: RUF012 pydantic copies it
    copies: Names = [GOVERNANCE]  # noqa: RUF012
    subject: Text | None = None
    body: Annotated[str, Field(max_length=MAX_BODY_CHARACTERS, pattern=r"^[^\x00]*$")] | None = None
    placeholders: Annotated[Mapping[Key, Value], Field(max_length=MAX_PLACEHOLDERS)] = {}


class RuleShown(Shown):
    id: UUID
    kind: Kind
    threshold: DecimalText
    customer: str | None
    asset: str | None
    recipients: list[str]
    copies: list[str]
    subject: str | None
    body: str | None
    placeholders: dict[str, str]
    created_at: datetime


class NoticeShown(Shown):
    """What was raised, and how far it has been sent. `error` is why the last attempt failed.

    `spent` is what was used in the last days, or today; `usual` what is used on a day; `ends_at` when nothing is left.
    """

    id: UUID
    customer: str
    kind: Kind
    threshold: DecimalText
    rule: UUID
    asset: str
    balance: DecimalText
    granted: DecimalText
    spent: DecimalText | None
    usual: DecimalText | None
    ends_at: datetime | None
    raised_at: datetime
    state: State
    attempts: int
    due_at: datetime | None
    error: str | None
    sent_at: datetime | None


class LetterShown(Shown):
    """What would be sent. A template of one's own has no `html`."""

    subject: str
    to: list[str]
    copies: list[str]
    text: str
    html: str | None


class MaintainersAsked(Asked):
    maintainers: Annotated[list[Key], Field(max_length=MAX_MAINTAINERS)]


class MaintainersShown(Shown):
    customer: str
    maintainers: list[str]


@router.get("/rules")
async def list_rules(
    service: Serving, customer: Key | None = None, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[RuleShown]:
    """Rules in the order of definition: all of them, or those about one customer alone."""
    async with transaction(service) as conn:
        page = await service.notices.rules(conn, customer, cursor, limit)
    return Listing(items=[_rule(rule) for rule in page.items], next=page.next)


@router.post("/rules", status_code=201, responses=refusals(404, 409, body=True))
async def define_rule(body: RuleAsked, service: Serving) -> RuleShown:
    """Defines a rule. One about a customer is in force at once, one about all within moments for each wallet.

    A wallet whose balance is below the level already is not told: it hears when the balance comes there again.
    """
    new = NewRule(
        kind=body.kind,
        threshold=_threshold(body),
        customer=body.customer,
        asset=body.asset,
        recipients=tuple(body.recipients),
        copies=tuple(body.copies),
        subject=body.subject,
        body=body.body,
        placeholders=body.placeholders,
    )
    async with transaction(service) as conn:
        if new.customer is None:
            await service.jobs.defer(conn, ARM, unique="all")  # before the ledger is locked
        rule = await service.notices.define(conn, new)
    return _rule(rule)


@router.delete("/rules/{rule_id}", status_code=204, response_class=Response, responses=refusals(404))
async def remove_rule(rule_id: UUID, service: Serving) -> None:
    """Forgets a rule. What it raised stays."""
    async with transaction(service) as conn:
        await service.notices.remove(conn, rule_id)


@router.get("/rules/{rule_id}/preview", responses=refusals(404))
async def preview(
    rule_id: UUID,
    service: Serving,
    customer: Key,
    asset: Annotated[Key | None, Query(description="Of which wallet; by default the rule's, or credits")] = None,
) -> LetterShown:
    """The letter that a rule would send about a customer's wallet as it stands now. Nothing is sent.

    What was spent is made up, where a rule is about spending.
    """
    async with transaction(service) as conn:
        return LetterShown.model_validate(await service.notices.preview(conn, rule_id, customer, asset))


@router.get("", responses=refusals(404))
async def list_notices(
    service: Serving,
    state: State | None = None,
    customer: Key | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Listing[NoticeShown]:
    """What was raised, newest first."""
    async with transaction(service) as conn:
        page = await service.notices.page(conn, state, customer, cursor, limit)
    return Listing(items=[_notice(sending) for sending in page.items], next=page.next)


@router.get("/{notice_id}", responses=refusals(404))
async def get_notice(notice_id: UUID, service: Serving) -> NoticeShown:
    """One notice."""
    async with transaction(service) as conn:
        return _notice(await service.notices.get(conn, notice_id))


@router.post("/{notice_id}/retry", responses=refusals(404, 409))
async def retry_notice(notice_id: UUID, service: Serving) -> NoticeShown:
    """Has a notice sent that does not wait to be: one that was given up, had nobody to go to, or was sent before."""
    async with transaction(service) as conn:
        return _notice(await service.notices.retry(conn, notice_id))


@of_customers.get("/{key:key}/maintainers")
async def get_maintainers(key: Key, service: Serving) -> MaintainersShown:
    """The addresses that hear of a customer's balance, besides its own e-mail."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        return MaintainersShown(customer=key, maintainers=await maintainers_of(conn, customer.id))


@of_customers.put("/{key:key}/maintainers", responses=refusals(404, body=True))
async def change_maintainers(key: Key, body: MaintainersAsked, service: Serving) -> MaintainersShown:
    """Makes these the maintainers, and nobody else."""
    async with transaction(service) as conn:
        customer = await service.customers.get(conn, key)
        return MaintainersShown(customer=key, maintainers=await put_maintainers(conn, customer.id, body.maintainers))


def _threshold(body: RuleAsked) -> Decimal:
    """In microunits, if it is an amount."""
    if not body.threshold.is_finite() or abs(body.threshold.adjusted()) > 30:
        raise InvalidInput("threshold must be a number of at most 30 digits", field="threshold")
    return body.threshold * MICROUNITS if body.kind == "balance" else body.threshold


def _rule(rule: Rule) -> RuleShown:
    return RuleShown(
        id=rule.id,
        kind=rule.kind,
        threshold=threshold_text(rule),
        customer=rule.customer,
        asset=rule.asset,
        recipients=list(rule.recipients),
        copies=list(rule.copies),
        subject=rule.subject,
        body=rule.body,
        placeholders=dict(rule.placeholders),
        created_at=rule.created_at,
    )


def _notice(sending: Sending) -> NoticeShown:
    notice = sending.notice
    return NoticeShown(
        id=notice.id,
        customer=sending.customer,
        kind=notice.kind,
        threshold=threshold_text(notice),
        rule=notice.rule_id,
        asset=sending.asset,
        balance=format_amount(notice.balance),
        granted=format_amount(notice.granted),
        spent=None if notice.spent is None else format_amount(notice.spent),
        usual=None if notice.usual is None else format_amount(notice.usual),
        ends_at=notice.ends_at,
        raised_at=notice.raised_at,
        state=sending.state,
        attempts=sending.attempts,
        due_at=sending.due_at,
        error=sending.error,
        sent_at=sending.sent_at,
    )
