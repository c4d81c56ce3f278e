"""Where the money of a customer with grants moves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from tallystick.billing.instructions import Instruction
from tallystick.kernel.clock import TestClock
from tallystick.kernel.ids import new_id
from tallystick.ledger.grant_model import GrantCredits, Standing, VoidGrant
from tallystick.ledger.hold_model import PlaceHold, ReleaseHold, SettleHold
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tests.ledger.services import CREDITS, NOW
from tests.metering.books import balance, measurement, submit

DAY = timedelta(days=1)
LIMIT = 100


class Bank:
    """Where a customer's money moves; amounts in microcredits."""

    def __init__(self, service: Service, clock: TestClock, customer: str = "ada") -> None:
        self.service = service
        self.clock = clock
        self.customer = customer

    def order(self, amount: int, **terms: Any) -> GrantCredits:
        return GrantCredits(new_id(self.clock.now()), self.customer, terms.pop("ledger", CREDITS), amount, **terms)

    async def give(self, amount: int, *, days: int | None = None, **terms: Any) -> UUID:
        """A grant that ends after so many days."""
        if days is not None:
            terms["expires_at"] = self.clock.now() + days * DAY
        given, _ = await self.service.grants.give(self.order(amount, **terms))
        return given.id

    async def void(self, grant_id: UUID, key: str | None = None) -> Standing:
        order = VoidGrant(new_id(self.clock.now()), self.customer, grant_id, idempotency_key=key)
        return await self.service.grants.void(order)

    async def instruct(self, type_: Any, amount: int, **fields: Any) -> UUID:
        instruction = Instruction(new_id(self.clock.now()), type_, self.customer, CREDITS, amount, **fields)
        await self.service.instructions.carry_out(instruction)
        return instruction.id

    async def use(self, *amounts: int) -> None:
        """Usage that has happened, each in a transaction of its own; negative if it is corrected."""
        for amount in amounts:
            await submit(self.service, measurement(self.customer, amount, at=NOW))
        async with self.service.pool.connection() as conn:  # a ledger elsewhere has carried it out when it answers
            await self.service.wallets.left(conn, [await self.payer_id()], CREDITS)

    async def hold(self, amount: int) -> UUID:
        hold = PlaceHold(new_id(self.clock.now()), self.customer, CREDITS, amount, expires_in_seconds=7 * 86_400)
        return (await self.service.holds.carry_out(hold)).id

    async def settle(self, hold_id: UUID, amount: int) -> None:
        await self.service.holds.carry_out(SettleHold(new_id(self.clock.now()), self.customer, hold_id, amount))

    async def release(self, hold_id: UUID) -> None:
        await self.service.holds.carry_out(ReleaseHold(new_id(self.clock.now()), self.customer, hold_id))

    async def due(self, after: timedelta = timedelta(0)) -> int:
        """Does what is due after so much time."""
        self.clock.advance(after)
        async with self.service.pool.connection() as conn, conn.transaction():
            return await self.service.grants.run_due(conn, self.clock.now(), LIMIT)

    async def payer_id(self) -> UUID:
        async with self.service.pool.connection() as conn:
            return (await self.service.customers.find(conn, [self.customer]))[self.customer][1].id

    async def standing(self, grant_id: UUID) -> Standing:
        async with self.service.pool.connection() as conn, conn.transaction():
            return await self.service.grants.get(conn, await self.payer_id(), grant_id)

    async def left(self, *grant_ids: UUID) -> list[int]:
        return [(await self.standing(grant_id)).remaining for grant_id in grant_ids]

    async def shown(self, grant_id: UUID) -> tuple[str, int, int, int]:
        """State, used, left, and taken away."""
        standing = await self.standing(grant_id)
        return standing.grant.state, standing.used, standing.remaining, standing.taken

    async def balance(self) -> Balance:
        return await balance(self.service, self.customer)
