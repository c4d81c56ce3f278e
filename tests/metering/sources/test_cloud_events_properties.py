"""Any event, and any bytes: all gears read the same, and whatever comes is accounted for."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.kernel.errors import TooLarge
from tallystick.metering.sources.cloud_events import read, read_binary
from tests.metering.sources.batches import only_measurement, only_unreadable
from tests.metering.sources.events import ABSENT, HEADERS, JSON, LINES, MANY, NOW, ONE, dump, event

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
numbers_at_a_bound = [10**12, -(10**12), 10**12 + 1, f"1000000000000.{'0' * 29}1", "-1.1e12", 10**18, "9" * 18]
member_values = json_values | st.sampled_from(
    ["1.0", "2026-01-01T00:00:00Z", "1e3", "", " ", "x" * 300, *numbers_at_a_bound, ABSENT]
)
near_events = st.builds(
    lambda data, attributes: event(data, **attributes),
    st.dictionaries(
        st.sampled_from(["value", "kind", "resource", "agent", "unit_price", "x"]), member_values, max_size=2
    ),
    st.dictionaries(
        st.sampled_from(["id", "source", "specversion", "subject", "type", "time", "data", "data_base64", "x"]),
        member_values,
        max_size=2,
    ),
)
content_types = st.sampled_from([JSON, ONE, MANY, LINES, "", "text/plain; charset=utf-8"])


@given(st.lists(near_events | json_values, max_size=6), content_types)
def test_every_item_is_accounted_for(items: list[Any], content_type: str):
    as_lines = content_type == LINES
    body = b"\n".join(map(dump, items)) if as_lines else dump(items)
    batch = read(body, content_type, NOW)
    if as_lines and not items:
        assert only_unreadable(batch).code == "not_json"
        return
    assert len(batch.measurements) == len(batch.indexes)
    assert sorted([*batch.indexes, *(item.index for item in batch.unreadable)]) == list(range(len(items)))
    for item in batch.unreadable:
        assert item.raw.replace(b" ", b"") == dump(items[item.index]).replace(b" ", b"")
        assert item.code
        assert item.detail


@given(st.lists(near_events, max_size=6), st.sampled_from([JSON, MANY]), st.booleans())
@example([event(source=" "), event(source="")], MANY, True)
@example([event(source=" "), event(source="")], JSON, True)
@example([event({"unit_price": price}) for price in numbers_at_a_bound], JSON, True)
def test_all_gears_read_the_same(items: list[dict[str, Any]], content_type: str, ascii_only: bool):
    texts = [json.dumps(item, ensure_ascii=ascii_only).encode(errors="surrogatepass") for item in items]
    whole = read(b"[" + b",".join(texts) + b"]", content_type, NOW)
    one_by_one = read(b"[" + b",".join([*texts, b"0"]) + b"]", content_type, NOW)
    examined = read(b"[" + b",".join([*texts, b'"\\u0000"']) + b"]", content_type, NOW)
    for other in (one_by_one, examined):
        assert repr(other.measurements) == repr(whole.measurements)  # to the digit: Decimal("1") equals Decimal("1.0")
        assert other.indexes == whole.indexes
        assert other.unreadable[:-1] == whole.unreadable


@given(st.binary() | st.text('[]{},:"\\ud81e+-.0\n ').map(str.encode), content_types, st.integers(1, 100))
@example(b'[{"id":"\xf0"}]', JSON, 1)
@example(b'{"id":"\\ud800', ONE, 1)
def test_no_bytes_raise_anything_but_too_large(body: bytes, content_type: str, max_events: int):
    try:
        batch = read(body, content_type, NOW, max_events=max_events)
    except TooLarge:
        return
    assert len(batch.measurements) == len(batch.indexes)
    assert len(batch.measurements) + len(batch.unreadable) <= max_events


@given(
    st.dictionaries(st.text(st.characters(max_codepoint=255), max_size=8).map("ce-{}".format), st.text(max_size=8))
    | st.dictionaries(st.sampled_from(list(HEADERS)), st.text(max_size=8)),
    st.binary(max_size=20) | json_values.map(dump),
)
def test_no_headers_raise_anything(headers: dict[str, str], body: bytes):
    batch = read_binary({**HEADERS, **headers}, body, NOW)
    assert len(batch.measurements) + len(batch.unreadable) == 1


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**17), max_value=10**17, places=12))
def test_any_number_of_sensible_size_is_read_exactly(number: Decimal):
    body = dump(event({"value": "V"})).replace(b'"V"', str(number).encode())
    assert only_measurement(read(body, JSON, NOW)).value == number
