from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point

from tallystick.kernel.errors import InvalidInput, TooLarge
from tallystick.kernel.text import MAX_TEXT_CHARACTERS
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.sources.line_protocol import (
    MAX_LINE_CHARACTERS,
    MAX_NATURAL_KEY_CHARACTERS,
    NANOSECONDS,
    LineMapping,
    read,
)
from tallystick.metering.sources.values import EARLIEST, LATEST

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_NS = 1_772_366_400_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WEATHER = LineMapping(customer_tag="location", resource_tag="", field="temperature")
ANY = LineMapping(customer_tag="c", resource_tag="")


def read_text(text: str, mapping: LineMapping = ANY, precision: str = "ns") -> Batch:
    return read(text.encode(), NOW, precision=precision, mapping=mapping)


def only_measurement(batch: Batch) -> Measurement:
    assert batch.unreadable == []
    (measurement,) = batch.measurements
    return measurement


def only_unreadable(batch: Batch) -> Unreadable:
    assert batch.measurements == []
    (unreadable,) = batch.unreadable
    return unreadable


def test_a_line_of_the_openstack_exporter_as_an_influxdb_subscription_sends_it():
    series = (
        "project_vcpu_usage,__name__=project_vcpu_usage,domain_id=x,domain_name=elixir,instance=usage_exporter:8080,"
        "job=project_usages,location=site-a,location_id=8676,project_id=123,project_name=os_credits_1"
    )
    batch = read(f"{series} value=12.5 1553342599293000000\n".encode(), NOW)
    assert batch == Batch(
        source="line-protocol",
        measurements=[
            Measurement(
                source="line-protocol",
                sender_id=f"{series} 1553342599293000000",
                customer="os_credits_1",
                meter="project_vcpu_usage",
                at=datetime(2019, 3, 23, 12, 3, 19, 293_000, UTC),
                value=Decimal("12.5"),
                resource="8676",
            )
        ],
        indexes=[0],
        unreadable=[],
    )


# The examples of InfluxData's tutorial and reference


@pytest.mark.parametrize(
    ("line", "customer", "meter", "value"),
    [
        ("weather,location=us-midwest temperature=82 1465839830100400200", "us-midwest", "weather", "82"),
        ("weather,location=us-midwest,season=summer temperature=82 1465839830100400200", "us-midwest", "weather", "82"),
        ("weather,location=us-midwest temperature=82,humidity=71 1465839830100400200", "us-midwest", "weather", "82"),
        ("weather,location=us-midwest temperature=82", "us-midwest", "weather", "82"),
        ("weather,location=us-midwest temperature=82i 1465839830100400200", "us-midwest", "weather", "82"),
        ('"weather",location=us-midwest temperature=87 1465839830100400200', "us-midwest", '"weather"', "87"),
        ("weather,location=us\\,midwest temperature=82 1465839830100400200", "us,midwest", "weather", "82"),
        ("weather,location=us-midwest temp\\=rature=1,temperature=82 1", "us-midwest", "weather", "82"),
        ("weather,location\\ place=x,location=us-midwest temperature=82 1", "us-midwest", "weather", "82"),
        ("wea\\,ther,location=us-midwest temperature=82 1465839830100400200", "us-midwest", "wea,ther", "82"),
        ("wea\\ ther,location=us-midwest temperature=82 1465839830100400200", "us-midwest", "wea ther", "82"),
        ('weather,location=us-midwest temperature=82,t="too\\"hot\\"" 1', "us-midwest", "weather", "82"),
        ('weather,location=us-midwest temperature=82,t="too hot/cold" 1', "us-midwest", "weather", "82"),
        ('weather,location=us-midwest temperature=82,t="too hot\\cold" 1', "us-midwest", "weather", "82"),
        ('weather,location=us-midwest temperature=82,t="too hot\\\\\\\\\\cold" 1', "us-midwest", "weather", "82"),
        ("we⛅️ther,location=us-midwest temper🔥ture=1,temperature=82 1", "us-midwest", "we⛅️ther", "82"),
        ("weather,location=us-midwest temperature=82,too_hot=true 1", "us-midwest", "weather", "82"),
    ],
)
def test_valid_examples_of_the_documentation(line: str, customer: str, meter: str, value: str):
    measurement = only_measurement(read_text(line, WEATHER))
    assert (measurement.customer, measurement.meter, str(measurement.value)) == (customer, meter, value)


