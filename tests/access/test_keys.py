"""Keys of the configuration: which are known, what their holders may do, and how one stands in its header."""

from __future__ import annotations

import pytest

from tallystick.access.callers import Scope
from tallystick.access.keys import FORMAT, OF_CLIENTS, Keys, MissingKey, key_in

KEYS = Keys(clients=frozenset({"shop", "both"}), admins=frozenset({"boss", "both"}))


@pytest.mark.parametrize("header", ["Bearer shop", "bearer shop", "BEARER   shop "])
def test_the_scheme_is_written_in_any_case(header: str) -> None:
    assert key_in(header) == "shop"


@pytest.mark.parametrize("header", ["", "shop", "Bearer", "Bearer  ", "Token shop", "Basic c2hvcDo="])
def test_another_format_is_refused_in_the_words_of_the_credits_service(header: str) -> None:
    with pytest.raises(MissingKey) as refused:
        key_in(header)
    assert (refused.value.detail, refused.value.status) == (FORMAT, 401)


def test_no_header_is_another_thing() -> None:
    with pytest.raises(MissingKey, match=r"^Missing Authorization header$"):
        key_in(None)


def test_other_schemes_hold_where_they_are_named() -> None:
    assert key_in("Token shop", ("bearer", "token")) == "shop"


def test_clients_and_administrators_are_two_sets() -> None:
    shop, boss, both = (KEYS.caller(key) for key in ("shop", "boss", "both"))
    assert shop is not None
    assert boss is not None
    assert both is not None
    assert shop.scopes == OF_CLIENTS
    assert boss.scopes == {Scope.ADMIN}
    assert both.scopes == OF_CLIENTS | {Scope.ADMIN}
    assert all(caller.sender is None for caller in (shop, boss, both))
    assert len({shop.id, boss.id, both.id}) == 3


@pytest.mark.parametrize("key", ["", "sho", "shopp", "SHOP", "nobody", "\udcff", "ü"])
def test_nobody_else_is_known(key: str) -> None:
    assert KEYS.caller(key) is None


def test_without_keys_there_are_none() -> None:
    assert not Keys(frozenset(), frozenset())
    assert Keys(frozenset(), frozenset()).caller("shop") is None
    assert Keys(frozenset(), frozenset({"boss"}))


def test_a_key_is_not_shown_where_the_set_is() -> None:
    known = Keys(frozenset({"planted-secret"}), frozenset())  # pragma: allowlist secret
    caller = known.caller("planted-secret")
    assert "planted-secret" not in repr(caller)
