from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.kernel.errors import TooLarge
from tallystick.kernel.text import MAX_TEXT_CHARACTERS
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.sources.cloud_events import MAX_COMMAS, STRICT_SOURCE, read, read_binary

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
JSON = "application/json"
LINES = "application/x-ndjson"
ONE = "application/cloudevents+json"
MANY = "application/cloudevents-batch+json"
ABSENT = object()


def event(data_members: dict[str, Any] | None = None, /, **attributes: Any) -> dict[str, Any]:
    """A complete event with some members replaced, or removed by ``ABSENT``."""
    members: dict[str, Any] = {
        "specversion": "1.0",
        "id": "e1",
        "source": "/gateway",
        "subject": "acme",
        "type": "tokens",
        "time": "2026-02-03T04:05:06.789Z",
        "data": {"value": 7, "kind": "model-x", "resource": "app", "agent": "bob"} | (data_members or {}),
    } | attributes
    if isinstance(members["data"], dict):
        members["data"] = {name: value for name, value in members["data"].items() if value is not ABSENT}
    return {name: value for name, value in members.items() if value is not ABSENT}


MEASUREMENT = Measurement(
    source="events:/gateway",
    sender_id="e1",
    customer="acme",
    meter="tokens",
    at=datetime(2026, 2, 3, 4, 5, 6, 789_000, UTC),
    value=Decimal(7),
    kind="model-x",
    resource="app",
    agent="bob",
)


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def read_json(value: object, content_type: str = JSON) -> Batch:
    return read(dump(value), content_type, NOW)


def only_measurement(batch: Batch) -> Measurement:
    assert batch.unreadable == []
    (measurement,) = batch.measurements
    return measurement


def only_unreadable(batch: Batch) -> Unreadable:
    assert batch.measurements == []
    (unreadable,) = batch.unreadable
    return unreadable


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


# Values


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("17", "17"),
        ("-17", "-17"),
        ("0.1", "0.1"),
        ("12.50", "12.50"),
        ("1E+3", "1000"),
        ("1.5e3", "1500"),
        ("1e-30", f"0.{'0' * 29}1"),
        ("9" * 18, "9" * 18),
        ("-" + "9" * 18, "-" + "9" * 18),
        (f"{'9' * 18}.{'9' * 30}", f"{'9' * 18}.{'9' * 30}"),
        ("1.0000000000000000000000001", "1.0000000000000000000000001"),
    ],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_values_and_unit_prices_are_read_exactly_as_numbers_and_as_strings(number: str, value: str, quote: str):
    text = f"{quote}{number}{quote}"
    body = dump(event({"value": "V", "unit_price": "P"})).replace(b'"V"', text.encode()).replace(b'"P"', text.encode())
    for wrapped in (body, b"[" + body + b"]"):
        measurement = only_measurement(read(wrapped, JSON, NOW))
        assert format(measurement.value, "f") == value
        assert format(measurement.unit_price, "f") == value


def test_a_string_may_spell_its_number_with_escapes():
    body = dump(event({"value": "V"})).replace(b'"V"', b'"\\u0031.5"')
    assert only_measurement(read(body, JSON, NOW)).value == Decimal("1.5")


TOO_GREAT = ["1e999999", "-1e999999", "1e99999999999999999999", "1e18", "9" * 19, '"1e999999"', f'"{"9" * 19}"']
TOO_FINE = ["1e-31", f"1.{'0' * 31}"]
TOO_LONG = [pytest.param(start + "1" * 100_000, id=f"{start} and many digits") for start in ("", "1.", "1e", "1e-")]
OTHER_JSON = ["true", "false", "[]", "{}", "[1]", '{"a":1}']
OTHER_STRINGS = [
    "",
    "NaN",
    "Infinity",
    " 1",
    "1 ",
    "1_000",
    "+1",
    "0x1",
    "1,5",
    "\\u0661",
    "\\uff11",
    "1\\u0000",
    "\\ud800",
]


@pytest.mark.parametrize(
    "number", [*TOO_GREAT, *TOO_FINE, *TOO_LONG, *OTHER_JSON, *(f'"{text}"' for text in OTHER_STRINGS)]
)
@pytest.mark.parametrize("name", ["value", "unit_price"])
def test_other_values_are_refused_precisely(number: str, name: str):
    body = dump([event({name: "V"})]).replace(b'"V"', number.encode())
    unreadable = only_unreadable(read(body, JSON, NOW))
    assert unreadable.code == "invalid_value"
    assert unreadable.detail.startswith(f"data.{name} must be a finite decimal number of at most 18 digits before")


# Times