def test_the_example_with_all_special_characters():
    line = (
        r'"measurement\ with\ quo⚡️es\ and\ emoji",tag\ key\ with\ sp🚀ces=tag\,value\,with"commas" '
        r'field_k\ey="string field value, only \" need be esc🍭ped"'
    )
    mapping = LineMapping(customer_tag="tag key with sp🚀ces", resource_tag="", field="n")
    measurement = only_measurement(read_text(f"{line},n=1", mapping))
    assert measurement.meter == '"measurement with quo⚡️es and emoji"'
    assert measurement.customer == 'tag,value,with"commas"'
    refused = only_unreadable(read_text(line, LineMapping("tag key with sp🚀ces", "", field=r"field_k\ey")))
    assert refused.detail == r"field_k\ey must be a number and not a string"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('weather,location=us-midwest temperature=82 "1465839830100400200"', "invalid_time"),
        ("weather,location=us-midwest temperature='too warm'", "invalid_value"),
        ('weather,location=us-midwest temperature="82"', "invalid_value"),
        ('weather,location=us-midwest temperature="too warm" 1465839830100400200', "invalid_value"),
        ("weather,location=us-midwest temperature=true", "invalid_value"),
        ("weather temperature=82 1465839830100400200", "missing_tag"),
        ("weather,location=us-midwest humidity=82 1465839830100400200", "missing_field"),
        ("weather,location=us-midwest temperature=-1.234456e+78", "invalid_value"),
    ],
)
def test_examples_that_are_invalid_or_not_measurements(line: str, code: str):
    assert only_unreadable(read_text(line, WEATHER)).code == code


# Grammar


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"a\ b", "a b"),
        (r"a\,b", "a,b"),
        (r"a\=b", "a=b"),
        (r"a\b", r"a\b"),
        (r"a\\b", r"a\\b"),
        (r"a\"b", r"a\"b"),
        (r"\ a\ ", " a "),
        (r"\\\ a", r"\\ a"),
        (r"a\\,b", r"a\,b"),
        ('"a"', '"a"'),
        ("'a'", "'a'"),
        ("a\tb", "a\tb"),
        ("a\u00a0\u2028b", "a\u00a0\u2028b"),
        ("#a", "#a"),
        ("münchen😀", "münchen😀"),
    ],
)
def test_escapes_in_tag_values(written: str, text: str):
    measurement = only_measurement(read_text(f"m,c={written},d=1 value=1 5"))
    assert measurement.customer == text
    assert measurement.sender_id.endswith(",d=1 5")


def test_an_equals_sign_is_ordinary_in_a_measurement_and_so_is_the_backslash_before_it():
    assert only_measurement(read_text("a=b,c=x value=1")).meter == "a=b"
    assert only_measurement(read_text(r"a\=b,c=x value=1")).meter == r"a\=b"


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("1", "1"),
        ("1.0", "1.0"),
        ("1.", "1"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("1.e+3", "1000"),
        ("1.E+3", "1000"),
        ("25e-1", "2.5"),
        ("1i", "1"),
        ("-17i", "-17"),
        ("0i", "0"),
        ("18u", "18"),
        ("999999999999999999i", "9" * 18),
        (f"{'9' * 18}.{'9' * 30}", f"{'9' * 18}.{'9' * 30}"),
    ],
)
@pytest.mark.parametrize(
    "line", ["m,c=x value={}", "m,c=x value={} 1", 'm,c=x a="\n",value={},b=F 1', r"m,c=\ x value={}"]
)
def test_numbers_are_read_exactly(line: str, number: str, value: str):
    assert format(only_measurement(read_text(line.format(number))).value, "f") == value


BOOLEANS = ["t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"]


@pytest.mark.parametrize("boolean", BOOLEANS)
def test_booleans_are_fields_but_no_values(boolean: str):
    assert only_measurement(read_text(f"m,c=x value=1,up={boolean}")).value == 1
    refused = only_unreadable(read_text(f"m,c=x value={boolean}"))
    assert (refused.code, refused.detail) == ("invalid_value", "value must be a number and not a boolean")


