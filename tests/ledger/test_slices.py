"""A long batch is written and sealed in slices; but for the seals nobody can tell."""

from __future__ import annotations

import pytest

from tallystick.database.pool import Connection
from tallystick.ledger import postgres
from tallystick.ledger.contract import Result, Status, TransferFlags
from tallystick.ledger.postgres import PostgresLedger
from tests.ledger.comparison import compare
from tests.ledger.engines import PostgresEngine
from tests.ledger.postgres_rows import ACCOUNTS, BANK, PURSE, SHOP, assert_sealed, resolution, transfer
from tests.ledger.workload import workload

LINKED, PENDING = TransferFlags.LINKED, TransferFlags.PENDING

pytestmark = pytest.mark.integration


async def seals(conn: Connection) -> list[tuple[int, int]]:
    """First and last sequence of each."""
    query = "select first_sequence, last_sequence from ledger_batches order by last_sequence"
    return [(first, last) for first, last in await (await conn.execute(query)).fetchall()]


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_a_sliced_batch_does_what_the_model_does(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Every status and flag: results, balances and history; batches taken back and repeated among them."""
    monkeypatch.setattr(postgres, "SLICE", size)
    batches = list(workload(11, 4_000, 200))
    occurrences = await compare({"postgres": PostgresEngine(conn)}, batches)
    assert occurrences.missing == []
    await assert_sealed(conn)
    assert len(await seals(conn)) > len(batches)


async def test_a_slice_knows_what_the_one_before_it_did(
    conn: Connection, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SLICE", 2)
    await ledger.create_accounts(conn, ACCOUNTS)
    async with conn.transaction():
        results = await ledger.post(
            conn,
            [
                transfer(1, BANK, PURSE, 10),
                transfer(2, PURSE, SHOP, 11),  # more than there is, which may pass
                transfer(2, PURSE, SHOP, 11),
                transfer(3, PURSE, SHOP, 4, PENDING),
                resolution(4, 3, TransferFlags.POST_PENDING, 3),
                transfer(5, PURSE, SHOP, 7),
                transfer(1, BANK, PURSE, 10),
            ],
        )
    assert results == [
        Result(Status.CREATED, 10),
        Result(Status.EXCEEDS_CREDITS),
        Result(Status.ID_ALREADY_FAILED),
        Result(Status.CREATED, 4),
        Result(Status.CREATED, 3),
        Result(Status.CREATED, 7),
        Result(Status.EXISTS, 10),
    ]
    assert await seals(conn) == [(1, 1), (2, 2), (3, 4)]
    await assert_sealed(conn)


async def test_a_chain_is_never_cut(conn: Connection, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "SLICE", 2)
    await ledger.create_accounts(conn, ACCOUNTS)
    async with conn.transaction():
        results = await ledger.post(
            conn,
            [
                transfer(1, BANK, PURSE, 10),
                transfer(2, PURSE, SHOP, 1, LINKED),
                transfer(3, PURSE, SHOP, 1, LINKED),
                transfer(4, PURSE, SHOP, 99),  # breaks the chain that began in the first slice
                transfer(5, PURSE, SHOP, 2),
                transfer(6, PURSE, SHOP, 3, LINKED),
                transfer(7, PURSE, SHOP, 4),
                transfer(8, PURSE, SHOP, 1, LINKED),  # open at the end
            ],
        )
    broken = Result(Status.LINKED_EVENT_FAILED)
    assert results == [
        Result(Status.CREATED, 10),
        broken,
        broken,
        Result(Status.EXCEEDS_CREDITS),
        Result(Status.CREATED, 2),
        Result(Status.CREATED, 3),
        Result(Status.CREATED, 4),
        Result(Status.LINKED_EVENT_CHAIN_OPEN),
    ]
    assert (await ledger.accounts(conn, [(ACCOUNTS[1].customer_id, PURSE)]))[PURSE].credit_balance == 1
    await assert_sealed(conn)
