"""The credits service's surface: accounts, balance, top-up and bill, users and their transactions.

Amounts are JSON numbers of exact digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from psycopg import AsyncConnection
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from tallystick.billing.instructions import CustomerExists, Instruction, UnknownCustomer
from tallystick.billing.transactions import Place, Transaction
from tallystick.customers.model import Customer
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.ids import new_id
from tallystick.kernel.money import MAX_AMOUNT, MICROUNITS, format_amount, parse_amount
from tallystick.service import Service
from tallystick.web.body import MalformedBody, is_json, read_body, validated
from tallystick.web.details import details
from tallystick.web.gate import caller_of
from tallystick.web.native import Serving
from tallystick.web.routes import ExactRoute, LeanRoute
from tallystick.web.values import EXACT_NUMBER, IDEMPOTENCY_KEY, JsonNumber, Key, Remark, idempotency_key

LEDGER = 1
"""The ledger number of CREDIT."""

MAX_PAGE_SIZE = 100
MAX_PAGE = 2**53 - 1
"""The highest page that is asked for: the greatest number that every reader of JSON knows."""

router = APIRouter(prefix="/api/v1", tags=["Credits service"], route_class=LeanRoute)
users = APIRouter(prefix="/api/v1/users", tags=["Credits service"], route_class=ExactRoute)

_Credits = Annotated[Decimal, EXACT_NUMBER, Field(decimal_places=6, le=MAX_AMOUNT // MICROUNITS)]


class User(BaseModel):
    user_id: Key


class NewAccount(User):
    initial_balance: Annotated[_Credits, Field(ge=0)] = Decimal(0)


class TopUp(User):
    amount: Annotated[_Credits, Field(gt=0)]


class Charge(TopUp):
    description: Remark | None = None


class Account(BaseModel):
    account_id: int
    user_id: str
    balance: JsonNumber


class Balance(BaseModel):
    user_id: str
    balance: JsonNumber


class ToppedUp(BaseModel):
    user_id: str
    amount_added: JsonNumber
    new_balance: JsonNumber


class Billed(BaseModel):
    user_id: str
    amount_billed: JsonNumber
    new_balance: JsonNumber


Asked = TypeVar("Asked", bound=User)


def _asks(model: type[BaseModel], *, moves_money: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [IDEMPOTENCY_KEY] if moves_money else [],
    }


def _refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return details(*statuses, 401, 403)


@router.post(
    "/accounts", status_code=201, response_model=Account, responses=_refuses(409), openapi_extra=_asks(NewAccount)
)
async def open_account(request: Request) -> Response:
    """Opens an account, with credits in it if wanted."""
    body = await _read(request, NewAccount)
    left = await _carry_out(request, "open", body, parse_amount(body.initial_balance))
    account_id = int.from_bytes(sha256(body.user_id.encode()).digest()[:16], "big")
    return _json(f'{{"account_id":{account_id},"user_id":{json.dumps(body.user_id)},"balance":{_number(left)}}}', 201)


@router.post("/balance", response_model=Balance, responses=_refuses(404), openapi_extra=_asks(User, moves_money=False))
async def balance(request: Request) -> Response:
    """What is left on an account."""
    user_id = (await _read(request, User)).user_id
    caller_of(request).need_customer(user_id, "user_id")
    service: Service = request.app.state.service
    async with service.pool.connection() as conn:
        found = await service.customers.find(conn, [user_id])
        if not found:
            raise _no_account(user_id)
        payer = found[user_id][1]
        left = (await service.wallets.left(conn, [payer.id], LEDGER))[payer.id].balance
    return _json(f'{{"user_id":{json.dumps(user_id)},"balance":{_number(left)}}}')


@router.post("/topup", response_model=ToppedUp, responses=_refuses(404, 409), openapi_extra=_asks(TopUp))
async def top_up(request: Request) -> Response:
    """Adds credits to an account."""
    body = await _read(request, TopUp)
    amount = parse_amount(body.amount)
    left = await _carry_out(request, "top_up", body, amount)
    return _json(
        f'{{"user_id":{json.dumps(body.user_id)},"amount_added":{_number(amount)},"new_balance":{_number(left)}}}'
    )


@router.post("/bill", response_model=Billed, responses=_refuses(402, 404, 409), openapi_extra=_asks(Charge))
async def bill(request: Request) -> Response:
    """Takes credits from an account: all of the amount, or nothing and 402."""
    body = await _read(request, Charge)
    caller_of(request).need_customer(body.user_id, "user_id")
    amount = parse_amount(body.amount)
    left = await _carry_out(request, "bill", body, amount, body.description)
    return _json(
        f'{{"user_id":{json.dumps(body.user_id)},"amount_billed":{_number(amount)},"new_balance":{_number(left)}}}'
    )


async def _read(request: Request, model: type[Asked]) -> Asked:
    service: Service = request.app.state.service
    body = await read_body(request, service.settings.max_body_bytes)
    try:
        if not is_json(request):
            raise MalformedBody("Content-Type must be application/json")
        return validated(model, body)
    except MalformedBody as error:
        fault = {"type": "json_invalid", "loc": ("body",), "msg": error.detail}
        raise RequestValidationError([fault]) from None


async def _carry_out(
    request: Request,
    kind: Literal["open", "top_up", "bill"],
    body: User,
    amount: int,
    description: str | None = None,
) -> int:
    """Microcredits that are left afterwards."""
    service: Service = request.app.state.service
    instruction = Instruction(
        id=new_id(service.clock.now()),
        type=kind,
        customer=body.user_id,
        ledger=LEDGER,
        amount=amount,
        description=description,
        idempotency_key=idempotency_key(request),
        credit_policy="prepaid",
    )
    try:
        return await service.instructions.carry_out(instruction)
    except CustomerExists:
        raise Conflict(f"Account for user {body.user_id} already exists") from None
    except UnknownCustomer:
        raise _no_account(body.user_id) from None


def _no_account(user_id: str) -> NotFound:
    return NotFound(f"Account for user {user_id} not found")


def _number(microcredits: int) -> str:
    return format_amount(microcredits, places=2)


def _json(text: str, status: int = 200) -> Response:
    return Response(text.encode(), status, media_type="application/json")


# Users, for administrators


class UserShown(BaseModel):
    user_id: str
    display_name: str | None
    created_at: str
    balance: JsonNumber | None


class UserPage(BaseModel):
    users: list[UserShown]
    total: int
    page: int
    page_size: int


class TransactionShown(BaseModel):
    id: str
    user_id: str
    type: Literal["topup", "bill"]
    amount: JsonNumber
    description: str | None
    balance_after: JsonNumber
    created_at: str


class TransactionPage(BaseModel):
    transactions: list[TransactionShown]
    total: int
    page: int
    page_size: int


@users.get("", response_model=UserPage, responses=_refuses())
async def list_users(service: Serving, page: int = 1, page_size: int = 20) -> Response:
    """Users, newest first. Pages and their sizes are put within their bounds."""
    page, page_size = _bounded(page, page_size)
    async with service.pool.connection() as conn:
        found, total = await service.customers.newest(conn, (page - 1) * page_size, page_size)
        shown = await _users(service, conn, found)
    return _page("users", shown, total, page, page_size)


@users.get("/{user_id:key}", response_model=UserShown, responses=_refuses(404))
async def get_user(user_id: str, service: Serving) -> Response:
    """One user, with what is left."""
    async with service.pool.connection() as conn:
        (shown,) = await _users(service, conn, [await _user(service, conn, user_id)])
    return _exact(shown)


@users.get("/{user_id:key}/transactions", response_model=TransactionPage, responses=_refuses(404))
async def list_transactions(user_id: str, service: Serving, page: int = 1, page_size: int = 20) -> Response:
    """Whatever changed a user's balance, newest first: what came in is a ``topup``, what went out a ``bill``."""
    page, page_size = _bounded(page, page_size)
    async with service.pool.connection() as conn:
        await _user(service, conn, user_id)
        payer = (await service.customers.find(conn, [user_id]))[user_id][1]
        skip = (page - 1) * page_size
        found, total = await service.transactions.numbered(conn, Place(payer.id, LEDGER), skip, page_size)
    return _page("transactions", [_transaction(user_id, one) for one in found], total, page, page_size)