NO_NUMBERS = [
    "NaN",
    "nan",
    "Inf",
    "-inf",
    "+1",
    "1_000",
    "0x1",
    "1.5i",
    "1.5u",
    "-1u",
    "1ii",
    "1e3i",
    "i",
    "u",
    "-",
    ".",
]
NEITHER = ["tRUE", "yes", "1.2.3", "1e", "1;2", "\u0661", "1\u00b2"]
TOO_GREAT = ["1e999999", "-1e999999", "1e99999999999999999999", "9" * 19, "9" * 19 + "i", "9" * 19 + "u"]
TOO_FINE = ["1e-31", f"1.{'0' * 31}"]


@pytest.mark.parametrize("number", [*NO_NUMBERS, *NEITHER, *TOO_GREAT, *TOO_FINE])
def test_other_values_are_refused_precisely(number: str):
    refused = only_unreadable(read_text(f"m,c=x value={number} 1"))
    assert refused.code == "invalid_value"
    assert refused.detail.startswith("value must be a finite decimal number of at most 18 digits before")
    assert only_unreadable(read_text(f"m,c=x value={number},up=t 1")).code == "invalid_value"


@pytest.mark.parametrize("number", [*NO_NUMBERS, *NEITHER])
def test_a_field_of_no_type_spoils_its_line(number: str):
    refused = only_unreadable(read_text(f"m,c=x value=1,other={number}"))
    assert refused.code == "invalid_value"
    assert refused.detail == 'the field at character 15 must be a number, a boolean or a "text"'


@pytest.mark.parametrize("number", [*TOO_GREAT, *TOO_FINE])
def test_a_field_that_is_no_value_may_be_any_number(number: str):
    assert only_measurement(read_text(f"m,c=x value=1,other={number}")).value == 1


TAGS_END = "measurement and tags must be followed by a space and a field"
TAG = "a tag must be written key=text, neither of them empty"
FIELD = 'a field must be written key=number, key=boolean or key="text"'
FIELD_END = "a field must be followed by a comma, a space or the end of the line"
INTEGER = "the timestamp must be an integer between the years 2 and 9997"


@pytest.mark.parametrize(
    ("line", "code", "detail"),
    [
        ("m,c=x", "invalid_line", f"{TAGS_END} (character 6)"),
        (",c=x value=1", "invalid_line", "a line must begin with the name of a measurement (character 1)"),
        ("m, value=1", "invalid_line", f"{TAG} (character 3)"),
        ("m,c value=1", "invalid_line", f"{TAG} (character 3)"),
        ("m,c= value=1", "invalid_line", f"{TAG} (character 3)"),
        ("m,=x value=1", "invalid_line", f"{TAG} (character 3)"),
        ("m,c=x,,d=1 value=1", "invalid_line", f"{TAG} (character 7)"),
        ("m,c=x, value=1", "invalid_line", f"{TAG} (character 7)"),
        ("m,c=x=y value=1", "invalid_line", f"{TAGS_END} (character 6)"),
        ("m,c=x=value=1", "invalid_line", f"{TAGS_END} (character 6)"),
        ("m,c=x value", "invalid_line", f"{FIELD} (character 7)"),
        ("m,c=x value=", "invalid_line", f"{FIELD} (character 7)"),
        ("m,c=x =1", "invalid_line", f"{FIELD} (character 7)"),
        ("m,c=x value=1,", "invalid_line", f"{FIELD} (character 15)"),
        ("m,c=x value=1,b", "invalid_line", f"{FIELD} (character 15)"),
        ('m,c=x value="x', "invalid_line", f"{FIELD} (character 7)"),
        ('m,c=x value=1,s="\\"', "invalid_line", f"{FIELD} (character 15)"),
        ('m,c=x s="a"b,value=1', "invalid_line", f"{FIELD_END} (character 12)"),
        ('m,c=x value=1"', "invalid_line", f"{FIELD_END} (character 14)"),
        ("m,c=x,c=y value=1", "duplicate_tag", "the tag at character 7 must be there only once"),
        ("m,c=x,c=x value=1", "duplicate_tag", "the tag at character 7 must be there only once"),
        (r"m,c=x,d\ e=1,d\ e=2 value=1", "duplicate_tag", "the tag at character 14 must be there only once"),
        ("m,c=x value=1,value=2", "duplicate_field", "the field at character 15 must be there only once"),
        ("m,c=x value=1 now", "invalid_time", INTEGER),
        ("m,c=x value=1 1 1", "invalid_time", INTEGER),
        ("m,c=x value=1 1.5", "invalid_time", INTEGER),
        ("m,c=x value=1 +1", "invalid_time", INTEGER),
        ("m,c=x value=1 \u0661", "invalid_time", INTEGER),
        ("m,c=x value=1 1_0", "invalid_time", INTEGER),
        ("m,c=x value=1 " + "1" * 22, "invalid_time", INTEGER),
        ("m,d=x value=1", "missing_tag", "tag c is required"),
        ("m value=1", "missing_tag", "tag c is required"),
        ("hello world", "missing_tag", "tag c is required"),
        ("m,c=\t value=1", "text_empty", "c must not be empty"),
        ("m,c=x a=1,b=2", "missing_field", "field value is required"),
        ("m,c=x Value=1", "missing_field", "field value is required"),
        ('m,c=x value="1"', "invalid_value", "value must be a number and not a string"),
        ("m,c=x value=1,s=\0", "text_not_storable", "a line must not contain NUL"),
        ("m,c=x,d=\0 value=1", "text_not_storable", "a line must not contain NUL"),
    ],
)
def test_a_line_is_refused_with_the_place_and_the_rule_and_its_neighbours_are_read(line: str, code: str, detail: str):
    batch = read_text(f"m,c=a value=1\n{line}\nm,c=b value=2")
    assert [measurement.customer for measurement in batch.measurements] == ["a", "b"]
    assert batch.indexes == [0, 2]
    assert batch.unreadable == [Unreadable(1, line.encode(), code, detail)]


