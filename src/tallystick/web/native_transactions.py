"""The history of a customer's wallet: what moved it, in pages or as one CSV file, and what it held in the past."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from io import StringIO
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tallystick.billing.transactions import Transaction, TransactionType, Wanted
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import format_amount
from tallystick.ledger.assets import Asset
from tallystick.ledger.rates import Display
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tallystick.web.native import (
    DEFAULT_LIMIT,
    Cursor,
    DecimalText,
    Limit,
    Listing,
    Serving,
    Shown,
    payer_of,
    routes_of,
)
from tallystick.web.native_assets import DisplayIn, RateOfDisplay, displayed, rate_of
from tallystick.web.values import Instant, Key

CSV = "text/csv"
ROWS_AT_ONCE = 2_000
"""Rows of a CSV file that are in memory at a time."""
MAX_TYPES = 2 * len(TransactionType)
"""Types that one request may name."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A spreadsheet takes a cell that begins like this for a formula (OWASP, "CSV Injection")."""

COLUMNS = ("id", "created_at", "type", "asset", "amount", "balance_after", "cause", "description")

router = routes_of("/customers", "Transactions", refused=(404,))


class TransactionShown(Shown):
    """``amount`` is negative if it went out. ``cause`` is the transfer that this one completes, or the settled hold."""

    id: UUID
    created_at: datetime
    type: TransactionType
    asset: str
    amount: DecimalText
    balance_after: DecimalText
    cause: UUID | None
    description: str | None


class TransactionsShown(Listing[TransactionShown]):
    """``payer`` is the customer whose wallet this is: whoever pays for ``customer``."""

    customer: str
    payer: str


class SumsShown(Shown):
    balance: DecimalText
    available: DecimalText
    held: DecimalText
    arrears: DecimalText
    used: DecimalText
    granted: DecimalText
    expired: DecimalText
    exchanged: DecimalText


class DisplayedSums(SumsShown, RateOfDisplay):
    """What the sums are shown as, each rounded to the decimals of `asset`. The wallet holds the sums beside them."""


class StandingShown(SumsShown):
    asset: str
    display: DisplayedSums | None = None


class StandingsShown(Shown):
    """``payer`` is the customer whose wallet this is: whoever pays for ``customer``."""

    customer: str
    payer: str
    at: datetime
    balances: list[StandingShown]


Types = Annotated[list[TransactionType] | None, Query(alias="type", max_length=MAX_TYPES)]
Cause = Annotated[
    UUID | None, Query(description="A transfer's id: found are itself, what completes it, what settles it")
]
Format = Annotated[
    Literal["json", "csv"] | None, Query(description="`csv`: all rows, oldest first; as `Accept: text/csv`")
]

_FILE: dict[int | str, dict[str, Any]] = {200: {"content": {CSV: {"schema": {"type": "string"}}}}}


async def _wanted(
    since: Instant | None = None, until: Instant | None = None, types: Types = None, cause: Cause = None
) -> Wanted:
    return Wanted(since, until, types or (), cause)


@router.get("/{key:key}/transactions", response_model=TransactionsShown, responses=_FILE)
async def transactions(
    key: Key,
    request: Request,
    service: Serving,
    wanted: Annotated[Wanted, Depends(_wanted)],
    asset: Key | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
    format_: Annotated[Format, Query(alias="format")] = None,
) -> TransactionsShown | Response:
    """What moved a customer's balance in [since, until), newest first, with the balance of that asset afterwards.

    It is the wallet of whoever pays for the customer. A CSV file has all rows, oldest first; `limit` does not count.
    """
    as_csv = format_ == "csv" or (format_ is None and CSV in request.headers.get("accept", ""))
    if as_csv and cursor is not None:
        raise InvalidInput("cursor must be left out of a request for CSV: a file has all rows", field="cursor")
    async with service.pool.connection() as conn:
        payer, payer_id = await payer_of(request, service, conn, key)
        assets = await service.assets.all(conn)
        ledgers = None if asset is None else [(await service.assets.get(conn, asset)).ledger]
        codes = {one.ledger: code for code, one in assets.items()}
        if not as_csv:
            page = await service.transactions.page(conn, payer_id, ledgers, wanted, cursor, limit)
            shown = [_shown(transaction, codes) for transaction in page.items]
            return TransactionsShown(customer=key, payer=payer, items=shown, next=page.next)
        first = await service.transactions.following(conn, payer_id, ledgers, wanted, 0, ROWS_AT_ONCE)
    rows = _rows(service, payer_id, ledgers, wanted, first, codes)
    disposition = f"attachment; filename=\"transactions.csv\"; filename*=UTF-8''transactions-{quote(key, safe='')}.csv"
    return StreamingResponse(rows, media_type=CSV, headers={"Content-Disposition": disposition})


