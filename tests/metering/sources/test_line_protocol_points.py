"""What a line that keeps to the grammar comes to: its time, its natural key, its customer; and how much is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from tallystick.kernel.errors import InvalidInput, TooLarge
from tallystick.kernel.text import MAX_TEXT_CHARACTERS
from tallystick.metering.sources.line_protocol import (
    MAX_LINE_CHARACTERS,
    MAX_NATURAL_KEY_CHARACTERS,
    NANOSECONDS,
    LineMapping,
    read,
)
from tallystick.metering.sources.values import EARLIEST, LATEST
from tests.metering.sources.batches import only_measurement, only_unreadable
from tests.metering.sources.lines import ANY, EPOCH, NOW, read_text

NOW_NS = 1_772_366_400_000_000_000

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