def _bounded(page: int, page_size: int) -> tuple[int, int]:
    return min(max(page, 1), MAX_PAGE), min(max(page_size, 1), MAX_PAGE_SIZE)


async def _user(service: Service, conn: AsyncConnection, user_id: str) -> Customer:
    try:
        return await service.customers.get(conn, user_id)
    except (NotFound, InvalidInput):  # what cannot be an id names nobody
        raise NotFound(f"User '{user_id}' not found") from None


async def _users(service: Service, conn: AsyncConnection, customers: Sequence[Customer]) -> list[dict[str, Any]]:
    """Users as they are shown. There is no balance where a wallet was never opened and nothing ever moved."""
    named = await service.customers.find(conn, [customer.key for customer in customers])
    payers = {key: payer.id for key, (_, payer) in named.items()}
    standings = await service.wallets.standings(conn, set(payers.values()), [LEDGER])
    left = dict.fromkeys(await service.transactions.opened(conn, set(payers.values())), 0)
    left |= {payer_id: standing[0].balance for payer_id, standing in standings.items() if standing}
    return [
        {
            "user_id": customer.key,
            "display_name": customer.name,
            "created_at": customer.created_at.isoformat(),
            "balance": None if (balance := left.get(payers[customer.key])) is None else _raw(balance),
        }
        for customer in customers
    ]


def _transaction(user_id: str, transaction: Transaction) -> dict[str, Any]:
    return {
        "id": str(transaction.id),
        "user_id": user_id,
        "type": "topup" if transaction.amount > 0 else "bill",
        "amount": _raw(abs(transaction.amount)),
        "description": transaction.description,
        "balance_after": _raw(transaction.balance_after),
        "created_at": transaction.created_at.isoformat(),
    }


def _raw(microcredits: int) -> msgspec.Raw:
    """An amount as a JSON number with its exact digits."""
    return msgspec.Raw(_number(microcredits).encode())


def _page(name: str, shown: list[dict[str, Any]], total: int, page: int, page_size: int) -> Response:
    return _exact({name: shown, "total": total, "page": page, "page_size": page_size})


def _exact(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
