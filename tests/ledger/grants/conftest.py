from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tallystick.database.pool import Connection
from tallystick.kernel.clock import TestClock
from tallystick.ledger import remaining
from tallystick.ledger.grant_model import Standing
from tallystick.ledger.remaining import Wallet
from tallystick.ledger.wallets import Balance
from tallystick.service import Service
from tests.ledger.grants.bank import Bank
from tests.metering.books import create_customer, create_price, fetch


@pytest.fixture
async def service(service: Service) -> AsyncIterator[Service]:
    """A service with a price. Whatever the test did with it, its books must agree with the grants in the end."""
    await create_price(service, model={"type": "per_unit", "amount": "0.000001"})
    yield service
    await assert_grants_agree(service)


@pytest.fixture(params=["prepaid", "postpaid"])
async def anyone(request: pytest.FixtureRequest, service: Service, clock: TestClock) -> Bank:
    """A customer under either policy."""
    await create_customer(service, "ada", credit_policy=request.param)
    return Bank(service, clock)


@pytest.fixture
async def prepaid(service: Service, clock: TestClock) -> Bank:
    await create_customer(service, "ada", credit_policy="prepaid")
    return Bank(service, clock)


@pytest.fixture
async def postpaid(service: Service, clock: TestClock) -> Bank:
    await create_customer(service, "ada")
    return Bank(service, clock)


async def assert_grants_agree(service: Service) -> None:
    """Every wallet folded from its beginning: what is left sums up to its balance, and to what is shown; every ended
    grant that is done with has nothing left; nothing was taken away that was not left.
    """
    payers = await fetch(service, "select distinct customer_id, ledger from ledger_accounts")
    async with service.pool.connection() as conn, conn.transaction(force_rollback=True):
        shown = {wallet: {s.grant.id: s for s in await _standings(service, conn, wallet)} for wallet in payers}
        await conn.execute("delete from grant_checkpoints")
        folded = await remaining.fold(conn, payers)
    for wallet, down in folded.wallets.items():
        left = down.remaining()
        (standing,) = (await _balances(service, wallet)) or (Balance(wallet[1], 0, 0, 0, 0),)
        assert left.balance == standing.wallet
        for grant_id, one in shown[wallet].items():
            assert one.remaining == left.of.get(grant_id, 0), "a checkpoint says otherwise than the books"
            assert one.taken == sum(down.taken(grant_id))
            assert one.used >= 0
            assert one.remaining == 0 or one.grant.state == "granted" or one.grant.due_at is not None


async def _balances(service: Service, wallet: Wallet) -> list[Balance]:
    async with service.pool.connection() as conn:
        return await service.wallets.balances(conn, wallet[0], [wallet[1]])


async def _standings(service: Service, conn: Connection, wallet: Wallet) -> list[Standing]:
    page = await service.grants.page(conn, wallet[0], None, None, 1000)
    return [standing for standing in page.items if standing.grant.ledger == wallet[1]]