@pytest.mark.parametrize(
    ("time", "at"),
    [
        ("2026-01-31T23:59:59Z", datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-01-31t23:59:59.5z", datetime(2026, 1, 31, 23, 59, 59, 500_000, UTC)),
        ("2026-02-01T01:30:00+02:00", datetime(2026, 1, 31, 23, 30, tzinfo=UTC)),
        ("2026-01-31T20:00:00-03:30", datetime(2026, 1, 31, 23, 30, tzinfo=UTC)),
        ("2026-01-31T23:59:59-00:00", datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)),
        ("0002-01-01T00:00:00Z", datetime(2, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_come_out_in_utc(time: str, at: datetime):
    measurement = only_measurement(read_json([event(time=time)]))
    assert measurement.at == at
    assert measurement.at.tzinfo is UTC


def test_a_missing_time_is_the_time_of_receipt_in_utc():
    received_at = NOW.astimezone(timezone(timedelta(hours=5)))
    measurement = only_measurement(read(dump([event(time=ABSENT)]), JSON, received_at))
    assert measurement.at == NOW
    assert measurement.at.tzinfo is UTC


NO_ZONE = ["2026-01-31T23:59:59", "2026-01-31"]
NO_INSTANT = [
    "",
    "now",
    "2026-02-30T00:00:00Z",
    "2026-01-31T24:00:00Z",
    "2026-01-31T23:59:59Z\n",
    "\uff12026-01-31T00:00:00Z",
]
NOT_IN_UTC_CALENDAR = [
    "0001-01-01T00:00:00+01:00",
    "0001-12-31T23:59:59Z",
    "9998-01-01T00:00:00Z",
    "9999-12-31T23:59:59-01:00",
]
NO_STRING = [1_700_000_000, 1.5, True, ["2026-01-31T23:59:59Z"]]


@pytest.mark.parametrize("time", [*NO_ZONE, *NO_INSTANT, *NOT_IN_UTC_CALENDAR, *NO_STRING])
def test_a_time_that_is_no_instant_is_refused(time: object):
    unreadable = only_unreadable(read_json([event(time=time)]))
    assert unreadable.code == "invalid_time"
    assert unreadable.detail.startswith("time must be an RFC 3339 instant with a zone, as 2026-01-31T23:59:59Z")


# Texts

TEXTS = ["id", "subject", "type", "source", "data.kind", "data.resource", "data.agent"]
KEYS = ["id", "subject", "type"]


def with_text(path: str, text: object) -> dict[str, Any]:
    name = path.removeprefix("data.")
    return event({name: text}) if path.startswith("data.") else event(**{name: text})


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("character", ["x", "é", "漢", "😀"])
def test_a_text_may_be_as_long_as_the_limit_in_characters(path: str, character: str):
    assert read_json([with_text(path, character * MAX_TEXT_CHARACTERS)]).unreadable == []
    unreadable = only_unreadable(read_json([with_text(path, character * (MAX_TEXT_CHARACTERS + 1))]))
    assert unreadable.code == "text_too_long"
    assert unreadable.detail == f"{path} must have at most {MAX_TEXT_CHARACTERS} characters"


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("text", ["a\0b", "\0", "\ud800", "\udc00x", "\udc00\ud800", "x\ud800\ud800"])
def test_a_text_that_cannot_be_stored_is_refused(path: str, text: str):
    unreadable = only_unreadable(read_json([with_text(path, text)]))
    assert unreadable.code == "text_not_storable"
    assert unreadable.detail.startswith(f"{path} must ")


@pytest.mark.parametrize("path", TEXTS)
@pytest.mark.parametrize("value", [1, 1.5, True, [], {}, ["x"]])
def test_a_text_that_is_no_string_is_refused(path: str, value: object):
    unreadable = only_unreadable(read_json([with_text(path, value)]))
    assert (unreadable.code, unreadable.detail) == ("invalid_field", f"{path} must be a string")


@pytest.mark.parametrize("path", KEYS)
@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u00a0\u2003"])
def test_a_key_must_not_be_blank(path: str, text: str):
    unreadable = only_unreadable(read_json([with_text(path, text)]))
    assert (unreadable.code, unreadable.detail) == ("text_empty", f"{path} must not be empty")


@pytest.mark.parametrize("text", ["a\\b", 'a"b', " x ", "a/b", "a\u2028b", "null", "\U0001f600\U0010ffff"])
def test_any_other_text_is_kept_as_it_is(text: str):
    sent = event({"kind": text, "resource": text, "agent": text}, id=text, source=text, subject=text, type=text)
    read_back = only_measurement(read_json([sent]))
    kept = [
        read_back.sender_id,
        read_back.customer,
        read_back.meter,
        read_back.kind,
        read_back.resource,
        read_back.agent,
    ]
    assert kept == [text] * 6
    assert read_back.source == f"events:{text}"


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

HEADERS = {
    "CE-SpecVersion": "1.0",
    "ce-id": "e1",
    "ce-source": "/gateway",
    "ce-subject": "acme",
    "ce-type": "tokens",
    "ce-time": "2026-02-03T04:05:06.789Z",
    "Content-Type": "application/json",
    "X-Other": "1",
}
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


# Anything

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
member_values = json_values | st.sampled_from(["1.0", "2026-01-01T00:00:00Z", "1e3", "", " ", "x" * 300, ABSENT])
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
