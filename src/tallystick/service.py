"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from tallystick.access.directory import KeyDirectory
from tallystick.access.service import ApiKeys
from tallystick.billing.agreements import Agreements, Tiers
from tallystick.billing.bills import Bills
from tallystick.billing.grant_ends import GrantEnds
from tallystick.billing.instructions import Instructions
from tallystick.billing.payers import Payers
from tallystick.billing.platform_ledger import PlatformLedger
from tallystick.billing.posting import Postings
from tallystick.billing.transactions import Transactions
from tallystick.billing.usage_tree import UsageTrees
from tallystick.customers.agents import Agents
from tallystick.customers.hierarchy import Hierarchy
from tallystick.customers.service import Customers
from tallystick.database.migrate import migrate
from tallystick.database.pool import Pool, open_pool
from tallystick.jobs import measuring, posting, pulling
from tallystick.jobs.books_clock import hurried, moving_clock, standing_clock
from tallystick.jobs.due import Due, Dues
from tallystick.jobs.kinds import Kind
from tallystick.jobs.measuring import Measuring
from tallystick.jobs.metrics import job_metrics
from tallystick.jobs.notices import NoticesDue, notice_kinds
from tallystick.jobs.posting import PostUsage
from tallystick.jobs.pruning import Pruning
from tallystick.jobs.pulling import PullUsage
from tallystick.jobs.queue import Jobs
from tallystick.jobs.rehearsal import Rehearsal
from tallystick.jobs.schedule import schedule_of
from tallystick.jobs.timetable import Timetable
from tallystick.jobs.webhooks import PruneWebhooks
from tallystick.jobs.worker import Worker
from tallystick.kernel.clock import Clock, TestClock
from tallystick.kernel.errors import InvalidInput
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
from tallystick.metering.blocking import Blocking
from tallystick.metering.charges import Charges
from tallystick.metering.cloud_foundry import install_cloud_foundry_meters
from tallystick.metering.directory import Directories
from tallystick.metering.intake import Intake
from tallystick.metering.kinds import Kinds
from tallystick.metering.openstack import install_openstack_meters
from tallystick.metering.organizations import Organizations
from tallystick.metering.pulls import Plan, Pulls
from tallystick.metering.readings import Readings
from tallystick.metering.resources import Resources
from tallystick.metering.series import open_series
from tallystick.metering.service import IntakeQueue, Meters
from tallystick.metering.sources.cloud_foundry import CloudFoundry
from tallystick.metering.sources.cloud_foundry_client import Account
from tallystick.metering.sources.prometheus import Reader
from tallystick.metering.waiting import Settlement
from tallystick.notices.service import Notices
from tallystick.notices.spending import Spending
from tallystick.notices.watch import Watch
from tallystick.operations.explain import Explain
from tallystick.operations.health import Health
from tallystick.operations.metrics import (
    Metrics,
    Source,
    ignored_samples,
    notice_counts,
    outbox_lag,
    pull_lag,
    webhook_lag,
)
from tallystick.operations.stats import Stats
from tallystick.operations.traffic import Traffic
from tallystick.operations.verify import Verify
from tallystick.outbox.accounts import Accounts
from tallystick.outbox.address import Address
from tallystick.outbox.admissions import Admissions
from tallystick.outbox.facts import Facts
from tallystick.outbox.service import Outbox
from tallystick.outbox.webhooks.courier import delivering
from tallystick.outbox.webhooks.service import Webhooks
from tallystick.pricing.service import Pricing
from tallystick.settings import Settings

if TYPE_CHECKING:
    from tallystick.outbox.broker import Messaging


class Access(NamedTuple):
    """Who may call: the keys of the database, and how the gate finds them."""

    keys: ApiKeys
    directory: KeyDirectory