def test_comments_and_blank_lines_are_skipped_and_counted():
    body = '# m,c=x value=1\n\n  \t\r\n   # "quoted\nm,c=a value=1\r\n#\n\tm,c=b value=2 \t\n'
    for text in (body, body.replace('"', "")):
        batch = read_text(text)
        assert [measurement.customer for measurement in batch.measurements] == ["a", "b"]
        assert batch.indexes == [4, 6]
        assert batch.unreadable == []


@pytest.mark.parametrize("body", ["", "\n", "\r\n\r\n", "# nothing", "  \n\t\n"])
def test_a_body_without_points_is_an_empty_batch(body: str):
    assert read_text(body) == Batch("line-protocol", [], [], [])


@pytest.mark.parametrize(
    "line",
    [
        "m,c=x value=1 5",
        "m,c=x  value=1   5",
        "m,c=x \tvalue=1 \t 5",
        "  m,c=x value=1 5 ",
        "m,c=x value=1 5\r",
        "m,c=x value=1 5\n",
    ],
)
def test_surplus_blanks_mean_nothing(line: str):
    for text in (line, f'{line}\n# "'):
        measurement = only_measurement(read_text(text))
        assert (measurement.sender_id, measurement.value) == ("m,c=x 5", Decimal(1))


STRINGS = ["", " ", "a,b=c d", "# no comment", "\n", "\r\n# no comment\nm,c=y value=9 9\n", "=", "\u00fc\U0001f600"]
ESCAPES = ['\\"', "\\\\", '\\\\\\"\n', "\\a", "\\\n"]


@pytest.mark.parametrize("string", [*STRINGS, *ESCAPES])
def test_strings_hold_anything(string: str):
    for text in (f'm,c=a s="{string}",value=1 5\nm,c=b value=2', f'm,c=a value=1,s="{string}"\r\nm,c=b value=2'):
        batch = read_text(text)
        assert batch.unreadable == []
        assert [measurement.customer for measurement in batch.measurements] == ["a", "b"]
        assert batch.indexes == [0, 1 + string.count("\n")]


def test_a_string_that_is_never_closed_spoils_its_own_line_only():
    lines = ['m,c=a s="x,value=1', "m,c=b value=2", 'm,c=d s="y",value=3', 'm,c=e s="', "m,c=f value=4"]
    batch = read_text("\n".join(lines))
    assert batch.indexes == [1, 2, 4]
    assert [(item.index, item.raw.decode(), item.code) for item in batch.unreadable] == [
        (0, lines[0], "invalid_line"),
        (3, lines[3], "invalid_line"),
    ]


