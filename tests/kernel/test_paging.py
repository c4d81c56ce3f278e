from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.paging import Page, newest_first, next_cursor, read_cursor, read_newest_first

storable = st.text(max_size=20).filter(lambda text: "\0" not in text)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@given(st.lists(storable, min_size=1, max_size=4))
def test_a_cursor_leads_back_to_its_place(place: list[str]) -> None:
    cursor = next_cursor(*place)
    assert read_cursor(cursor, len(place)) == tuple(place)
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_no_cursor_is_the_start() -> None:
    assert read_cursor(None, 3) is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "a",
        "****",
        "é",
        "\ud800",
        encoded("{}"),
        encoded('"a"'),
        encoded("[1]"),
        encoded("[null]"),
        encoded('[["a"]]'),
        encoded('["a","b"]'),
        encoded("[]"),
        encoded(r'["\u0000"]'),
        encoded(r'["\ud800"]'),
        encoded(r'["\udc00\ud800abcdef"]'),
        encoded("[" * 40_000),
        encoded("[" + "1" * 40_000 + "]"),
    ],
)
def test_what_no_page_gave_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_cursor(cursor, 1)
    assert str(refused.value) == "cursor must be one that a page of this list gave"
    assert refused.value.field == "cursor"


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_cursor_breaks_it(cursor: str) -> None:
    try:
        place = read_cursor(cursor, 1)
    except InvalidInput:
        return
    assert place is not None
    place[0].encode()


Place = tuple[datetime, UUID]
moments = st.integers(0, 10**16).map(lambda n: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=n))


@given(st.sets(st.tuples(moments, st.uuids()), max_size=12), st.integers(1, 5))
def test_pages_that_are_newest_first_show_everything_once_and_in_order(places: set[Place], limit: int) -> None:
    ordered = sorted(places, reverse=True)
    shown: list[Place] = []
    cursor: str | None = None
    while True:
        before = read_newest_first(cursor)
        found = [place for place in ordered if place < before][: limit + 1]
        page: Page[Place] = newest_first(found, limit, lambda place: place)
        shown += page.items
        if (cursor := page.next) is None:
            break
        assert len(page.items) == limit
    assert shown == ordered


@pytest.mark.parametrize("place", [("yesterday", str(UUID(int=1))), ("2026-03-01T12:00:00+00:00", "1"), ("a",), ()])
def test_a_cursor_of_another_list_is_refused(place: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_newest_first(next_cursor(*place))
    assert str(refused.value) == "cursor must be one that a page of this list gave"
    assert refused.value.field == "cursor"
