"""Endpoints for tests, and what waits for them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tallystick.customers.model import Customer, NewCustomer
from tallystick.customers.service import Customers
from tallystick.database.pool import Pool
from tallystick.kernel.clock import TestClock
from tallystick.outbox.model import Event, Subject
from tallystick.outbox.service import Outbox
from tallystick.outbox.webhooks.courier import delivering
from tallystick.outbox.webhooks.queue import Claimed, claim
from tallystick.outbox.webhooks.service import Delivery, Endpoint, NewEndpoint, Webhooks
from tallystick.outbox.webhooks.territory import LOOPBACK, Territory

CLOCK = TestClock(datetime(2026, 11, 20, 12, tzinfo=UTC))
DISABLE_AFTER_DAYS = 5


class Room:
    """Webhooks on a database, and what else a test needs to have them told."""

    def __init__(self, pool: Pool, *, broker: bool = False) -> None:
        self.pool = pool
        self.outbox = Outbox(is_on=broker)
        self.customers = Customers(CLOCK)
        self.webhooks = Webhooks(
            CLOCK, self.customers, self.outbox, Territory(LOOPBACK), disable_after_days=DISABLE_AFTER_DAYS
        )

    async def customer(self, key: str) -> Subject:
        async with self.pool.connection() as conn, conn.transaction():
            customer: Customer = await self.customers.create(conn, NewCustomer(key))
        return Subject.of(customer)

    async def endpoint(self, url: str = "https://hooks.example/", *types: str, customer: str | None = None) -> UUID:
        async with self.pool.connection() as conn, conn.transaction():
            endpoint, _ = await self.webhooks.create(conn, NewEndpoint(url, types or ("*",), "of a test", customer))
        return endpoint.id

    async def tell(self, *events: Event) -> None:
        async with self.pool.connection() as conn, conn.transaction():
            await self.outbox.tell(conn, events)

    async def get(self, endpoint_id: UUID) -> Endpoint:
        async with self.pool.connection() as conn:
            return await self.webhooks.get(conn, endpoint_id, None)

    async def deliveries(self, endpoint_id: UUID) -> list[Delivery]:
        """The latest first."""
        async with self.pool.connection() as conn:
            return (await self.webhooks.deliveries(conn, endpoint_id, None, None, 1000)).items

    async def states(self, endpoint_id: UUID) -> dict[str, int]:
        found = [delivery.state for delivery in await self.deliveries(endpoint_id)]
        return {state: found.count(state) for state in set(found)}

    async def claim(self, *, failing: bool = False, limit: int = 100, full: tuple[UUID, ...] = ()) -> list[Claimed]:
        async with self.pool.connection() as conn:
            return await claim(conn, limit, failing=failing, full=full)

    async def run(self, statement: str, *parameters: Any) -> None:
        async with self.pool.connection() as conn:
            await conn.execute(statement, parameters)

    async def hurry(self) -> None:
        """What is put off is due now."""
        await self.run("update webhook_deliveries set due_at = now() where due_at > now()")

    def delivering(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile they are told."""
        return delivering(self.pool, self.webhooks)
