"""Somebody who holds credits, and what tests ask about holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tallystick.billing.instructions import Instruction
from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import new_id
from tallystick.ledger.desk import Answer
from tallystick.ledger.hold_model import Hold, HoldOrder, PlaceHold, ReleaseHold, SettleHold
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tests.ledger.services import CREDITS
from tests.metering.books import balance, create_price, fetch, measurement, submit

SECOND = timedelta(seconds=1)


class User:
    """Somebody who gives orders; amounts in microcredits."""

    def __init__(self, service: Service, customer: str = "ada") -> None:
        self.service = service
        self.customer = customer

    def __call__(self, customer: str) -> User:
        return User(self.service, customer)

    def _id(self) -> UUID:
        return new_id(self.service.clock.now())

    async def instruct(self, type_: Any, amount: int, **fields: Any) -> int:
        instruction = Instruction(self._id(), type_, self.customer, fields.pop("ledger", CREDITS), amount, **fields)
        return await self.service.instructions.carry_out(instruction)

    async def open(self, amount: int, policy: Any = "prepaid") -> None:
        await self.instruct("open", amount, credit_policy=policy)

    def placing(self, amount: int, **fields: Any) -> PlaceHold:
        return PlaceHold(self._id(), self.customer, fields.pop("ledger", CREDITS), amount, **fields)

    def settling(self, hold: Hold | UUID, amount: int, **fields: Any) -> SettleHold:
        return SettleHold(self._id(), self.customer, _id_of(hold), amount, **fields)

    def releasing(self, hold: Hold | UUID, **fields: Any) -> ReleaseHold:
        return ReleaseHold(self._id(), self.customer, _id_of(hold), **fields)

    async def place(self, amount: int, **fields: Any) -> Hold:
        return await self.carry_out(self.placing(amount, **fields))

    async def settle(self, hold: Hold | UUID, amount: int, **fields: Any) -> Hold:
        return await self.carry_out(self.settling(hold, amount, **fields))

    async def release(self, hold: Hold | UUID, **fields: Any) -> Hold:
        return await self.carry_out(self.releasing(hold, **fields))

    async def carry_out(self, order: HoldOrder) -> Hold:
        return await self.service.holds.carry_out(order)

    async def use(self, amount: int) -> None:
        """Usage that has already happened, beyond what is held."""
        await create_price(self.service, model={"type": "per_unit", "amount": "0.000001"})
        await submit(self.service, measurement(self.customer, amount))

    async def balance(self) -> Balance:
        return await balance(self.service, self.customer)

    async def get(self, hold: Hold) -> Hold:
        async with self.service.pool.connection() as conn:
            return await self.service.holds.get(conn, hold.customer_id, hold.id)


def _id_of(hold: Hold | UUID) -> UUID:
    return hold.id if isinstance(hold, Hold) else hold


async def refusal(awaitable: Awaitable[Any]) -> TallyError:
    with pytest.raises(TallyError) as refused:
        await awaitable
    return refused.value


async def together(*orders: tuple[Service, HoldOrder]) -> list[Hold | BaseException]:
    """Hands all in at once; what each of them came to."""
    return await asyncio.gather(*(service.holds.carry_out(order) for service, order in orders), return_exceptions=True)


async def as_one_group(service: Service, orders: Sequence[HoldOrder]) -> list[Answer]:
    """Carries out orders in one transaction, as the queue does with those that arrive together."""
    return await service.desk._execute(list(orders))


async def run_due(service: Service, limit: int = 500) -> int:
    async with service.pool.connection() as conn, conn.transaction():
        return await service.holds.run_due(conn, service.clock.now(), limit)


async def all_holds(service: Service, customer: str, state: Any = None) -> list[Hold]:
    """Newest first, over pages of two."""
    found: list[Hold] = []
    async with service.pool.connection() as conn:
        customer_id = (await service.customers.find(conn, [customer]))[customer][0]
        cursor = None
        while True:
            page = await service.holds.page(conn, customer_id, state, cursor, 2)
            found += page.items
            if (cursor := page.next) is None:
                return found


async def everything(service: Service) -> list[Any]:
    """All that orders can change."""
    tables = ("ledger_accounts", "ledger_transfers", "holds", "wallet_operations", "idempotency_keys")
    return [sorted(await fetch(service, f"select * from {table}"), key=str) for table in tables]
