"""Orders in the name of customers, on every engine: those without a customer are named, and stop no other."""

from __future__ import annotations

from decimal import Decimal

from tallystick.billing.instructions import Instruction
from tallystick.kernel.errors import NotFound
from tallystick.kernel.ids import new_id
from tallystick.ledger.assets import Asset
from tallystick.ledger.desk import Order
from tallystick.ledger.exchange import ExchangeOrder
from tallystick.ledger.grant_model import GrantCredits
from tallystick.ledger.hold_model import PlaceHold
from tallystick.service import Service
from tests.ledger.services import CREDITS, DOLLARS, NOW, UNIT
from tests.metering.books import balance

CREDIT = Asset("CREDIT", CREDITS, "Credit", 6, "cr")
DOLLAR = Asset("USD", DOLLARS, "US Dollar", 2, "$")


def one_of_each(customer: str) -> list[Order]:
    return [
        PlaceHold(new_id(NOW), customer, DOLLARS, UNIT),
        GrantCredits(new_id(NOW), customer, CREDITS, 7 * UNIT),
        ExchangeOrder(new_id(NOW), customer, DOLLAR, CREDIT, 2 * UNIT, Decimal("0.5")),
    ]


async def test_in_a_group_each_order_is_answered_in_its_place(service: Service) -> None:
    await service.instructions.carry_out(Instruction(new_id(NOW), "open", "ada", DOLLARS, 10 * UNIT))
    answers = await service.desk._execute([*one_of_each("nobody"), *one_of_each("ada"), *one_of_each("eve")])
    for customer, missing in (("nobody", answers[:3]), ("eve", answers[6:])):
        assert [(type(one), str(one)) for one in missing] == [(NotFound, f"there is no customer {customer!r}")] * 3
    hold, grant, exchange = answers[3:6]
    assert isinstance(hold, dict)
    assert (hold["state"], hold["ledger"], hold["amount"]) == ("open", DOLLARS, UNIT)
    assert isinstance(grant, dict)
    assert grant["balance"] == str(7 * UNIT)
    assert isinstance(exchange, dict)
    assert exchange["received"] == UNIT
    dollars, credits_ = await balance(service, "ada", ledger=DOLLARS), await balance(service, "ada")
    assert (dollars.balance, dollars.held, credits_.balance) == (8 * UNIT, UNIT, 8 * UNIT)


async def test_a_group_in_the_name_of_nobody_moves_nothing(service: Service) -> None:
    answers = await service.desk._execute(one_of_each("nobody"))
    assert {type(answer) for answer in answers} == {NotFound}
