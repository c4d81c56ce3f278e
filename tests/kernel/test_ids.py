from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.ids import derived_id, measurement_id, new_id

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HIGH_64_BITS = ((1 << 64) - 1) << 64

sources = st.text(max_size=20)
instants = st.timedeltas(timedelta(0), timedelta(days=365 * 8000)).map(datetime(1970, 1, 1, tzinfo=UTC).__add__)
uuid7s = instants.map(new_id)
other_ids = st.text(max_size=40).filter(lambda text: len(text) != 36)


# new_id


def test_a_new_id_is_a_version_7_uuid_of_its_instant() -> None:
    made = new_id(NOON + timedelta(milliseconds=123))
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == int(NOON.timestamp()) * 1000 + 123


@given(instants, instants)
def test_new_ids_are_ordered_by_the_clock_to_the_millisecond(one: datetime, other: datetime) -> None:
    milliseconds = [instant.replace(microsecond=instant.microsecond // 1000 * 1000) for instant in (one, other)]
    if milliseconds[0] < milliseconds[1]:
        assert new_id(one) < new_id(other)
    if milliseconds[0] == milliseconds[1]:
        assert new_id(one).int >> 80 == new_id(other).int >> 80


def test_new_ids_of_one_instant_differ() -> None:
    assert len({new_id(NOON) for _ in range(10_000)}) == 10_000


# derived_id


@pytest.mark.parametrize(
    ("parts", "others"),
    [
        (("ab", "c"), ("a", "bc")),
        (("abc",), ("ab", "c")),
        (("a", ""), ("", "a")),
        (("a",), ("a", "")),
        ((), ("",)),
        (("a", "b"), ("b", "a")),
        (("a\0", "b"), ("a", "\0b")),
    ],
)
def test_parts_cut_or_ordered_differently_are_another_cause(parts: tuple[str, ...], others: tuple[str, ...]) -> None:
    assert derived_id(*parts) != derived_id(*others)


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_a_derived_id_names_exactly_its_parts(parts: list[str], others: list[str]) -> None:
    assert (derived_id(*parts) == derived_id(*others)) == (parts == others)


def test_a_derived_id_is_the_same_in_every_version() -> None:
    """A retry derives the id of what is stored: a change would charge it twice. (Values from ``b2sum -l 128``.)"""
    assert derived_id("idempotency", "key-1") == UUID("dc005c50-7773-49ba-36ed-8dbf6c2a4578")
    assert derived_id("account", UUID(int=1), b"\xff") == UUID("9b3e0c39-0546-e9aa-108e-859961b91f35")


# measurement_id


@given(sources, st.uuids())
def test_a_senders_uuid_keeps_its_leading_64_bits(source: str, sender: UUID) -> None:
    assert measurement_id(source, str(sender)) & HIGH_64_BITS == sender.int & HIGH_64_BITS


@given(sources, st.uuids(), st.integers(0, (1 << 128) - 1))
def test_two_uuids_of_one_source_never_collide(source: str, sender: UUID, bits: int) -> None:
    """Mixing in the source is a bijection: what differs before differs after, in the same bits."""
    other = UUID(int=sender.int ^ bits)
    assert measurement_id(source, str(sender)) ^ measurement_id(source, str(other)) == bits


@given(sources, uuid7s, uuid7s)
def test_time_ordered_uuids_stay_ordered(source: str, one: UUID, other: UUID) -> None:
    earlier, later = sorted([one, other])
    if earlier.int >> 64 != later.int >> 64:
        assert measurement_id(source, str(earlier)) < measurement_id(source, str(later))


@given(sources, sources, st.uuids().map(str) | other_ids)
def test_the_same_id_of_another_source_is_another_measurement(one: str, other: str, sender: str) -> None:
    assert (measurement_id(one, sender) == measurement_id(other, sender)) == (one == other)


@given(sources, other_ids, other_ids)
def test_other_ids_are_told_apart(source: str, one: str, other: str) -> None:
    assert (measurement_id(source, one) == measurement_id(source, other)) == (one == other)
    assert 0 <= measurement_id(source, one) < 1 << 128


def test_a_uuid_in_capitals_is_the_same_uuid() -> None:
    sender = "0198f0a0-7b1c-7d2e-8f3a-4b5c6d7e8f90"
    assert measurement_id("s", sender) == measurement_id("s", sender.upper())


@pytest.mark.parametrize(
    "sender",
    [
        "0198f0a07b1c7d2e8f3a4b5c6d7e8f90",  # pragma: allowlist secret
        "{198f0a0-7b1c-7d2e-8f3a-4b5c6d7e8f9}",
        "0198f0a0-7b1c-7d2e-8f3a-4b5c6d7e8f9g",
        "0198f0a0-7b1c-7d2e-8f3a-4b5c6d7e8f9\n",
        "0198f0a-07b1c-7d2e-8f3a-4b5c6d7e8f90",
        "０198f0a0-7b1c-7d2e-8f3a-4b5c6d7e8f90",  # noqa: RUF001  # a digit, but not one of a UUID
    ],
)
def test_what_only_looks_like_a_uuid_is_hashed(sender: str) -> None:
    assert measurement_id("s", sender) == derived_id("measurement", "s", sender).int
