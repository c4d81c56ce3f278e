"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tallystick.billing.bills import Bills
from tallystick.billing.instructions import Instructions
from tallystick.customers.service import Customers
from tallystick.database.migrate import migrate
from tallystick.database.pool import Pool, open_pool
from tallystick.kernel.clock import Clock, SystemClock
from tallystick.ledger.assets import Assets
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.wallets import Wallets
from tallystick.metering.charges import Charges
from tallystick.metering.directory import Directories
from tallystick.metering.intake import Intake
from tallystick.metering.openstack import install_openstack_meters
from tallystick.metering.service import IntakeQueue, Meters
from tallystick.metering.waiting import Settlement
from tallystick.operations.explain import Explain
from tallystick.operations.health import Health
from tallystick.operations.verify import Verify
from tallystick.pricing.service import Pricing
from tallystick.settings import Settings


@dataclass(frozen=True)
class Service:
    """All parts, ready to work."""

    settings: Settings
    clock: Clock
    pool: Pool
    assets: Assets
    customers: Customers
    pricing: Pricing
    meters: Meters
    wallets: Wallets
    intake: IntakeQueue
    settlement: Settlement
    instructions: Instructions
    charges: Charges
    bills: Bills
    explain: Explain
    verify: Verify
    health: Health
    proving: asyncio.Lock
    """Held while the books are verified on somebody's request: it reads all of them."""


@asynccontextmanager
async def open_service(settings: Settings, url: str, clock: Clock | None = None) -> AsyncIterator[Service]:
    """Migrates the database at ``url``, opens everything, finishes what was left half done; closes it in the end."""
    clock = clock or SystemClock()
    await asyncio.to_thread(migrate, url)
    pool = await open_pool(url, size=settings.database_pool_size)
    try:
        service = _assemble(settings, clock, pool)
        async with pool.connection() as conn, conn.transaction():
            await install_openstack_meters(
                conn,
                service.meters,
                service.pricing,
                vcpu_credit_per_hour=settings.vcpu_credit_per_hour,
                ram_credit_per_hour=settings.ram_credit_per_hour,
                precision=settings.os_credits_precision,
            )
        await service.settlement.settle()
        await service.intake.start()
        await service.instructions.group.start()
        try:
            yield service
        finally:
            await service.intake.stop()
            await service.instructions.group.stop()
    finally:
        await pool.close()


def _assemble(settings: Settings, clock: Clock, pool: Pool) -> Service:
    ledger = PostgresLedger(clock)
    wallets = Wallets(ledger)
    assets = Assets()
    customers = Customers(clock)
    pricing = Pricing(clock, customers)
    directories = Directories(clock, pricing, customers)
    charges = Charges()
    intake = IntakeQueue(pool, Intake(clock, settings.zone, directories, wallets))
    return Service(
        settings=settings,
        clock=clock,
        pool=pool,
        assets=assets,
        customers=customers,
        pricing=pricing,
        meters=Meters(clock, pricing),
        wallets=wallets,
        intake=intake,
        settlement=Settlement(pool, pricing, wallets),
        instructions=Instructions(pool, clock, customers, ledger, wallets),
        charges=charges,
        bills=Bills(clock, settings.zone, customers, charges),
        explain=Explain(pricing),
        verify=Verify(pricing),
        health=Health(intake),
        proving=asyncio.Lock(),
    )