def test_a_refused_line_with_line_ends_is_kept_whole():
    line = 'm,d=x s="a\n\nb",value=1'
    batch = read_text(f"m,c=a value=1\n{line}\nm,c=b value=2")
    assert batch.indexes == [0, 4]
    assert [(item.index, item.raw.decode(), item.code) for item in batch.unreadable] == [(1, line, "missing_tag")]


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_a_line_that_is_not_utf8_is_kept_as_it_came_and_spoils_no_other(broken: bytes):
    lines = [b"m,c=a value=1", b"m,c=%s value=1" % broken, b'm,c=x s="%s\n",value=1' % broken, "m,c=ä value=2".encode()]
    batch = read(b"\n".join(lines), NOW, mapping=ANY)
    assert [measurement.customer for measurement in batch.measurements] == ["a", "ä"]
    assert batch.indexes == [0, 4]
    assert [(item.index, item.raw, item.code, item.detail) for item in batch.unreadable] == [
        (1, lines[1], "text_not_storable", "a line must be UTF-8"),
        (2, lines[2], "text_not_storable", "a line must be UTF-8"),
    ]


# Time


@pytest.mark.parametrize(
    ("timestamp", "precision", "at", "nanoseconds"),
    [
        ("0", "ns", EPOCH, 0),
        ("1465839830100400200", "ns", datetime(2016, 6, 13, 17, 43, 50, 100_400, UTC), 1465839830100400200),
        ("1465839830100400999", "n", datetime(2016, 6, 13, 17, 43, 50, 100_400, UTC), 1465839830100400999),
        ("-1", "ns", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), -1),
        ("-1000", "ns", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), -1000),
        ("-1001", "ns", datetime(1969, 12, 31, 23, 59, 59, 999_998, UTC), -1001),
        ("5", "us", EPOCH + timedelta(microseconds=5), 5_000),
        ("5", "u", EPOCH + timedelta(microseconds=5), 5_000),
        ("5", "\u00b5", EPOCH + timedelta(microseconds=5), 5_000),
        ("5", "\u03bc", EPOCH + timedelta(microseconds=5), 5_000),
        ("5", "ms", EPOCH + timedelta(milliseconds=5), 5_000_000),
        ("1553342599", "s", datetime(2019, 3, 23, 12, 3, 19, tzinfo=UTC), 1553342599_000_000_000),
        ("-5", "m", EPOCH - timedelta(minutes=5), -300_000_000_000),
        ("5", "h", EPOCH + timedelta(hours=5), 18_000_000_000_000),
        ("-9223372036854775806", "ns", datetime(1677, 9, 21, 0, 12, 43, 145_224, UTC), -9223372036854775806),
        ("9223372036854775806", "ns", datetime(2262, 4, 11, 23, 47, 16, 854_775, UTC), 9223372036854775806),
        ("253339228799999999999", "ns", LATEST - timedelta(microseconds=1), 253339228799999999999),
        ("-62104060800000000000", "ns", EARLIEST, -62104060800000000000),
    ],
)
def test_timestamps(timestamp: str, precision: str, at: datetime, nanoseconds: int):
    measurement = only_measurement(read_text(f"m,c=x value=1 {timestamp}", precision=precision))
    assert measurement.at == at
    assert measurement.at.tzinfo is UTC
    assert measurement.sender_id == f"m,c=x {nanoseconds}"


@pytest.mark.parametrize(
    ("timestamp", "precision"),
    [
        ("253402300800000000000", "ns"),
        ("-62104060800000000001", "ns"),
        ("253339228800000000000", "ns"),
        ("9" * 21, "ns"),
        ("-" + "9" * 21, "h"),
        ("1465839830100400200", "s"),
        ("999999999", "h"),
    ],
)
def test_timestamps_outside_the_calendar_are_refused(timestamp: str, precision: str):
    refused = only_unreadable(read_text(f"m,c=x value=1 {timestamp}", precision=precision))
    assert (refused.code, refused.detail) == ("invalid_time", "the timestamp must lie between the years 2 and 9997")


@pytest.mark.parametrize("precision", ["ns", "s", "h"])
def test_a_missing_timestamp_is_the_time_of_receipt(precision: str):
    received_at = NOW.astimezone(timezone(timedelta(hours=-7)))
    measurement = only_measurement(read(b"m,c=x value=1", received_at, precision=precision, mapping=ANY))
    assert measurement.at == NOW
    assert measurement.at.tzinfo is UTC
    assert measurement.sender_id == f"m,c=x {NOW_NS}"