@dataclass(frozen=True)
class Service:
    """All parts, ready to work."""

    settings: Settings
    clock: Clock
    pool: Pool
    access: Access
    ledger: Ledger
    assets: Assets
    display_rates: DisplayRates
    customers: Customers
    hierarchy: Hierarchy
    agents: Agents
    accounts: Accounts
    """Creates, changes and deletes customers and agents, and tells."""
    admissions: Admissions
    """Creates accounts and agents that many ask for at once."""
    outbox: Outbox
    messaging: Messaging | None
    """What passes between us and the broker, if there is one."""
    webhooks: Webhooks
    notices: Notices
    pricing: Pricing
    meters: Meters
    kinds: Kinds
    resources: Resources
    cloud_foundry: CloudFoundry | None
    organizations: Organizations
    readings: Readings
    wallets: Wallets
    intake: IntakeQueue
    prometheus: Reader
    pulls: Pulls
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
    postings: Postings
    payers: Payers
    usage_trees: UsageTrees
    transactions: Transactions
    platform_ledger: PlatformLedger
    explain: Explain
    verify: Verify
    health: Health
    traffic: Traffic
    """Counts what passes the HTTP surface."""
    metrics: Metrics
    stats: Stats
    due: Dues
    """What has a time of its own. `tally serve` looks after it; tests have it done by hand."""
    jobs: Jobs
    worker: Worker
    rehearsal: Rehearsal | None
    """Moves the test clock, for the service that was opened to do so."""
    proving: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the books are verified on somebody's request: it reads all of them."""

    @asynccontextmanager
    async def at_work(self, *, worker: bool) -> AsyncIterator[None]:
        """Meanwhile things happen by time: what falls due, and jobs, unless a ``worker`` elsewhere runs them."""
        async with AsyncExitStack() as duties:
            if worker:
                await self.pulls.begin()
                await duties.enter_async_context(delivering(self.pool, self.webhooks))
            await duties.enter_async_context(self.webhooks.watched(self.pool))
            if self.messaging is not None:
                await duties.enter_async_context(self.messaging.running())
            if self.rehearsal is not None:
                await duties.enter_async_context(self.rehearsal.running())
            else:
                await duties.enter_async_context(self.due.running())
                if worker:
                    await duties.enter_async_context(self.worker.running())
            yield


@asynccontextmanager
async def open_service(
    settings: Settings, url: str, clock: Clock | None = None, *, rehearse_from: datetime | None = None
) -> AsyncIterator[Service]:
    """Migrates the database at ``url``, opens everything, finishes what was left half done; closes it in the end.

    Without a ``clock``, the service lives by that of the books. With ``rehearse_from`` they live by a test clock, which
    this service moves; new books begin there.
    """
    await asyncio.to_thread(migrate, url)
    async with AsyncExitStack() as resources:
        moving = None
        if rehearse_from is not None:
            moving = await resources.enter_async_context(moving_clock(url, rehearse_from))
        pool = await open_pool(hurried(url) if moving else url, size=settings.database_pool_size)
        resources.push_async_callback(pool.close)
        async with pool.connection() as conn, conn.transaction():
            await home.enter(conn, settings.tigerbeetle)
            clock = clock or moving or await standing_clock(conn)
        watch = Watch(clock, Outbox(is_on=settings.enable_events), mail_is_on=settings.mail_server is not None)
        ledger = await resources.enter_async_context(_open_ledger(settings, clock, url, watch))
        service = _assemble(settings, clock, pool, ledger, watch, moving, url)
        async with pool.connection() as conn, conn.transaction():
            await install_openstack_meters(
                conn,
                service.meters,
                Pricing(clock, service.customers),  # what comes with the house is no news
                vcpu_credit_per_hour=settings.vcpu_credit_per_hour,
                ram_credit_per_hour=settings.ram_credit_per_hour,
                precision=settings.os_credits_precision,
            )
            if service.cloud_foundry is not None:
                await install_cloud_foundry_meters(conn, service.meters)
            await service.webhooks.look(conn)
        await service.settlement.settle()
        await service.intake.start()
        await service.desk.group.start()
        await service.admissions.group.start()
        try:
            yield service
        finally:
            await service.intake.stop()
            await service.desk.group.stop()
            await service.admissions.group.stop()


