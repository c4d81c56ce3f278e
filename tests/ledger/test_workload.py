"""The engines against each other: a seeded workload on all of them, and small ones that Hypothesis makes up."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tallystick.ledger.contract import AMOUNT_MAX, Account, AccountFlags, Result, Status, Transfer, TransferFlags
from tests.ledger import soak
from tests.ledger.comparison import Difference, Occurrences, compare
from tests.ledger.engines import NO_TIGERBEETLE, ModelEngine, PostgresEngine, engine_named
from tests.ledger.tigerbeetle.server import given_address, given_binary
from tests.ledger.workload import MAX_BATCH, workload


@pytest.mark.parametrize("name", ["postgres", "tigerbeetle"])
@pytest.mark.parametrize(("seed", "transfers", "max_batch"), [(1, 6_000, MAX_BATCH), (2, 4_000, 40)])
@pytest.mark.integration
async def test_an_engine_does_what_the_model_does(
    database_url: str, tmp_path: Path, name: str, seed: int, transfers: int, max_batch: int
) -> None:
    """The same results, balances and history, for a workload in which every status and flag occurs."""
    if name == "tigerbeetle" and not (given_binary() or given_address()):
        pytest.skip(NO_TIGERBEETLE)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(engine_named(name, database_url, tmp_path))
        assert engine is not None
        occurrences = await compare({name: engine}, workload(seed, transfers, max_batch))
    assert occurrences.missing == []
    assert occurrences.statuses.total() == transfers


def test_a_workload_is_the_same_for_the_same_seed() -> None:
    first, again, other = (list(workload(seed, 500)) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert sum(len(batch.transfers) for batch in first) == 500


class Forgetful(ModelEngine):
    """An engine that is wrong once: it says that a transfer moved more, or leaves it out of the sums."""

    def __init__(self, wrong_in: str) -> None:
        super().__init__()
        self._wrong_in = wrong_in

    async def post(self, transfers: Any) -> list[Result]:
        before = dict(self.books.accounts)
        results = await super().post(transfers)
        created = [n for n, result in enumerate(results) if result.status is Status.CREATED and result.amount]
        if created and self._wrong_in == "results":
            results[created[-1]] = results[created[-1]]._replace(amount=results[created[-1]].amount + 1)
        if created and self._wrong_in == "balances":
            self.books.accounts = before
        return results


@pytest.mark.parametrize(("wrong_in", "told"), [("results", "transfer "), ("balances", "after batch ")])
async def test_a_difference_is_found_and_told(wrong_in: str, told: str) -> None:
    with pytest.raises(Difference, match=f"wrong, .*{told}"):
        await compare({"wrong": Forgetful(wrong_in)}, workload(1, 200))


@pytest.mark.integration
async def test_a_history_that_was_changed_is_found(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(engine_named("postgres", database_url, tmp_path))
        assert isinstance(engine, PostgresEngine)
        batches = list(workload(1, 300))

        def tamper(sent: int) -> None:
            if sent == 300:
                with psycopg.connect(database_url) as connection:
                    connection.execute("update ledger_transfers set code = code + 1 where sequence = 3")

        with pytest.raises(Difference, match="another history"):
            await compare({"postgres": engine}, batches, tamper)


# The soak itself


def test_the_soak_on_the_model_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--transfers", "6000", "--seed", "1", "--engines", "model"]) == 0
    told = capsys.readouterr().out
    assert "seed 1: 6,000 transfers on model" in told
    assert all(status.value in told for status in Status)
    assert all(str(flag.name).lower() in told for flag in TransferFlags)


def test_the_soak_fails_if_something_never_occurred(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--transfers", "10", "--seed", "1", "--engines", "model"]) == 1
    assert "seed 1: these never occurred: " in capsys.readouterr().err


def test_the_soak_fails_with_the_seed_and_the_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def differs(*_: object) -> Occurrences:
        raise Difference("postgres, batch 3")

    monkeypatch.setattr(soak, "compare", differs)
    assert soak.main(["--seed", "7", "--engines", "model"]) == 1
    assert "seed 7: postgres, batch 3" in capsys.readouterr().err


def test_the_soak_knows_its_engines() -> None:
    with pytest.raises(SystemExit):
        soak.main(["--engines", "model,abacus"])


# Small examples, made up and shrunk by Hypothesis: few ids and amounts, so that everything meets everything

CUSTOMER = UUID(int=1)
ACCOUNTS = [
    Account(UUID(int=10 + number), CUSTOMER, ledger, 1, flags)
    for number, (ledger, flags) in enumerate(
        [
            (1, AccountFlags.NONE),
            (1, AccountFlags.NONE),
            (1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
            (1, AccountFlags.DEBITS_MUST_NOT_EXCEED_CREDITS),
            (1, AccountFlags.CREDITS_MUST_NOT_EXCEED_DEBITS),
            (840, AccountFlags.NONE),
            (1, AccountFlags.CLOSED),
        ]
    )
]


def ids(*numbers: int) -> st.SearchStrategy[UUID]:
    return st.sampled_from([UUID(int=number) for number in numbers])


account_ids = st.one_of(
    st.sampled_from([account.id for account in ACCOUNTS[:5]]), ids(*(a.id.int for a in ACCOUNTS), 0, 9, 2**128 - 1)
)
usual_flags = st.sampled_from(
    [
        TransferFlags.NONE,
        TransferFlags.PENDING,
        TransferFlags.LINKED,
        TransferFlags.BALANCING_DEBIT,
        TransferFlags.BALANCING_CREDIT,
        TransferFlags.PENDING | TransferFlags.CLOSING_DEBIT,
        TransferFlags.PENDING | TransferFlags.CLOSING_CREDIT,
        TransferFlags.LINKED | TransferFlags.PENDING,
    ]
)
any_flags = st.builds(TransferFlags, st.integers(0, 255))
amounts = st.one_of(
    st.integers(0, 20), st.sampled_from([0, 2**127, AMOUNT_MAX - 5, AMOUNT_MAX]), st.integers(0, AMOUNT_MAX)
)
causes = st.none() | ids(0, 1, 2)
numbers = st.integers(100, 112)
"""Ids of transfers: so few that they come again, and are posted and voided."""

moves = st.builds(
    Transfer,
    numbers.map(lambda number: UUID(int=number)),
    st.just(CUSTOMER),
    account_ids,
    account_ids,
    amounts,
    st.sampled_from([1, 1, 1, 840, 0]),
    st.sampled_from([1, 1, 2, 0]),
    st.one_of(usual_flags, usual_flags, any_flags),
    causes,
    st.none() | ids(0, 100),
)
resolutions = st.builds(
    Transfer,
    numbers.map(lambda number: UUID(int=number)),
    st.just(CUSTOMER),
    st.one_of(ids(0), account_ids),
    st.one_of(ids(0), account_ids),
    st.one_of(st.sampled_from([0, AMOUNT_MAX]), amounts),
    st.sampled_from([0, 0, 1, 840]),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from(
        [
            TransferFlags.POST_PENDING,
            TransferFlags.VOID_PENDING,
            TransferFlags.VOID_PENDING,
            TransferFlags.POST_PENDING | TransferFlags.LINKED,
        ]
    ),
    causes,
    st.one_of(numbers.map(lambda number: UUID(int=number)), numbers.map(lambda number: UUID(int=number)), ids(0)),
)


class Twins(RuleBasedStateMachine):
    """The model and PostgreSQL, which get the same batches; some of them are taken back and come again."""

    database_url = ""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._model = ModelEngine()
        self._sent: list[Transfer] = []
        self._runner.run(self._connect())

    async def _connect(self) -> None:
        """All that happens to the database stays within one transaction, which is taken back in the end."""
        connection = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True)
        self._postgres = PostgresEngine(connection)
        await connection.execute("begin")

    @initialize()
    def accounts_are_opened(self) -> None:
        self._runner.run(self._model.open(ACCOUNTS))
        self._runner.run(self._postgres.open(ACCOUNTS))

    @rule(batch=st.lists(st.one_of(moves, moves, resolutions), min_size=1, max_size=8))
    def a_batch_is_posted(self, batch: list[Transfer]) -> None:
        self._sent += batch
        self._post(batch)

    @rule(amount=st.integers(1, 50), number=numbers)
    def a_limited_account_is_funded(self, amount: int, number: int) -> None:
        bank, _, purse = ACCOUNTS[:3]
        self._post([Transfer(UUID(int=number), CUSTOMER, bank.id, purse.id, amount, 1, 1)])

    @rule(data=st.data())
    def what_was_sent_comes_again(self, data: st.DataObject) -> None:
        if self._sent:
            self._post(data.draw(st.lists(st.sampled_from(self._sent), min_size=1, max_size=5)))

    @invariant()
    def balances_are_the_same(self) -> None:
        model = self._runner.run(self._model.accounts(ACCOUNTS))
        assert self._runner.run(self._postgres.accounts(ACCOUNTS)) == model
        assert sum(account.credit_balance for account in model.values()) == 0

    def teardown(self) -> None:
        self._runner.run(self._postgres.conn.close())
        self._runner.close()

    def _post(self, batch: list[Transfer]) -> None:
        expected = self._runner.run(self._model.post(batch))
        assert self._runner.run(self._postgres.post(batch)) == expected


@pytest.mark.integration
def test_model_and_postgresql_are_twins(database: str) -> None:
    Twins.database_url = database
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
