"""Orders in the name of a customer: who pays for it, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.kernel.errors import NotFound
from tallystick.ledger.desk import Answer, Handler, Order
from tallystick.ledger.wallets import FindPayers, Payer


class CustomersOrder(Order, Protocol):
    """An order that names a customer by its key."""

    @property
    def customer(self) -> str: ...


SomeOrder = TypeVar("SomeOrder", bound=CustomersOrder)


class Asked(NamedTuple, Generic[SomeOrder]):
    """An order, with the customer that it names and whoever pays for that one."""

    order: SomeOrder
    customer_id: UUID
    payer: Payer


CarryOut = Callable[[AsyncConnection, Sequence[Asked[Any]]], Awaitable[dict[UUID, Answer]]]
"""Carries out orders in the caller's transaction; what came of each, by its id."""


def of_customers(find_payers: FindPayers, carry_out: CarryOut) -> Handler:
    """A handler that has those orders carried out whose customers exist, and answers the others itself."""

    async def handle(conn: AsyncConnection, orders: Sequence[CustomersOrder]) -> list[Answer]:
        found = await find_payers(conn, sorted({order.customer for order in orders}))
        asked = [Asked(order, *found[order.customer]) for order in orders if order.customer in found]
        answers = await carry_out(conn, asked) if asked else {}
        return [answers[order.id] if order.customer in found else _unknown(order.customer) for order in orders]

    return handle


def _unknown(customer: str) -> NotFound:
    return NotFound(f"there is no customer {customer!r}", field="key")