@asynccontextmanager
async def _open_ledger(settings: Settings, clock: Clock, url: str, watch: Watch) -> AsyncIterator[Ledger]:
    """The engine that the settings choose. Where balances are kept elsewhere a job looks at them."""
    if settings.tigerbeetle is None:
        yield PostgresLedger(clock, watch)
        return
    # It loads a native library, which others can do without.
    from tallystick.ledger.tigerbeetle.delivery import open_tigerbeetle_ledger

    async with open_tigerbeetle_ledger(url, clock, *settings.tigerbeetle) as ledger:
        yield ledger


def cloud_foundry_of(settings: Settings) -> CloudFoundry | None:
    """The Cloud Foundry platform that the settings name. Raises ``InvalidInput`` if they do not name its account."""
    url, client_id, secret = settings.cf_api_url, settings.cf_client_id, settings.cf_client_secret
    if url is None:
        return None
    if client_id is None or secret is None:
        names = {"TALLY_CF_CLIENT_ID": client_id, "TALLY_CF_CLIENT_SECRET": secret}
        missing = " and ".join(name for name, value in names.items() if value is None)
        raise InvalidInput(f"TALLY_CF_API_URL needs {missing} too")
    return CloudFoundry(Account(url, client_id, secret.get_secret_value()))


def pull_plan_of(settings: Settings) -> Plan | None:
    """Which Prometheus the settings have asked every hour; ``None`` if none."""
    if settings.prometheus_url is None:
        return None
    return Plan(
        url=settings.prometheus_url,
        token=None if settings.prometheus_token is None else settings.prometheus_token.get_secret_value(),
        step=timedelta(seconds=settings.pull_step_seconds),
        overlap=timedelta(seconds=settings.pull_overlap_seconds),
        since=settings.pull_since,
    )


def broker_of(settings: Settings) -> Address | None:
    """The broker that the settings name, if they want events. Raises ``InvalidInput`` if they name none then."""
    if not settings.enable_events:
        return None
    if settings.broker_url is None:
        raise InvalidInput("TALLY_ENABLE_EVENTS needs TALLY_CLOUDAMQP_URL too")
    return Address(settings.broker_url.get_secret_value(), settings.broker_retries, settings.broker_timeout_seconds)


