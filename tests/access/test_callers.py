"""What a caller may do, whatever it has shown."""

from __future__ import annotations

from uuid import UUID

import pytest

from tallystick.access.callers import (
    EVERYTHING,
    NOBODY,
    Caller,
    OtherAgent,
    OtherCustomer,
    Scope,
    ScopeRequired,
)
from tallystick.metering.model import Sender

ADA, BOT = UUID(int=1), UUID(int=2)
OF_ADA = Caller(frozenset({Scope.USAGE_WRITE}), Sender(ADA, "ada"))
OF_BOT = Caller(frozenset({Scope.USAGE_WRITE}), Sender(ADA, "ada", BOT, "Bot@example.org"))
OPERATOR = Caller(frozenset({Scope.BILLING_READ}))


def has(caller: Caller, scope: Scope) -> bool:
    try:
        caller.need(scope)
    except ScopeRequired:
        return False
    return True


@pytest.mark.parametrize("scope", Scope)
def test_admin_stands_for_all_but_wipe_and_no_other_for_any_but_itself(scope: Scope) -> None:
    wanted = set(Scope) - {Scope.WIPE} if scope is Scope.ADMIN else {scope}
    assert {other for other in Scope if has(Caller(frozenset({scope})), other)} == wanted
    assert has(EVERYTHING, scope)
    assert not has(NOBODY, scope)


def test_who_stands_for_a_customer_stands_for_no_other() -> None:
    OF_ADA.need_customer("ada", "user_id")
    OF_ADA.need_customer_of_id(ADA)
    for key in ("bob", "Ada", "ada ", str(ADA)):
        with pytest.raises(OtherCustomer) as refused:
            OF_ADA.need_customer(key, "user_id")
        assert refused.value.field == "user_id"
    for customer_id in (BOT, None):
        with pytest.raises(OtherCustomer):
            OF_ADA.need_customer_of_id(customer_id)
    OPERATOR.need_customer("bob", "user_id")
    OPERATOR.need_customer_of_id(None)


def test_an_agent_stands_for_itself() -> None:
    assert OF_BOT.agent(None) == str(BOT)
    for named in (str(BOT), str(BOT).upper(), "bot@example.org", "BOT@EXAMPLE.ORG"):
        assert OF_BOT.agent(named) == named
    for named in ("", "eve@example.org", str(ADA)):
        with pytest.raises(OtherAgent):
            OF_BOT.agent(named)
    assert (OF_ADA.agent(None), OF_ADA.agent("anybody"), OPERATOR.agent("anybody")) == (None, "anybody", "anybody")