@pytest.mark.parametrize("precision", NANOSECONDS)
def test_an_unreadable_line_tells_its_precision(precision: str):
    refused = only_unreadable(read_text("m", precision=precision))
    assert refused.reader == (None if precision in ("n", "ns") else f"line-protocol;precision={precision}")


@pytest.mark.parametrize("precision", ["", "NS", "d", "1s", "ns "])
def test_an_unknown_precision_is_refused(precision: str):
    with pytest.raises(InvalidInput, match="precision must be one of ns, n, us") as refusal:
        read_text("m,c=x value=1", precision=precision)
    assert refusal.value.field == "precision"


# Natural key


def test_all_writings_of_a_series_have_one_key():
    writings = [
        "m,a=1,b=2,c=x value=1 5",
        "m,c=x,b=2,a=1 value=1i 5 ",
        "m,b=2,c=x,a=1 other=3,value=7 5",
        "m,c=x,a=1,b=2 value=1 5\r",
    ]
    batch = read_text("\n".join(writings))
    assert {measurement.sender_id for measurement in batch.measurements} == {"m,a=1,b=2,c=x 5"}
    assert len(batch.measurements) == len(writings)


def test_tags_are_sorted_by_key_and_not_by_the_whole_tag():
    keys = [
        only_measurement(read_text(f"m,{tags},c=x value=1 5")).sender_id
        for tags in ("a=1,a-b=2", "a-b=2,a=1", r"a=1,a-b=2,b=\x")
    ]
    assert keys == ["m,a=1,a-b=2,c=x 5", "m,a=1,a-b=2,c=x 5", r"m,a=1,a-b=2,b=\x,c=x 5"]


@pytest.mark.parametrize(
    "other",
    [
        "n,c=x value=1 5",
        "m,c=y value=1 5",
        "m,c=x,d=1 value=1 5",
        "m,c=x value=1 6",
        r"m\,c\=x,c=x value=1 5",
        r"m,c=x\,d\=1 value=1 5",
    ],
)
def test_other_series_and_times_have_other_keys(other: str):
    batch = read_text(f"m,c=x value=1 5\n{other}")
    first, second = (measurement.sender_id for measurement in batch.measurements)
    assert first != second


def test_a_long_key_is_hashed():
    tags = "".join(f",t{number:03}={'x' * 40}" for number in range(20))
    batch = read_text(f"m,c=x{tags} value=1 5\nm,c=x{tags} value=1 6\nm{tags},c=x value=2 5")
    first, second, third = (measurement.sender_id for measurement in batch.measurements)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert first == third != second


@pytest.mark.parametrize("surplus", [0, 1])
def test_the_longest_key_that_is_kept(surplus: int):
    text = "x" * (MAX_NATURAL_KEY_CHARACTERS - len("m,c=x,d= 5") + surplus)
    key = only_measurement(read_text(f"m,c=x,d={text} value=1 5")).sender_id
    assert (key == f"m,c=x,d={text} 5") == (surplus == 0)


# Mapping


def test_the_default_mapping_wants_project_and_location():
    line = "m,project_name=p,location_id=7,kind=k,agent=a value=1 5"
    measurement = only_measurement(read(line.encode(), NOW))
    kept = (measurement.customer, measurement.resource, measurement.kind, measurement.agent, measurement.meter)
    assert kept == ("p", "7", "k", "a", "m")
    for tag in ("project_name", "location_id"):
        refused = only_unreadable(read(line.replace(tag, "x").encode(), NOW))
        assert (refused.code, refused.detail) == ("missing_tag", f"tag {tag} is required")
    assert only_measurement(read(line.replace("kind", "x").replace("agent", "y").encode(), NOW)).kind == ""


def test_any_tags_and_field_can_be_mapped():
    mapping = LineMapping(customer_tag="who", resource_tag="what", kind_tag="how", agent_tag="by", field="n o")
    measurement = only_measurement(read_text(r"m,by=a,how=k,what=r,who=w n\ o=3,value=4", mapping))
    assert (measurement.customer, measurement.resource, measurement.kind, measurement.agent) == ("w", "r", "k", "a")
    assert measurement.value == Decimal(3)