def _assemble(
    settings: Settings, clock: Clock, pool: Pool, ledger: Ledger, watch: Watch, moving: TestClock | None, url: str
) -> Service:
    people = _people(settings, clock, ledger, watch)
    customers, pricing, notices = people.customers, people.pricing, people.notices
    wallets, assets, spending = Wallets(ledger), Assets(), Spending(clock, settings.zone, watch)
    charges, transactions, display_rates = Charges(), Transactions(clock), DisplayRates(clock, assets)
    intake = _intake(settings, clock, pool, wallets, people)
    messaging = _messaging(settings, clock, pool, people.accounts, intake, url)
    asked, orders = _asked(settings, clock, pool, intake, people), _orders(clock, pool, people, ledger, wallets)
    postings = Postings(pool, clock, settings.zone, pricing, wallets, people.facts)
    of_notices = notice_kinds(pool, clock, ledger, watch, spending, notices, settings.mail_server)
    jobs = _jobs(settings, clock, pool, asked, postings, of_notices)
    due = _dues(pool, clock, orders, postings, NoticesDue(jobs, notices, spending))
    timetable, traffic = _timetable(settings), Traffic()
    sources = _sources(settings, clock, jobs, asked, messaging)
    return Service(
        settings=settings,
        clock=clock,
        pool=pool,
        access=Access(ApiKeys(clock), KeyDirectory(pool, url, clock)),
        ledger=ledger,
        assets=assets,
        display_rates=display_rates,
        customers=customers,
        hierarchy=Hierarchy(),
        agents=people.agents,
        accounts=people.accounts,
        admissions=Admissions(pool, customers, people.accounts),
        outbox=people.outbox,
        messaging=messaging,
        webhooks=people.webhooks,
        notices=notices,
        pricing=pricing,
        meters=Meters(clock, pricing),
        kinds=Kinds(clock),
        resources=asked.resources,
        cloud_foundry=asked.cloud_foundry,
        organizations=Organizations(),
        readings=asked.readings,
        wallets=wallets,
        intake=intake,
        prometheus=asked.prometheus,
        pulls=asked.pulls,
        settlement=Settlement(pool, pricing, wallets),
        desk=orders.desk,
        instructions=orders.instructions,
        holds=orders.holds,
        grants=orders.grants,
        tiers=Tiers(clock, assets),
        agreements=orders.agreements,
        exchanges=orders.exchanges,
        charges=charges,
        bills=Bills(clock, settings.zone, customers, charges),
        postings=postings,
        payers=Payers(clock, customers, pricing, assets, ledger, wallets, postings),
        usage_trees=UsageTrees(clock, customers, Hierarchy(), assets, display_rates),
        transactions=transactions,
        platform_ledger=PlatformLedger(transactions, settings.zone),
        explain=Explain(pricing),
        verify=Verify(pricing, ledger, pool),
        health=Health(intake, ledger, messaging),
        traffic=traffic,
        metrics=Metrics(pool, intake, orders.desk, ledger, traffic, sources),
        stats=Stats(intake),
        due=due,
        jobs=jobs,
        worker=_worker(settings, clock, pool, jobs, timetable),
        rehearsal=Rehearsal(pool, moving, due, jobs, timetable) if moving else None,
    )


class _People(NamedTuple):
    """Who is metered and at what prices, and who hears of it."""

    customers: Customers
    agents: Agents
    pricing: Pricing
    accounts: Accounts
    outbox: Outbox
    facts: Facts
    """Hears what happens in the rooms below the outbox."""
    webhooks: Webhooks
    notices: Notices


def _people(settings: Settings, clock: Clock, ledger: Ledger, watch: Watch) -> _People:
    outbox, agents = watch.outbox, Agents(clock)
    facts = Facts(clock, outbox)
    customers = Customers(clock, facts)
    pricing = Pricing(clock, customers, facts)
    accounts = Accounts(clock, customers, agents, pricing, Blocking(pricing, agents), outbox)
    webhooks = Webhooks(
        clock, customers, outbox, settings.webhook_territory, disable_after_days=settings.webhook_disable_days
    )
    notices = Notices(clock, Assets(), ledger, watch, settings.office, mail_is_on=settings.mail_server is not None)
    return _People(customers, agents, pricing, accounts, outbox, facts, webhooks, notices)


def _intake(settings: Settings, clock: Clock, pool: Pool, wallets: Wallets, people: _People) -> IntakeQueue:
    directories = Directories(clock, people.pricing, people.customers)
    return IntakeQueue(pool, Intake(clock, settings.zone, directories, wallets, people.facts))


class _Asked(NamedTuple):
    """Whatever is asked for usage, or reads it, and where its resources stand."""

    resources: Resources
    cloud_foundry: CloudFoundry | None
    readings: Readings
    prometheus: Reader
    pulls: Pulls


def _asked(settings: Settings, clock: Clock, pool: Pool, intake: IntakeQueue, people: _People) -> _Asked:
    resources = Resources(clock, people.customers)
    cloud_foundry = cloud_foundry_of(settings)
    sources = [cloud_foundry] if cloud_foundry else []
    readings = Readings(pool, clock, intake, resources, people.customers, sources, listener=people.facts)
    prometheus = Reader(open_series(settings.series_file, settings.whitelist))
    pulls = Pulls(pool, clock, intake, prometheus, pull_plan_of(settings))
    return _Asked(resources, cloud_foundry, readings, prometheus, pulls)


