"""The client of TigerBeetle: what it packs, what it splits, and what it does when nobody answers.

What needs a server asks for TIGERBEETLE_BIN, its program.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tigerbeetle import bindings

from tallystick.kernel.errors import InvalidInput
from tallystick.ledger.contract import (
    AMOUNT_MAX,
    BATCH_MAX,
    Account,
    AccountFlags,
    LedgerRefusal,
    LedgerUnavailable,
    Result,
    Status,
    Transfer,
    TransferFlags,
)
from tallystick.ledger.tigerbeetle.addresses import Cluster, parse_addresses, parse_cluster, resolve
from tallystick.ledger.tigerbeetle.chains import chain_start, chains
from tallystick.ledger.tigerbeetle.client import IN_FLIGHT_MAX, TigerBeetleClient, pack_accounts, pack_transfers
from tests.ledger.tigerbeetle.server import CLUSTER_ID, Server

CUSTOMER = UUID(int=7)
ids = st.uuids(allow_nil=True)
transfers = st.builds(
    Transfer,
    ids,
    ids,
    ids,
    ids,
    st.integers(0, AMOUNT_MAX),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**15 - 1),
    st.sampled_from([TransferFlags(bits) for bits in range(1 << 8)]),
    st.none() | ids,
    st.none() | ids,
)


@given(st.lists(transfers, max_size=4))
def test_transfers_are_packed_as_the_package_would(given_: list[Transfer]) -> None:
    expected = b"".join(
        bytes(
            bindings.CTransfer.from_param(
                bindings.Transfer(
                    id=t.id.int,
                    debit_account_id=t.debit_account_id.int,
                    credit_account_id=t.credit_account_id.int,
                    amount=t.amount,
                    pending_id=t.pending_id.int if t.pending_id else 0,
                    user_data_128=t.cause_id.int if t.cause_id else 0,
                    ledger=t.ledger,
                    code=t.code,
                    flags=bindings.TransferFlags(int(t.flags)),
                )
            )
        )
        for t in given_
    )
    assert bytes(pack_transfers(given_)) == expected


@given(ids, ids, st.integers(0, 2**31 - 1), st.integers(0, 2**15 - 1), st.sampled_from(AccountFlags))
def test_accounts_are_packed_as_the_package_would(
    id_: UUID, customer_id: UUID, ledger: int, code: int, flags: AccountFlags
) -> None:
    expected = bindings.CAccount.from_param(
        bindings.Account(
            id=id_.int,
            user_data_128=customer_id.int,
            ledger=ledger,
            code=code,
            flags=bindings.AccountFlags(int(flags)),
        )
    )
    assert bytes(pack_accounts([Account(id_, customer_id, ledger, code, flags)])) == bytes(expected)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 30))
def test_a_chain_is_never_cut(linked: list[bool], size: int) -> None:
    batch = [
        Transfer(UUID(int=n), CUSTOMER, CUSTOMER, CUSTOMER, 1, 1, 1, TransferFlags(link))
        for n, link in enumerate(linked)
    ]
    pieces = list(chains(batch))
    assert [n for start, end in pieces for n in range(start, end)] == list(range(len(batch)))
    assert all(linked[n] for start, end in pieces for n in range(start, end - 1))
    assert not any(linked[end - 1] for _, end in pieces[:-1])
    end = min(size, len(batch))
    if any(0 < cut <= end for cut in (e for s, e in pieces if not linked[e - 1])):
        cut = chain_start(batch, 0, end)
        assert cut == max(e for _, e in pieces if e <= end and not linked[e - 1])
    else:
        with pytest.raises(LedgerRefusal):
            chain_start(batch, 0, end)


def test_addresses() -> None:
    assert parse_addresses("a:1, 10.0.0.2:65535,[::1]:3,b") == [("a", 1), ("10.0.0.2", 65535), ("::1", 3), ("b", 3000)]
    assert parse_cluster("tigerbeetle://7@a:1,b:2") == Cluster(7, "a:1,b:2")


@pytest.mark.parametrize(
    "text", ["", "a:0", "a:65536", "a:x", "a b:1", "a:1,", "a:1:2", "u@a:1", "a/b:1", ",".join(["a:1"] * 7)]
)
def test_addresses_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_addresses(text)
    with pytest.raises(InvalidInput):
        TigerBeetleClient(0, text)


@pytest.mark.parametrize(
    "text", ["tigerbeetle://a:1", "tigerbeetle://x@a:1", f"tigerbeetle://{2**128}@a:1", "postgresql://0@a:1", "-1@a:1"]
)
def test_clusters_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_cluster(text)


async def test_names_become_addresses() -> None:
    assert await resolve([("localhost", 3000), ("::1", 1)]) == "127.0.0.1:3000,[::1]:1"
    with pytest.raises(LedgerUnavailable, match="no-such-host"):
        await resolve([("no-such-host.invalid", 1)])


# With a server.


Connect = Callable[..., TigerBeetleClient]


@pytest.fixture
async def connect(server: Server) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as opened:

        def connect(cluster_id: int = CLUSTER_ID, timeout_seconds: int = 30) -> TigerBeetleClient:
            client = TigerBeetleClient(cluster_id, server.address, timeout_seconds=timeout_seconds)
            opened.push_async_callback(client.close)
            return client

        yield connect


async def some_accounts(client: TigerBeetleClient, count: int = 2) -> list[Account]:
    accounts = [Account(uuid4(), CUSTOMER, 1, 1) for _ in range(count)]
    await client.create_accounts(accounts)
    return accounts


def between(accounts: list[Account], count: int) -> list[Transfer]:
    debit, credit = accounts[0].id, accounts[1].id
    return [Transfer(uuid4(), CUSTOMER, debit, credit, n, 1, 1) for n in range(count)]


async def test_a_batch_greater_than_the_cluster_takes_at_once_is_split(connect: Connect) -> None:
    """A cluster in development mode takes some 250 transfers: chains stay whole, and the answers are in order."""
    client = connect()
    accounts = await some_accounts(client, 1_000)
    batch = between(accounts, BATCH_MAX)
    for n in range(0, BATCH_MAX - 7, 7):  # chains of seven, of which every fourth fails
        for m in range(n, n + 6):
            batch[m] = batch[m]._replace(flags=TransferFlags.LINKED)
        if n % 4 == 0:
            batch[n + 6] = batch[n + 6]._replace(ledger=2)
    results = await client.create_transfers(batch)
    for n in range(0, BATCH_MAX - 7, 7):
        statuses = [result.status for result in results[n : n + 7]]
        wrong = [Status.LINKED_EVENT_FAILED] * 6 + [Status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS]
        assert statuses == (wrong if n % 4 == 0 else [Status.CREATED] * 7)
    found = await client.lookup_accounts([account.id for account in accounts])
    assert len(found) == 1_000
    assert found[accounts[0].id].debits_posted == sum(result.amount for result in results if result.stands)


async def test_too_many_transfers_are_refused(connect: Connect) -> None:
    client = connect()
    with pytest.raises(LedgerRefusal):
        await client.create_transfers(between(await some_accounts(client), BATCH_MAX + 1))


async def test_an_answer_that_the_contract_does_not_know_is_named(connect: Connect) -> None:
    client = connect()
    (transfer,) = between(await some_accounts(client), 1)
    imported = transfer._replace(flags=TransferFlags(1 << 8))
    with pytest.raises(LedgerRefusal, match="imported_event_timestamp"):
        await client.create_transfers([imported])
    with pytest.raises(LedgerRefusal, match="ledger_must_not_be_zero"):
        await client.create_accounts([Account(uuid4(), CUSTOMER, 0, 1)])


async def test_transfers_are_found_as_they_stand(connect: Connect) -> None:
    client = connect()
    (hold,) = between(await some_accounts(client), 1)
    hold = hold._replace(amount=9, flags=TransferFlags.PENDING, cause_id=uuid4())
    nil = UUID(int=0)
    post = Transfer(uuid4(), CUSTOMER, nil, nil, AMOUNT_MAX, 0, 0, TransferFlags.POST_PENDING, None, hold.id)
    assert await client.create_transfers([hold, post]) == [Result(Status.CREATED, 9)] * 2
    found = await client.lookup_transfers([hold.id, post.id, uuid4()])
    stands = hold._replace(customer_id=nil, id=post.id, flags=post.flags, pending_id=hold.id)
    assert found == {hold.id: hold._replace(customer_id=nil), post.id: stands}


async def test_nothing_asked_is_nothing_sent(connect: Connect) -> None:
    client = connect()
    assert (await client.create_transfers([]), await client.lookup_accounts([])) == ([], {})
    await client.create_accounts([])


async def test_more_requests_than_may_be_under_way_wait_for_their_turn(connect: Connect) -> None:
    client = connect()
    accounts = await some_accounts(client)
    answers = await asyncio.gather(*(client.create_transfers(between(accounts, 3)) for _ in range(2 * IN_FLIGHT_MAX)))
    assert {result.status for results in answers for result in results} == {Status.CREATED}


async def test_a_cluster_that_does_not_answer_is_away_until_it_does(server: Server, connect: Connect) -> None:
    """What was sent is carried out late, nobody waits for ever, and who comes meanwhile is told at once."""
    client, patient = connect(timeout_seconds=1), connect()
    accounts = await some_accounts(patient)
    late, meanwhile = between(accounts, 3), between(accounts, 3)
    await client.lookup_accounts([accounts[0].id])
    server.signal(signal.SIGSTOP)
    try:
        with pytest.raises(LedgerUnavailable, match="did not answer within 1 s"):
            await client.create_transfers(late)
        assert client.away
        with pytest.raises(LedgerUnavailable):
            await client.create_transfers(meanwhile)
    finally:
        server.signal(signal.SIGCONT)
    await client.until_back()
    assert await client.create_transfers(late) == [Result(Status.EXISTS, n) for n in range(3)]
    assert await client.create_transfers(meanwhile) == [Result(Status.CREATED, n) for n in range(3)]


async def test_a_server_that_is_killed_and_started_again_has_kept_everything(server: Server, connect: Connect) -> None:
    client, impatient = connect(), connect(timeout_seconds=1)
    accounts = await some_accounts(client)
    batch = between(accounts, 10)
    await client.create_transfers(batch)
    server.kill()
    try:
        with pytest.raises(LedgerUnavailable):
            await impatient.lookup_accounts([accounts[0].id])
    finally:
        server.start()
    await impatient.until_back()
    assert await impatient.create_transfers(batch) == [Result(Status.EXISTS, n) for n in range(10)]


async def test_a_name_server_that_does_not_answer_is_asked_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, so nothing can come late and say that the cluster is back."""
    client = connect(timeout_seconds=3)

    async def hangs(*_args: object, **_kwargs: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", hangs)
        with pytest.raises(LedgerUnavailable):
            await client.lookup_accounts([uuid4()])
    assert not client.away
    assert await client.lookup_accounts([uuid4()]) == {}


async def test_closing_does_not_wait_for_answers(server: Server, connect: Connect) -> None:
    client = connect()
    accounts = await some_accounts(client)
    server.signal(signal.SIGSTOP)
    try:
        asked = [asyncio.create_task(client.create_transfers(between(accounts, 5))) for _ in range(IN_FLIGHT_MAX + 5)]
        await asyncio.sleep(0)  # let them start
        await client.close()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        server.signal(signal.SIGCONT)
    assert {type(answer) for answer in answers} == {LedgerUnavailable}
    with pytest.raises(LedgerUnavailable, match="closed"):
        await client.lookup_accounts([accounts[0].id])
    await client.close()


async def test_whoever_gives_up_waiting_harms_nobody(server: Server, connect: Connect) -> None:
    client = connect()
    accounts = await some_accounts(client)
    server.signal(signal.SIGSTOP)
    try:
        asked = asyncio.create_task(client.create_transfers(between(accounts, 5)))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    finally:
        server.signal(signal.SIGCONT)
    assert len(await client.lookup_accounts([account.id for account in accounts])) == 2


async def test_another_cluster_does_not_answer(connect: Connect) -> None:
    client = connect(CLUSTER_ID + 1, timeout_seconds=1)
    with pytest.raises(LedgerUnavailable, match=f"cluster {CLUSTER_ID + 1}"):
        await client.lookup_accounts([uuid4()])


async def test_a_client_whose_session_was_ended_gets_a_new_one(connect: Connect) -> None:
    """A cluster keeps 64 sessions: whoever is the 65th takes the place of the oldest."""
    client = connect()
    accounts = await some_accounts(client)
    wanted = [account.id for account in accounts]
    for _ in range(64):
        other = connect()
        await other.lookup_accounts(wanted)
        await other.close()
    with pytest.raises(LedgerUnavailable, match="ended this client's session"):
        await client.lookup_accounts(wanted)
    assert len(await client.lookup_accounts(wanted)) == 2
