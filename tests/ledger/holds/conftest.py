from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tallystick.service import Service
from tests.ledger.holds.user import User
from tests.metering.books import fetch


@pytest.fixture
async def service(service: Service) -> AsyncIterator[Service]:
    """A service. Whatever the test did with it, its books must agree with the holds in the end."""
    yield service
    await assert_holds_agree(service)


@pytest.fixture
def user(service: Service) -> User:
    return User(service)


async def assert_holds_agree(service: Service) -> None:
    """Every hold has a pending transfer of its amount; what was closed is resolved, with what the hold says."""
    rows = await fetch(
        service,
        "select h.state, h.amount, h.settled_amount, h.excess, t.amount, t.flags, r.flags & 12, r.amount, e.amount"
        " from holds as h full join"
        " (select * from ledger_transfers where code = 6 and flags & 2 <> 0) as t on t.id = h.id"
        " left join ledger_transfers as r on r.customer_id = t.customer_id and r.pending_id = t.id"
        " left join ledger_transfers as e on e.customer_id = t.customer_id and e.cause_id = t.id and e.code = 6",
    )
    for state, amount, settled, excess, pending, flags, resolved, moved, beyond in rows:
        if state is None:
            assert resolved == 8, "credits are held for nobody"
            continue
        assert (pending, flags) == (amount, 2)
        expected = {"open": (None, None), "settled": (4, settled)}.get(state, (8, amount))
        assert (resolved, moved) == expected, state
        assert (beyond or 0) == excess
