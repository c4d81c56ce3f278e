"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tallystick.billing.agreements import Agreements, Tiers
from tallystick.billing.bills import Bills
from tallystick.billing.instructions import Instructions
from tallystick.billing.transactions import Transactions
from tallystick.customers.service import Customers
from tallystick.database.migrate import migrate
from tallystick.database.pool import Pool, open_pool
from tallystick.jobs.schedule import Schedule
from tallystick.kernel.clock import Clock, SystemClock
from tallystick.ledger import home
from tallystick.ledger.assets import Assets
from tallystick.ledger.contract import Ledger
from tallystick.ledger.desk import Desk
from tallystick.ledger.exchange import Exchanges
from tallystick.ledger.grants import Grants
from tallystick.ledger.holds import Holds
from tallystick.ledger.postgres import PostgresLedger
from tallystick.ledger.rates import DisplayRates
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
    ledger: Ledger
    assets: Assets
    display_rates: DisplayRates
    customers: Customers
    pricing: Pricing
    meters: Meters
    wallets: Wallets
    intake: IntakeQueue
    settlement: Settlement
    desk: Desk
    instructions: Instructions
    holds: Holds
    grants: Grants
    tiers: Tiers
    agreements: Agreements
    exchanges: Exchanges
    charges: Charges
    bills: Bills
    transactions: Transactions
    explain: Explain
    verify: Verify
    health: Health
    schedule: Schedule
    """What falls due by time. `tally serve` runs it; tests run it by hand."""
    proving: asyncio.Lock
    """Held while the books are verified on somebody's request: it reads all of them."""


@asynccontextmanager
async def open_service(settings: Settings, url: str, clock: Clock | None = None) -> AsyncIterator[Service]:
    """Migrates the database at ``url``, opens everything, finishes what was left half done; closes it in the end."""
    clock = clock or SystemClock()
    await asyncio.to_thread(migrate, url)
    pool = await open_pool(url, size=settings.database_pool_size)
    ledgers = AsyncExitStack()
    try:
        async with pool.connection() as conn, conn.transaction():
            await home.enter(conn, settings.tigerbeetle)
        ledger = await ledgers.enter_async_context(_open_ledger(settings, clock, url))
        service = _assemble(settings, clock, pool, ledger)
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
        await service.desk.group.start()
        try:
            yield service
        finally:
            await service.intake.stop()
            await service.desk.group.stop()
    finally:
        await ledgers.aclose()
        await pool.close()


@asynccontextmanager
async def _open_ledger(settings: Settings, clock: Clock, url: str) -> AsyncIterator[Ledger]:
    """The engine that the settings choose."""
    if settings.tigerbeetle is None:
        yield PostgresLedger(clock)
        return
    # It loads a native library, which others can do without.
    from tallystick.ledger.tigerbeetle.delivery import open_tigerbeetle_ledger

    async with open_tigerbeetle_ledger(url, clock, *settings.tigerbeetle) as ledger:
        yield ledger


def _assemble(settings: Settings, clock: Clock, pool: Pool, ledger: Ledger) -> Service:
    wallets = Wallets(ledger)
    desk = Desk(pool, clock)
    assets = Assets()
    customers = Customers(clock)
    pricing = Pricing(clock, customers)
    directories = Directories(clock, pricing, customers)
    charges = Charges()
    intake = IntakeQueue(pool, Intake(clock, settings.zone, directories, wallets))
    instructions = Instructions(desk, customers, ledger, wallets)  # first: it creates customers, before any posts
    holds = Holds(clock, desk, ledger, wallets, customers.find)
    grants = Grants(clock, desk, ledger, wallets, customers.find)
    agreements = Agreements(clock, desk, customers, ledger, grants)
    return Service(
        settings=settings,
        clock=clock,
        pool=pool,
        ledger=ledger,
        assets=assets,
        display_rates=DisplayRates(clock, assets),
        customers=customers,
        pricing=pricing,
        meters=Meters(clock, pricing),
        wallets=wallets,
        intake=intake,
        settlement=Settlement(pool, pricing, wallets),
        desk=desk,
        instructions=instructions,
        holds=holds,
        grants=grants,
        tiers=Tiers(clock, assets),
        agreements=agreements,
        exchanges=Exchanges(clock, desk, ledger, wallets, customers.find),
        charges=charges,
        bills=Bills(clock, settings.zone, customers, charges),
        transactions=Transactions(clock),
        explain=Explain(pricing),
        verify=Verify(pricing, ledger, pool),
        health=Health(intake, ledger),
        schedule=Schedule(pool, clock, {"agreements": agreements, "grants": grants, "holds": holds}),
        proving=asyncio.Lock(),
    )