class _Orders(NamedTuple):
    """The desk, and whoever takes orders from it."""

    desk: Desk
    instructions: Instructions
    holds: Holds
    grants: Grants
    agreements: Agreements
    exchanges: Exchanges


def _orders(clock: Clock, pool: Pool, people: _People, ledger: Ledger, wallets: Wallets) -> _Orders:
    """In the order in which orders of one group are carried out: instructions create customers, before any posts."""
    customers, facts = people.customers, people.facts
    desk = Desk(pool, clock)
    instructions = Instructions(desk, customers, ledger, wallets, facts)
    holds = Holds(clock, desk, ledger, wallets, customers.find)
    grants = Grants(clock, desk, ledger, wallets, customers.find, facts)
    agreements = Agreements(clock, desk, customers, ledger, grants)
    return _Orders(
        desk, instructions, holds, grants, agreements, Exchanges(clock, desk, ledger, wallets, customers.find)
    )


def _messaging(
    settings: Settings, clock: Clock, pool: Pool, accounts: Accounts, intake: IntakeQueue, url: str
) -> Messaging | None:
    if (address := broker_of(settings)) is None:
        return None
    # They load a client of RabbitMQ, which others can do without.
    from tallystick.outbox.broker import Duty, Messaging
    from tallystick.outbox.compliance import Compliance
    from tallystick.outbox.publisher import Publisher
    from tallystick.outbox.usage import Usage

    duties: dict[str, Duty] = {
        "events": Publisher(url),
        "orders": Compliance(pool, accounts),
        "usage": Usage(intake, clock),
    }
    return Messaging(address, duties)


def _timetable(settings: Settings) -> Timetable:
    follows, pulls = settings.tigerbeetle is not None, settings.prometheus_url is not None
    return Timetable(schedule_of(follows_ledger=follows, pulls_usage=pulls), settings.zone)


def _dues(pool: Pool, clock: Clock, orders: _Orders, postings: Postings, notices: NoticesDue) -> Dues:
    """What has a time of its own."""
    ends = GrantEnds(orders.grants, postings)
    due: dict[str, Due] = {"agreements": orders.agreements, "grants": ends, "holds": orders.holds, "notices": notices}
    return Dues(pool, clock, due)


def _jobs(settings: Settings, clock: Clock, pool: Pool, asked: _Asked, postings: Postings, others: list[Kind]) -> Jobs:
    """The queue, and all kinds of jobs."""
    kinds = [
        Kind(measuring.NAME, Measuring(asked.readings).run),
        Kind(posting.NAME, PostUsage(postings, settings.zone).run, timeout_seconds=posting.TIMEOUT_SECONDS),
        Kind(pulling.NAME, PullUsage(asked.pulls).run, timeout_seconds=pulling.TIMEOUT_SECONDS),
        *others,
        Kind("prune-webhooks", PruneWebhooks(pool, keep_days=settings.keep_deliveries_days).run),
        Kind("prune-jobs", Pruning(pool, clock, keep_days=settings.keep_jobs_days).run),
    ]
    return Jobs(pool, kinds, attempts=settings.job_attempts, first_pause_seconds=settings.job_retry_seconds)


def _worker(settings: Settings, clock: Clock, pool: Pool, jobs: Jobs, timetable: Timetable) -> Worker:
    return Worker(
        pool,
        clock,
        jobs,
        timetable,
        concurrency=settings.worker_concurrency,
        lost_after_seconds=settings.worker_lost_seconds,
    )


def _sources(settings: Settings, clock: Clock, jobs: Jobs, asked: _Asked, messaging: Messaging | None) -> list[Source]:
    """Of metrics that are asked for at each scrape."""
    return [
        job_metrics(jobs.names, lost_after_seconds=settings.worker_lost_seconds),
        ignored_samples(asked.prometheus),
        pull_lag(clock, asked.pulls),
        outbox_lag(clock, messaging),
        notice_counts,
        webhook_lag(),
    ]
