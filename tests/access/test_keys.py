"""Who is let in by which key, and what the others are told."""

from __future__ import annotations

import pytest

from tallystick.access.keys import Demand, Keys, MissingKey, NoKeysConfigured, RefusedKey
from tallystick.kernel.errors import TallyError

KEYS = Keys(clients=frozenset({"shop", "both"}), admins=frozenset({"boss", "both"}))
NO_KEYS = Keys(frozenset(), frozenset())
FORMAT = "Invalid Authorization header format. Use: Bearer <api_key>"


@pytest.mark.parametrize(
    ("demand", "key"),
    [
        (Demand.CLIENT, "shop"),
        (Demand.CLIENT, "both"),
        (Demand.ANY, "shop"),
        (Demand.ANY, "boss"),
        (Demand.ADMIN, "boss"),
        (Demand.ADMIN, "both"),
    ],
)
def test_the_right_key_is_let_in(demand: Demand, key: str) -> None:
    KEYS.check(demand, f"Bearer {key}")
    KEYS.check(demand, f"bearer   {key} ")


@pytest.mark.parametrize(
    ("keys", "demand", "header", "refusal", "text"),
    [
        (KEYS, Demand.ANY, None, MissingKey, "Missing Authorization header"),
        (KEYS, Demand.ANY, "", MissingKey, FORMAT),
        (KEYS, Demand.ANY, "shop", MissingKey, FORMAT),
        (KEYS, Demand.ANY, "Bearer", MissingKey, FORMAT),
        (KEYS, Demand.ANY, "Bearer  ", MissingKey, FORMAT),
        (KEYS, Demand.ANY, "Token shop", MissingKey, FORMAT),
        (KEYS, Demand.ANY, "Bearer nobody", RefusedKey, "Invalid API key"),
        (KEYS, Demand.ANY, "Bearer sho", RefusedKey, "Invalid API key"),
        (KEYS, Demand.ANY, "Bearer \udcff", RefusedKey, "Invalid API key"),
        (KEYS, Demand.CLIENT, "Bearer boss", RefusedKey, "Invalid API key"),
        (KEYS, Demand.ADMIN, "Bearer shop", RefusedKey, "Admin API key required for this endpoint"),
        (KEYS, Demand.ADMIN, "Bearer nobody", RefusedKey, "Invalid API key"),
        (NO_KEYS, Demand.ANY, "Bearer shop", NoKeysConfigured, "Service not configured - no API keys available"),
        (NO_KEYS, Demand.CLIENT, None, NoKeysConfigured, "Service not configured - no API keys available"),
        (NO_KEYS, Demand.ADMIN, "Bearer x", NoKeysConfigured, "Admin API keys not configured for this endpoint"),
    ],
)
def test_everybody_else_is_told_why_not(
    keys: Keys, demand: Demand, header: str | None, refusal: type[TallyError], text: str
) -> None:
    with pytest.raises(refusal) as caught:
        keys.check(demand, header)
    assert str(caught.value) == text


def test_a_set_of_keys_alone_is_enough_for_what_it_may_do() -> None:
    only_admins = Keys(frozenset(), frozenset({"boss"}))
    only_admins.check(Demand.ANY, "Bearer boss")
    with pytest.raises(NoKeysConfigured):
        only_admins.check(Demand.CLIENT, "Bearer boss")
    only_clients = Keys(frozenset({"shop"}), frozenset())
    only_clients.check(Demand.ANY, "Bearer shop")
    with pytest.raises(NoKeysConfigured, match="Admin API keys not configured for this endpoint"):
        only_clients.check(Demand.ADMIN, "Bearer shop")


def test_other_schemes_hold_where_they_are_named() -> None:
    KEYS.check(Demand.ANY, "Token shop", ("bearer", "token"))
    KEYS.check(Demand.NOTHING, None)
