from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.sources.line_protocol import LineMapping, read
from tests.metering.sources.batches import only_measurement, only_unreadable
from tests.metering.sources.lines import ANY, NOW, read_text

WEATHER = LineMapping(customer_tag="location", resource_tag="", field="temperature")


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