@router.get("/{key:key}/balances", response_model_exclude_unset=True)
async def balances(
    key: Key, request: Request, service: Serving, at: Instant | None = None, display: DisplayIn = None
) -> StandingsShown:
    """What the wallet of whoever pays for a customer holds, by asset; or held at a past instant.

    With `display`, each sum also shows what it came to in that asset then.
    """
    instant = at or service.clock.now()
    async with service.pool.connection() as conn:
        payer, payer_id = await payer_of(request, service, conn, key)
        if at is None:
            assets = await service.assets.held(conn, payer_id)
            standings = await service.wallets.balances(conn, payer_id, assets)
        else:
            standings = await service.transactions.standings(conn, payer_id, at)
            assets = await service.assets.held(conn, payer_id)  # afterwards: another one may be opened meanwhile
        shown_in = None
        if display is not None:
            asset = await service.assets.get(conn, display, "display")
            codes = [assets[standing.ledger].code for standing in standings]
            shown_in = await service.display_rates.display(conn, codes, asset, instant)
    shown = [_standing(standing, assets, shown_in) for standing in standings]
    return StandingsShown(customer=key, payer=payer, at=instant, balances=shown)


def _shown(transaction: Transaction, codes: Mapping[int, str]) -> TransactionShown:
    return TransactionShown(
        id=transaction.id,
        created_at=transaction.created_at,
        type=transaction.type,
        asset=codes[transaction.ledger],
        amount=format_amount(transaction.amount),
        balance_after=format_amount(transaction.balance_after),
        cause=transaction.cause_id,
        description=transaction.description,
    )


def _standing(balance: Balance, assets: Mapping[int, Asset], display: Display | None) -> StandingShown:
    code = assets[balance.ledger].code
    shown = {"asset": code, **_sums(balance, format_amount)}
    if display is None:
        return StandingShown(**shown)
    sums = _sums(balance, partial(displayed, display, code))
    return StandingShown(**shown, display=DisplayedSums(**rate_of(display, code), **sums))


def _sums(balance: Balance, text: Callable[[int], str]) -> dict[str, Any]:
    return {name: text(getattr(balance, name)) for name in SumsShown.model_fields}


# CSV (RFC 4180)


async def _rows(
    service: Service,
    payer_id: UUID,
    ledgers: Collection[int] | None,
    wanted: Wanted,
    found: list[Transaction],
    codes: Mapping[int, str],
) -> AsyncIterator[bytes]:
    """The file, chunk by chunk. A connection is taken for each chunk and not while a slow client reads."""
    yield _csv([COLUMNS])
    while found:
        yield _csv([_cells(transaction, codes) for transaction in found])
        if len(found) < ROWS_AT_ONCE:
            return
        async with service.pool.connection() as conn:
            after = found[-1].sequence
            found = await service.transactions.following(conn, payer_id, ledgers, wanted, after, ROWS_AT_ONCE)


def _csv(rows: Collection[Collection[str]]) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cells(transaction: Transaction, codes: Mapping[int, str]) -> tuple[str, ...]:
    return (
        str(transaction.id),
        transaction.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        transaction.type,
        codes[transaction.ledger],
        format_amount(transaction.amount),
        format_amount(transaction.balance_after),
        str(transaction.cause_id or ""),
        _harmless(transaction.description or ""),
    )


def _harmless(text: str) -> str:
    """The text, with an apostrophe in front of what a spreadsheet would calculate."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
