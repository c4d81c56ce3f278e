from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tallystick.kernel.errors import TooLarge
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.sources.cloud_events import MAX_COMMAS, STRICT_SOURCE, read, read_binary
from tests.metering.sources.batches import only_measurement, only_unreadable
from tests.metering.sources.events import (
    ABSENT,
    HEADERS,
    JSON,
    LINES,
    MANY,
    MEASUREMENT,
    NOW,
    ONE,
    dump,
    event,
    read_json,
)

# Formats


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (ONE, dump(event())),
        (MANY, dump([event()])),
        (ONE, dump([event()])),
        (MANY, dump(event())),
        (JSON, dump(event())),
        (JSON, dump([event()])),
        (JSON, b" \r\n\t" + dump([event()]) + b"\n"),
        (JSON, b"\xef\xbb\xbf" + dump([event()])),
        (JSON, b"\xef\xbb\xbf" + dump(event())),
        (JSON, json.dumps(event(), indent=2).encode()),
        (LINES, dump(event())),
        ("application/ndjson", dump(event()) + b"\n"),
        ("application/jsonl", b"\r\n" + dump(event()) + b"\r\n\r\n"),
        ("Application/CloudEvents+JSON; Charset=UTF-8", dump(event())),
        ("application/json;charset=latin1", dump(event())),
        ("", dump(event())),
        ("text/plain", dump([event()])),
        ("application/x-www-form-urlencoded", dump(event())),
    ],
)
def test_every_format_gives_the_same_measurement(content_type: str, body: bytes):
    batch = read(body, content_type, NOW)
    assert only_measurement(batch) == MEASUREMENT
    assert batch.source == "events"


@pytest.mark.parametrize("content_type", [LINES, JSON, "", "text/plain"])
def test_lines_are_counted_as_they_stand_whatever_they_are_called(content_type: str):
    body = b"\r\n".join([dump(event(id="a")), b"", b'{"id": "b"}', b"  ", dump(event(id="c")), b""])
    batch = read(body, content_type, NOW)
    assert [measurement.sender_id for measurement in batch.measurements] == ["a", "c"]
    assert batch.indexes == [0, 4]
    assert [(item.index, item.raw, item.code) for item in batch.unreadable] == [(2, b'{"id": "b"}', "missing_field")]


def test_two_values_in_one_line_are_no_event():
    body = dump(event(id="a")) + b"\n" + dump(event(id="b")) + b" " + dump(event(id="c"))
    batch = read(body, LINES, NOW)
    assert batch.indexes == [0]
    assert [(item.index, item.code) for item in batch.unreadable] == [(1, "not_json")]


def test_only_what_is_called_cloudevents_must_have_source_and_specversion():
    plain = event(source=ABSENT, specversion=ABSENT)
    assert only_measurement(read_json(plain)).source == "events:"
    for content_type in (ONE, MANY):
        assert only_unreadable(read_json(plain, content_type)).detail == "source is required"
    unversioned = only_unreadable(read_json(event(specversion=ABSENT), ONE))
    assert (unversioned.code, unversioned.detail) == ("missing_field", "specversion is required")


def test_unknown_members_are_ignored():
    extended = event({"note": {"deep": [1.5, None]}}, datacontenttype="text/plain", traceparent="00-1")
    assert only_measurement(read_json(extended)) == MEASUREMENT


def test_null_is_absence():
    measurement = only_measurement(
        read_json(
            event(
                {"kind": None, "resource": None, "agent": None, "unit_price": None},
                time=None,
                source=None,
                specversion=None,
                data_base64=None,
            )
        )
    )
    assert measurement == Measurement("events:", "e1", "acme", "tokens", NOW, Decimal(7))


def test_of_two_members_with_one_name_the_last_counts():
    body = dump(event())[:-1] + b',"id":"e2"}'
    assert only_measurement(read(body, JSON, NOW)).sender_id == "e2"


def test_structured_and_binary_events_of_the_official_sdk():
    attributes = {
        "id": 'é1 "q" 100%',
        "source": "/gateway",
        "type": "tokens",
        "specversion": "1.0",
        "subject": "müller 😀",
        "time": datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
        "datacontenttype": "application/json",
    }
    sent = CloudEvent(attributes, {"value": "1.50", "kind": "model-x"})
    structured, binary = to_structured(sent, JSONFormat()), to_binary(sent, JSONFormat())
    expected = Measurement(
        source="events:/gateway",
        sender_id='é1 "q" 100%',
        customer="müller 😀",
        meter="tokens",
        at=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
        value=Decimal("1.50"),
        kind="model-x",
    )
    assert only_measurement(read(structured.body, structured.headers["content-type"], NOW)) == expected
    assert only_measurement(read_binary(binary.headers, binary.body, NOW)) == expected


# Refusals


