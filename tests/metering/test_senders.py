"""What a sender may send of a batch, and what becomes of the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from tallystick.metering.model import Batch, Measurement, Sender, Unreadable
from tallystick.metering.senders import limited

AT = datetime(2026, 11, 20, tzinfo=UTC)
BOT = UUID(int=2)
ADA = Sender(UUID(int=1), "ada")
ADAS_BOT = Sender(UUID(int=1), "ada", BOT, "bot@example.org")
BROKEN = Unreadable(1, b"{", "malformed", "it is no JSON")


def used(customer: str, agent: str = "") -> Measurement:
    return Measurement("events", f"{customer}/{agent}", customer, "tokens", AT, Decimal(1), agent=agent)


def batch(*measurements: Measurement) -> Batch:
    """With something that nobody could read in its second place."""
    places = [place for place in range(len(measurements) + 1) if place != BROKEN.index]
    return Batch("events", list(measurements), places, [BROKEN])


def test_whoever_may_send_everything_does() -> None:
    sent = batch(used("ada"), used("bob"))
    assert limited(sent, None) is sent


def test_usage_of_others_is_kept_in_its_place_with_its_sender() -> None:
    allowed = limited(batch(used("ada"), used("bob"), used("ada", "anybody"), used("Ada")), ADA)
    assert (allowed.measurements, allowed.indexes) == ([used("ada"), used("ada", "anybody")], [0, 3])
    assert not allowed.creates_meters
    broken, bobs, other = allowed.unreadable
    assert broken == msgspec.structs.replace(BROKEN, sender=ADA)
    assert (bobs.index, bobs.code, bobs.sender) == (2, "other_customer", ADA)
    assert "'ada'" in bobs.detail
    assert "'bob'" in bobs.detail
    assert (other.index, other.code) == (4, "other_customer")
    assert msgspec.json.decode(bobs.raw, type=Measurement) == used("bob")


@pytest.mark.parametrize("named", ["bot@example.org", "Bot@Example.Org", str(BOT)])
def test_an_agent_sends_as_itself(named: str) -> None:
    assert limited(batch(used("ada", named)), ADAS_BOT).measurements == [used("ada", named)]


def test_usage_that_names_no_agent_is_that_of_the_agent_who_sends_it() -> None:
    (signed,) = limited(batch(used("ada")), ADAS_BOT).measurements
    assert signed == msgspec.structs.replace(used("ada"), agent=str(BOT))


def test_an_agent_sends_for_no_other() -> None:
    allowed = limited(batch(used("ada", "eve@example.org"), used("bob", str(BOT))), ADAS_BOT)
    assert allowed.measurements == []
    assert [(piece.index, piece.code) for piece in allowed.unreadable] == [
        (0, "other_agent"),
        (1, "malformed"),
        (2, "other_customer"),
    ]


@pytest.mark.parametrize("negative", [{"value": Decimal("-0.1")}, {"unit_price": Decimal("-0.1")}])
def test_only_an_operator_takes_usage_back(negative: dict[str, Decimal]) -> None:
    sent = Batch("events", [msgspec.structs.replace(used("ada"), **negative)], [0], [])
    for sender in (ADA, ADAS_BOT):
        (piece,) = limited(sent, sender).unreadable
        assert (piece.code, piece.sender) == ("negative_usage", sender)
    assert limited(sent, None).measurements == sent.measurements
