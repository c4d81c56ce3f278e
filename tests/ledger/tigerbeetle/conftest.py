from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tallystick.database.pool import Pool, open_pool
from tallystick.kernel.clock import TestClock
from tallystick.ledger.tigerbeetle.client import TigerBeetleClient
from tallystick.ledger.tigerbeetle.engine import TigerBeetleLedger
from tests.ledger.tigerbeetle.purse import NOW, Purse, Start, assert_journal_holds, deliver_all
from tests.ledger.tigerbeetle.server import CLUSTER_ID, Server, given_binary, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A TigerBeetle of this module's own: ``TIGERBEETLE_BIN`` names its program."""
    binary = given_binary()
    if binary is None:
        pytest.skip("no TigerBeetle: set TIGERBEETLE_BIN to its program")
    with running(binary, tmp_path_factory.mktemp("tigerbeetle")) as started:
        yield started


@pytest.fixture
async def start(server: Server, database_url: str) -> AsyncIterator[Start]:
    """Makes the ledger of one process, which delivers only when it is told to."""
    async with AsyncExitStack() as opened:

        async def start() -> TigerBeetleLedger:
            client = TigerBeetleClient(CLUSTER_ID, server.address)
            opened.push_async_callback(client.close)
            own = await opened.enter_async_context(await open_pool(database_url, size=3))
            return TigerBeetleLedger(client, own, TestClock(NOW))

        yield start


@pytest.fixture
async def ledger(start: Start, pool: Pool) -> AsyncIterator[TigerBeetleLedger]:
    """The ledger of one process. Whatever the test did, journal and TigerBeetle must agree in the end."""
    made = await start()
    yield made
    await deliver_all(made)
    await assert_journal_holds(pool, made)


@pytest.fixture
def books() -> Purse:
    return Purse()