def test_the_same_series_under_another_mapping_is_another_measurement():
    line = b"m,a=1,b=2 value=1"
    for tag, customer in (("a", "1"), ("b", "2"), ("a", "1")):
        assert only_measurement(read(line, NOW, mapping=LineMapping(tag, ""))).customer == customer


@pytest.mark.parametrize("tag", ["c", "kind", "agent", "r"])
@pytest.mark.parametrize("character", ["x", "😀"])
def test_texts_that_are_too_long_are_refused(tag: str, character: str):
    mapping = LineMapping("c", "r")
    tags = {"c": "x", "r": "x", "kind": "x", "agent": "x"}
    for surplus, fits in ((0, True), (1, False)):
        tags[tag] = character * (MAX_TEXT_CHARACTERS + surplus)
        line = "m," + ",".join(f"{name}={text}" for name, text in tags.items()) + " value=1"
        batch = read_text(line, mapping)
        assert (batch.unreadable == []) == fits
    refused = only_unreadable(batch)
    assert refused.code == "text_too_long"
    assert refused.detail == f"{tag} must have at most {MAX_TEXT_CHARACTERS} characters"


# Limits


def test_more_lines_than_allowed_are_too_large():
    body = b"\n".join([b"m,c=x value=1"] * 10)
    for ending in (b"", b"\n"):
        assert len(read(body + ending, NOW, mapping=ANY, max_lines=10).measurements) == 10
        with pytest.raises(TooLarge, match="at most 9 lines"):
            read(body + ending, NOW, mapping=ANY, max_lines=9)


@pytest.mark.parametrize(
    "start", ["m,c=x value=1,s=", 'm,c=x value=1,s="', 'm,c=x value=1,s="\n\\"', "m", "m,c=", "m\\"]
)
def test_a_line_that_is_too_long_spoils_no_other(start: str):
    batch = read_text(f'm,c=a value=1\n{start}{"x" * MAX_LINE_CHARACTERS}" \nm,c=b value=2')
    assert [measurement.customer for measurement in batch.measurements] == ["a", "b"]
    assert "line_too_long" in {item.code for item in batch.unreadable}


def test_the_longest_line_that_is_read():
    start = 'm,c=a value=1,s="\n'
    text = f'{start}{"x" * (MAX_LINE_CHARACTERS - len(start) - 2)}"'
    batch = read_text(f"{text}\nm,c=b value=2")
    assert [measurement.customer for measurement in batch.measurements] == ["a", "b"]


# Anything


def escaped(text: str, ends: str) -> str:
    return re.sub(f"([{ends}])", r"\\\1", text)


def written(measurement: str, tags: dict[str, str], note: str, value: str, timestamp: int | str) -> str:
    """A point as the protocol wants it written."""
    key = escaped(measurement, ", ")
    for name, text in tags.items():
        key += f",{escaped(name, ',= ')}={escaped(text, ',= ')}"
    string = note.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key} note="{string}",value={value} {timestamp}'


# The protocol cannot write a name that ends in a backslash, holds a line end, or begins a line with a blank or a "#".
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\n") | st.sampled_from('\\"=, #\t')
texts = st.text(characters, min_size=1, max_size=20).filter(lambda text: bool(text.strip()) and not text.endswith("\\"))
measurements = texts.filter(lambda text: text[0] not in "#\t\r")
notes = st.text(characters | st.just("\n"), max_size=20)
numbers = st.decimals(-(10**17), 10**17, allow_nan=False, allow_infinity=False, places=12).map(str)
timestamps = st.integers(-62104060800 * 10**9, 253339228799 * 10**9)
points = st.builds(
    lambda measurement, tags, customer, *rest: (measurement, tags | {"c": customer}, *rest),
    measurements,
    st.dictionaries(texts, texts, max_size=3),
    texts,
    notes,
    numbers | st.integers(-(10**17), 10**17).map("{}i".format) | st.integers(0, 10**17).map("{}u".format),
    timestamps,
)