@pytest.mark.parametrize(
    ("value", "content_type", "code", "detail"),
    [
        (1, JSON, "not_an_object", "an event must be a JSON object"),
        ("x", JSON, "not_an_object", "an event must be a JSON object"),
        (None, JSON, "not_an_object", "an event must be a JSON object"),
        ([event()], JSON, "not_an_object", "an event must be a JSON object"),
        ({}, JSON, "missing_field", "id is required"),
        (event(id=None), JSON, "missing_field", "id is required"),
        (event(subject=ABSENT), JSON, "missing_field", "subject is required"),
        (event(type=ABSENT), JSON, "missing_field", "type is required"),
        (event(source=""), MANY, "text_empty", "source must not be empty"),
        (event(specversion="0.3"), JSON, "invalid_field", 'specversion must be "1.0"'),
        (event(specversion=1.0), MANY, "invalid_field", 'specversion must be "1.0"'),
        (event(data=ABSENT), JSON, "missing_field", "data is required"),
        (event(data=None), JSON, "missing_field", "data is required"),
        (event(data=[1]), JSON, "invalid_field", "data must be a JSON object"),
        (event(data="e30="), JSON, "invalid_field", "data must be a JSON object"),
        (event({"value": ABSENT}), JSON, "missing_field", "data.value is required"),
        (event({"value": None}), JSON, "missing_field", "data.value is required"),
        (event(data_base64="e30="), MANY, "invalid_field", "data must be a JSON object; data_base64 is not read"),
    ],
)
def test_an_event_is_refused_with_the_field_and_the_rule(value: object, content_type: str, code: str, detail: str):
    good = event(id="good")
    batch = read_json([good, value, good], content_type)
    assert batch.indexes == [0, 2]
    reader = STRICT_SOURCE if content_type == MANY else None
    assert batch.unreadable == [Unreadable(1, dump(value), code, detail, reader)]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'"\\ud800"', "not_an_object"),
        (b'{"id":"\\uD83D\\ude00 \\ud800"}', "text_not_storable"),
        (b'{"id":"\\uDC00"}', "text_not_storable"),
        (b'{"id" : "\xff"}', "text_not_storable"),
        (b'{"id" : "\xed\xa0\x80"}', "text_not_storable"),
        (b'{"id":"\\\\ud800", "n":"\\ud800"}', "missing_field"),
        (b'[[], [{"id":"\\ud800"}, [ ]]]', "not_an_object"),
    ],
)
def test_a_broken_text_in_one_event_leaves_its_neighbours_alone_and_is_kept_as_it_came(raw: bytes, code: str):
    good = dump(event())
    for body in (b"[%s,%s]" % (raw, good), b" [ %s ,\n%s , %s ] " % (good, raw, good)):
        batch = read(body, JSON, NOW)
        assert set(batch.measurements) == {MEASUREMENT}
        assert [(item.raw, item.code) for item in batch.unreadable] == [(raw, code)]
        assert len(batch.measurements) == body.count(good)


def test_a_broken_text_in_an_ignored_member_does_no_harm():
    body = b"[" + dump(event()) + b"," + dump(event())[:-1] + b',"note":"\\ud800 \\u0000"}]'
    batch = read(body, JSON, NOW)
    assert batch.measurements == [MEASUREMENT, MEASUREMENT]


@pytest.mark.parametrize("content_type", [JSON, ONE, MANY, LINES, ""])
@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
def test_an_empty_body_is_unreadable_as_a_whole(content_type: str, body: bytes):
    unreadable = only_unreadable(read(body, content_type, NOW))
    reader = STRICT_SOURCE if content_type in (ONE, MANY) else None
    assert unreadable == Unreadable(0, body, "not_json", "the body must not be empty", reader)


NO_JSON = [
    b"hello",
    b"<xml/>",
    b"a,b\n1,2",
    b"{'id':1}",
    b'{"id":',
    b"[NaN]",
    b"[01]",
    b'["\\q"]',
    b'["\\ud8zz"]',
    b'["\n"]',
]
BROKEN_ARRAYS = [
    b"[",
    b"[1,]",
    b"[1 2]",
    b"[{}",
    b"[{},tru]",
    b"[1]x",
    b'[{"id":"a"},{"id":"b]',
    dump([event()] * 2)[:-1],
]


@pytest.mark.parametrize("body", [*NO_JSON, *BROKEN_ARRAYS])
def test_a_body_that_is_not_json_is_unreadable_as_a_whole(body: bytes):
    unreadable = only_unreadable(read(body, JSON, NOW))
    assert (unreadable.index, unreadable.raw, unreadable.code) == (0, body, "not_json")
    assert "must be JSON: " in unreadable.detail


def test_an_empty_array_is_an_empty_batch():
    assert read(b"[]", JSON, NOW) == Batch("events", [], [], [])


