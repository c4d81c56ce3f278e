from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.paging import next_cursor, read_cursor

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