@given(st.lists(points, max_size=5))
def test_what_was_written_is_read(sent: list[tuple[str, dict[str, str], str, str, int]]):
    lines = [written(*point) for point in sent]
    batch = read_text("\n".join(lines))
    assert batch.unreadable == []
    assert batch.indexes == [sum(line.count("\n") + 1 for line in lines[:number]) for number in range(len(lines))]
    for (measurement, tags, _, value, timestamp), read_back in zip(sent, batch.measurements, strict=True):
        assert read_back.meter == measurement
        assert read_back.customer == tags["c"]
        assert read_back.kind == tags.get("kind", "")
        assert read_back.value == Decimal(value.rstrip("iu"))
        assert read_back.at == EPOCH + timedelta(microseconds=timestamp // 1000)
        key = written(measurement, dict(sorted(tags.items())), "", "1", "").partition(" note=")[0]
        assert read_back.sender_id == f"{key} {timestamp}" or len(key) > 400


@given(measurements, st.dictionaries(texts, texts, max_size=3), notes, st.integers(-(2**53), 2**53), timestamps)
def test_what_the_official_client_writes_is_read(
    measurement: str, tags: dict[str, str], note: str, value: int, timestamp: int
):
    def plain(text: str) -> str:  # the client writes other control characters as escapes of its own
        return re.sub(r"[\t\r\n]", "", text) or "x"

    tags = {plain(name): plain(text) for name, text in tags.items()} | {"c": "a b,c=d"}
    point = Point(plain(measurement)).time(timestamp).field("value", value).field("note", note)
    for name, text in tags.items():
        point = point.tag(name, text)
    read_back = only_measurement(read_text(point.to_line_protocol()))
    assert (read_back.meter, read_back.customer, read_back.value) == (plain(measurement), "a b,c=d", Decimal(value))


plain_texts = st.text(st.sampled_from("ab#'é😀\t-"), min_size=1, max_size=4).filter(lambda text: bool(text.strip()))


@given(plain_texts, st.dictionaries(plain_texts, plain_texts, max_size=4), plain_texts, numbers, timestamps)
def test_splitting_and_parsing_read_the_same(
    measurement: str, tags: dict[str, str], customer: str, value: str, timestamp: int
):
    key = "".join([f"m{measurement}", *(f",{name}={text}" for name, text in (tags | {"c": customer}).items())])
    split = only_measurement(read_text(f"{key} value={value} {timestamp}"))
    parsed = only_measurement(read_text(f'{key},d=\\\\x a="\\"\n",value={value},z=t {timestamp}'))
    assert parsed.sender_id.replace(",d=\\\\x", "") == split.sender_id
    assert (parsed.meter, parsed.customer, parsed.at) == (split.meter, split.customer, split.at)
    assert repr(parsed.value) == repr(split.value)


tokens = st.sampled_from(
    ["m", ",c=x", ",a=", " ", "value=", "1", '"', "\\", "=", ",", "\n", "#", "i", "\t", "\r", " value=1", "\0", "é"]
)
soup = st.lists(tokens, max_size=30).map("".join).map(str.encode) | st.binary()


@given(soup, st.integers(1, 40))
@example(b'm,c=x value="\n#"\n', 5)
@example(b'm,c=x s="\\', 5)
def test_every_line_is_accounted_for_and_nothing_but_too_large_is_raised(body: bytes, max_lines: int):
    try:
        batch = read(body, NOW, mapping=ANY, max_lines=max_lines)
    except TooLarge:
        assert body.count(b"\n") + 1 > max_lines
        return
    assert len(batch.measurements) == len(batch.indexes)
    taken = {*batch.indexes, *(item.index for item in batch.unreadable)}
    assert len(taken) == len(batch.measurements) + len(batch.unreadable)
    for index, line in enumerate(body.split(b"\n")):
        text = line.strip(b" \t\r")
        assert b'"' in body or not text or text.startswith(b"#") or index in taken
    for item in batch.unreadable:
        assert item.raw in body


@given(
    st.lists(
        st.sampled_from(["m,c=x value=1", "m,c=x value=x", "m value=1", '"', 'm,c=x value="', "\xff,", "x y z"]),
        max_size=8,
    )
)
def test_as_many_lines_come_out_as_went_in(lines: list[str]):
    batch = read("\n".join(lines).encode("latin1"), NOW, mapping=ANY)
    spanned = sum(item.raw.count(b"\n") for item in batch.unreadable)
    assert len(batch.measurements) + len(batch.unreadable) + spanned == len(lines)