def test_a_line_that_is_not_json_leaves_its_neighbours_alone():
    batch = read(b"%s\n{\n%s\n\xff" % (dump(event()), dump(event())), LINES, NOW)
    assert batch.indexes == [0, 2]
    assert [(item.index, item.raw, item.code) for item in batch.unreadable] == [
        (1, b"{", "not_json"),
        (3, b"\xff", "text_not_storable"),
    ]


# Limits


@pytest.mark.parametrize("bad", [[], [1]])
def test_more_events_than_allowed_are_too_large(bad: list[object]):
    events: list[object] = [event(id=str(number)) for number in range(10 - len(bad))]
    assert len(read(dump(events + bad), JSON, NOW, max_events=10).measurements) == 10 - len(bad)
    with pytest.raises(TooLarge, match="at most 9 events"):
        read(dump(events + bad), JSON, NOW, max_events=9)


def test_more_lines_than_allowed_are_too_large():
    body = b"\n".join([dump(event())] * 10)
    for ending in (b"", b"\n"):
        assert len(read(body + ending, LINES, NOW, max_events=10).measurements) == 10
        with pytest.raises(TooLarge, match="at most 9 lines"):
            read(body + ending, LINES, NOW, max_events=9)


@pytest.mark.parametrize("item", [b"1", b"{}", b"[]", b'""'])
def test_a_body_of_nothing_but_values_is_refused_before_they_are_built(item: bytes):
    body = b"[" + item + (b"," + item) * (MAX_COMMAS + 1) + b"]"
    with pytest.raises(TooLarge, match="commas"):
        read(body, JSON, NOW)


def test_few_events_may_be_rich_in_other_members():
    rich = event({"samples": list(range(10_000))})
    assert only_measurement(read(dump([rich]), JSON, NOW, max_events=1)) == MEASUREMENT


@pytest.mark.parametrize("start", [b"[", b'{"a":', b'[{"a":', b'{"data":', b'{"data":{"value":'])
@pytest.mark.parametrize("closed", [True, False])
def test_a_body_that_is_nested_too_deeply_is_too_large(start: bytes, closed: bool):
    body = start + b"[" * 100_000 + (b"]" * 100_000 if closed else b"")
    for content_type in (JSON, ONE, MANY, ""):
        with pytest.raises(TooLarge, match="nested"):
            read(body, content_type, NOW)


def test_a_line_that_is_nested_too_deeply_leaves_its_neighbours_alone():
    deep = b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    batch = read(dump(event()) + b"\n" + deep, LINES, NOW)
    assert batch.measurements == [MEASUREMENT]
    assert [(item.index, item.code) for item in batch.unreadable] == [(1, "too_deep")]


# Binary mode

DATA = dump(event()["data"])


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        ("acme", "acme"),
        ("a%20b%C3%A9%25", "a bé%"),
        ('"a b"', "a b"),
        ('"a \\"b\\" \\\\"', 'a "b" \\'),
        ('"', '"'),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
    ],
)
def test_binary_mode_decodes_headers_as_the_binding_says(header: str, subject: str):
    measurement = only_measurement(read_binary({**HEADERS, "ce-subject": header}, DATA, NOW))
    assert measurement.customer == subject


@pytest.mark.parametrize("body", [DATA, b" " + DATA + b"\r\n", b"\xef\xbb\xbf" + DATA])
def test_binary_mode_gives_the_same_measurement(body: bytes):
    assert only_measurement(read_binary(HEADERS, body, NOW)) == MEASUREMENT


@pytest.mark.parametrize(
    ("headers", "body", "code", "detail"),
    [
        ({}, DATA, "missing_field", "id is required"),
        ({}, b"", "missing_field", "id is required"),
        ({"ce-specversion": "1.0", "ce-id": "1"}, DATA, "missing_field", "source is required"),
        (HEADERS, b"", "missing_field", "data is required"),
        (HEADERS, b"5", "invalid_field", "data must be a JSON object"),
        (HEADERS, b"\x00\x01", "invalid_field", "data must be a JSON object; data_base64 is not read"),
        (HEADERS, b'{"value":1},"id":"x"', "invalid_field", "data must be a JSON object; data_base64 is not read"),
        ({**HEADERS, "ce-id": "%00"}, DATA, "text_not_storable", "id must not contain NUL"),
        (
            {**HEADERS, "ce-id": "%FF"},
            DATA,
            "text_not_storable",
            "id must be valid Unicode without lone surrogates",
        ),
    ],
)
def test_binary_mode_refuses_as_structured_mode_and_keeps_what_can_be_read_again(
    headers: dict[str, str], body: bytes, code: str, detail: str
):
    unreadable = only_unreadable(read_binary(headers, body, NOW))
    assert (unreadable.code, unreadable.detail) == (code, detail)
    assert only_unreadable(read(unreadable.raw, ONE, NOW)) == unreadable


def test_binary_mode_refuses_deep_bodies():
    with pytest.raises(TooLarge):
        read_binary(HEADERS, b"[" * 100_000, NOW)
