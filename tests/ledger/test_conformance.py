"""Every case of ``conformance*.py`` on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tallystick.ledger.contract import AccountFlags, Status, TransferFlags
from tests.conftest import new_database
from tests.ledger import conformance_chains, conformance_pending, conformance_transfers
from tests.ledger.conformance import CAST, Case, run
from tests.ledger.engines import ENGINES, NO_TIGERBEETLE, Engine, engine_named

CASES = [*conformance_transfers.CASES, *conformance_pending.CASES, *conformance_chains.CASES]


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=[] if name == "model" else [pytest.mark.integration]) for name in ENGINES],
)
async def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """One for all cases, which keep out of each other's way by their ids."""
    async with AsyncExitStack() as stack:
        database_url = ""
        if request.param == "postgres":
            server, template = (request.getfixturevalue(f"database_{part}") for part in ("server", "template"))
            database_url = stack.enter_context(new_database(server, template))
        folder = Path(tmp_path_factory.mktemp("tigerbeetle"))
        engine = await stack.enter_async_context(engine_named(request.param, database_url, folder))
        if engine is None:
            pytest.skip(NO_TIGERBEETLE)
        yield engine


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
async def test_every_engine_answers_as_tigerbeetle_does(engine: Engine, case: Case) -> None:
    await run(case, engine)


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_status_has_a_case() -> None:
    assert {step.expected.status for case in CASES for step in case.steps} == set(Status)


def test_every_flag_stands_in_the_books_of_a_case() -> None:
    standing = [step.flags for case in CASES for step in case.steps if step.expected.status is Status.CREATED]
    assert {flag for flag in TransferFlags if any(flag in flags for flags in standing)} == set(TransferFlags)
    assert {flag for flag in AccountFlags if any(flag in flags for _, flags in CAST.values())} == set(AccountFlags)
