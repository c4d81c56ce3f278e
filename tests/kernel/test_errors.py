from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

import tallystick
from tallystick.kernel.errors import InvalidInput, Overloaded, TallyError


def error_classes() -> list[type[TallyError]]:
    for module in pkgutil.walk_packages(tallystick.__path__, "tallystick."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return sorted(set(descendants(TallyError)), key=lambda error: f"{error.__module__}.{error.__qualname__}")


def descendants(error: type[TallyError]) -> Iterator[type[TallyError]]:
    yield error
    for child in error.__subclasses__():
        yield from descendants(child)


def test_every_error_has_a_code_and_a_status_that_clients_can_rely_on() -> None:
    for error in error_classes():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", error.code), error
        assert 400 <= HTTPStatus(error.status) <= 599, error


def test_one_code_never_means_two_statuses() -> None:
    statuses: dict[str, set[int]] = {}
    for error in error_classes():
        statuses.setdefault(error.code, set()).add(error.status)
    assert {code: found for code, found in statuses.items() if len(found) > 1} == {}


def test_an_error_is_its_sentence_and_names_its_field() -> None:
    error = InvalidInput("amount must not be negative", field="amount")
    assert str(error) == error.detail == "amount must not be negative"
    assert error.field == "amount"
    assert InvalidInput("no").field is None


def test_who_is_refused_for_load_is_told_when_to_come_again() -> None:
    assert Overloaded("the queue is full").retry_after_seconds == 1
    assert Overloaded("the queue is full", retry_after_seconds=7).retry_after_seconds == 7


def test_errors_are_caught_by_their_kind() -> None:
    with pytest.raises(TallyError):
        raise Overloaded("the queue is full")
