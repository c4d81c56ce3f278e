"""What the members of an event may hold: values and unit prices, times, texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from tallystick.kernel.text import MAX_TEXT_CHARACTERS
from tallystick.metering.sources.cloud_events import read
from tallystick.pricing.functions import MAX_PRICE
from tests.metering.sources.batches import only_measurement, only_unreadable
from tests.metering.sources.events import ABSENT, JSON, NOW, dump, event, read_json

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
        ("1e12", "1000000000000"),
        ("-1000000000000", "-1000000000000"),
        (f"{'9' * 12}.{'9' * 30}", f"{'9' * 12}.{'9' * 30}"),
    ],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_values_and_unit_prices_are_read_exactly_as_numbers_and_as_strings(number: str, value: str, quote: str):
    text = f"{quote}{number}{quote}"
    unit_price = text if abs(Decimal(value)) <= MAX_PRICE else "null"
    body = dump(event({"value": "V", "unit_price": "P"}))
    body = body.replace(b'"V"', text.encode()).replace(b'"P"', unit_price.encode())
    for wrapped in (body, b"[" + body + b"]"):
        measurement = only_measurement(read(wrapped, JSON, NOW))
        assert format(measurement.value, "f") == value
        assert measurement.unit_price is None if unit_price == "null" else format(measurement.unit_price, "f") == value


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


BEYOND_EVERY_PRICE = ["1000000000001", "-1000000000001", f"1000000000000.{'0' * 29}1", "1.1e12", "9" * 18]


@pytest.mark.parametrize("number", BEYOND_EVERY_PRICE)
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_unit_price_that_is_greater_than_any_price_may_be_is_refused_precisely(number: str, quote: str):
    body = dump(event({"unit_price": "P"})).replace(b'"P"', f"{quote}{number}{quote}".encode())
    for wrapped in (body, b"[" + body + b"]"):
        unreadable = only_unreadable(read(wrapped, JSON, NOW))
        assert unreadable.code == "invalid_value"
        assert unreadable.detail == "data.unit_price must be from -1000000000000 to 1000000000000"


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
