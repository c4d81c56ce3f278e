"""What remote write means: which samples become measurements, under which ids, and what becomes of the rest."""

from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import TooLarge
from tallystick.metering.model import Batch, Measurement
from tallystick.metering.series import OPENSTACK, Rule, SeriesMap, parse_selector
from tallystick.metering.sources import line_protocol, prometheus
from tallystick.metering.sources.prometheus import V1, V2, Reader, Received, Result, Version, decompress
from tallystick.metering.sources.prometheus_wire import MalformedMessage
from tallystick.metering.sources.values import Refused
from tests.metering.sources.batches import only_measurement, only_unreadable
from tests.metering.sources.lines import NOW
from tests.metering.sources.remote_write import STALE, Series, TimeSeriesV1, WriteRequest, compressed, v1, v2

AT = 1_546_905_600_123
"""2019-01-08 00:00:00.123 UTC, in milliseconds."""


def labels(metric: str = "project_vcpu_usage", project: str = "os_credits_1", **more: str) -> dict[str, str]:
    return {"__name__": metric, "project_name": project, "location_id": "8676", "job": "project_usages", **more}


def reader(*rules: Rule, whitelist: frozenset[str] | None = None) -> Reader:
    return Reader(SeriesMap(rules or OPENSTACK, whitelist))


def rule(select: str, **fields: Any) -> Rule:
    return Rule(select, parse_selector(select), **fields)


def read(*series: Series, version: Version = V1, by: Reader | None = None) -> Received:
    return (by or reader()).read(v1(*series) if version == V1 else v2(*series), version)


@pytest.mark.parametrize("version", [V1, V2])
def test_a_sample_of_a_mapped_series_is_a_measurement(version: Version) -> None:
    received = read((labels(), [(12.5, AT)]), version=version)
    assert only_measurement(received.batch) == Measurement(
        source="line-protocol",
        sender_id=(
            "project_vcpu_usage,__name__=project_vcpu_usage,job=project_usages,location_id=8676,"
            f"project_name=os_credits_1 {AT}000000"
        ),
        customer="os_credits_1",
        meter="project_vcpu_usage",
        at=datetime(2019, 1, 8, 0, 0, 0, 123000, tzinfo=UTC),
        value=Decimal("12.5"),
        resource="8676",
    )
    assert (received.samples, received.ignored) == (1, 0)
    assert (received.batch.source, received.batch.indexes, received.batch.creates_meters) == ("prometheus", [0], False)


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n") | st.sampled_from(', ="\\é'),
    min_size=1,
    max_size=8,
).filter(lambda text: not text.endswith("\\") and bool(text.strip()))
names = st.text(st.sampled_from("abcxyz_019"), min_size=1, max_size=8).map("_{}".format)


@given(
    st.dictionaries(names, texts, max_size=4),
    texts,
    st.floats(-1e17, 1e17).filter(lambda value: value == 0 or abs(value) > 1e-12),
    st.integers(1, 2**42),
)
def test_a_sample_is_the_same_measurement_by_way_of_influxdb(
    more: dict[str, str], project: str, value: float, time: int
) -> None:
    """InfluxDB 1.x writes the labels as tags, the value in Go's shortest form, and nanoseconds."""
    sent = labels(project=project) | more
    direct = only_measurement(read((sent, [(value, time)])).batch)
    tags = ",".join(f"{name}={line_protocol._escaped(text)}" for name, text in sorted(sent.items()))
    line = f"project_vcpu_usage,{tags} value={value!r} {time * 1_000_000}"
    mirrored = only_measurement(line_protocol.read(line.encode(), NOW))
    assert direct == mirrored


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["project_vcpu_usage", "project_mb_usage", "up"]).map(labels)
            | st.dictionaries(names, texts, max_size=3),
            st.lists(
                st.tuples(st.floats() | st.just(STALE) | st.floats(0, 1e6), st.integers(-(2**50), 2**50)), max_size=3
            ),
        ),
        max_size=5,
    )
)
def test_every_sample_is_accounted_for_and_both_versions_read_the_same(series: list[Series]) -> None:
    by = reader()
    first, second, again = read(*series, by=by), read(*series, version=V2), read(*series, by=by)
    assert first == second == again  # also once the series are known
    assert first.samples == sum(len(samples) for _, samples in series)
    assert first.samples == len(first.batch.measurements) + first.ignored + first.refused_samples
    assert len(first.batch.measurements) == len(first.batch.indexes) == len(set(first.batch.indexes))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_value_is_the_shortest_decimal_that_reads_back_as_the_same_double(value: float) -> None:
    received = read((labels(), [(value, AT)]))
    if received.refused_samples:
        assert abs(value) >= 1e18 or abs(value) < 1e-12  # more digits than are kept
        return
    taken = only_measurement(received.batch).value
    assert struct.pack("<d", taken) == struct.pack("<d", value + 0.0)
    assert len(taken.as_tuple().digits) <= 18


@pytest.mark.parametrize(
    ("value", "taken"),
    [(0.0, "0"), (-0.0, "0"), (5.0, "5"), (0.1, "0.1"), (1e17, "100000000000000000"), (1e-7, "1E-7")],
)
def test_values_as_they_are_written(value: float, taken: str) -> None:
    assert str(only_measurement(read((labels(), [(value, AT)])).batch).value) == taken


@pytest.mark.parametrize("version", [V1, V2])
def test_series_that_are_no_usage_are_left_alone_and_counted(version: Version) -> None:
    other = labels("up"), [(1.0, AT), (math.nan, AT), (math.inf, AT)]
    received = read(other, (labels(), [(1.0, AT)]), ({}, [(1.0, AT)]), version=version)
    assert (received.samples, received.ignored, received.refused_samples) == (5, 4, 0)
    assert received.batch.indexes == [3]
    assert received.batch.unreadable == []


def test_customers_outside_the_whitelist_are_left_alone() -> None:
    by = reader(whitelist=frozenset({"in"}))
    received = read(*((labels(project=name), [(1.0, AT)]) for name in ("in", "out")), by=by)
    assert [each.customer for each in received.batch.measurements] == ["in"]
    assert received.ignored == 1


@pytest.mark.parametrize("version", [V1, V2])
def test_a_series_that_has_ended_costs_nothing(version: Version) -> None:
    received = read((labels(), [(STALE, AT)]), (labels(project="p"), [(1.0, AT), (STALE, AT + 1)]), version=version)
    assert (received.samples, received.ignored, received.refused_samples) == (3, 2, 0)
    assert only_measurement(received.batch).customer == "p"


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e18, 1e-31])
def test_a_value_that_cannot_be_charged_is_kept(value: float, version: Version) -> None:
    received = read((labels(), [(1.0, AT), (value, AT + 1), (2.0, AT + 2)]), version=version)
    assert [str(each.value) for each in received.batch.measurements] == ["1", "2"]
    assert received.batch.indexes == [0, 2]
    (piece,) = received.batch.unreadable
    assert (piece.index, piece.code, piece.reader) == (1, "invalid_value", "prometheus")
    assert received.refused_samples == 1
    kept = json.loads(piece.raw)
    assert dict(zip(kept["labels"][::2], kept["labels"][1::2], strict=True)) == labels()
    assert kept["samples"] == [[repr(value), AT + 1]]


def test_a_time_that_cannot_be_is_kept() -> None:
    received = read((labels(), [(1.0, 2**62), (1.0, -(2**62))]))
    piece = only_unreadable(received.batch)
    assert (piece.code, received.refused_samples) == ("invalid_time", 2)


@pytest.mark.parametrize("version", [V1, V2])
def test_labels_that_cannot_be_mapped_are_kept(version: Version) -> None:
    without = {"__name__": "project_vcpu_usage", "project_name": "p"}
    received = read((without, [(1.0, AT), (2.0, AT)]), version=version)
    piece = only_unreadable(received.batch)
    assert (piece.code, piece.detail) == ("missing_label", "label location_id is required")
    assert received.refused_samples == 2


def test_an_empty_label_is_none_and_one_given_twice_is_refused() -> None:
    sent = labels() | {"kind": "", "empty": ""}
    measurement = only_measurement(read((sent, [(1.0, AT)])).batch)
    assert (measurement.kind, "empty" in measurement.sender_id) == ("", False)
    twice = [{"name": name, "value": value} for name, value in [*labels().items(), ("job", "other")]]
    request = WriteRequest(timeseries=[{"labels": twice, "samples": [{"value": 1, "timestamp": AT}]}])
    assert only_unreadable(reader().read(request.SerializeToString(), V1).batch).code == "duplicate_label"


def test_histograms_and_exemplars_are_never_charged() -> None:
    histogram = {"sum": 12.5, "count_int": 3, "timestamp": AT}
    exemplar = {"value": 12.5, "timestamp": AT}

    def request(metric: str) -> bytes:
        named = [{"name": name, "value": value} for name, value in labels(metric).items()]
        series = {"labels": named, "histograms": [histogram], "exemplars": [exemplar]}
        return bytes(WriteRequest(timeseries=[series]).SerializeToString())

    ignored = reader().read(request("up"), V1)
    assert (ignored.histograms, ignored.exemplars, ignored.refused_histograms) == (1, 1, 0)
    assert (ignored.batch.unreadable, ignored.batch.measurements) == ([], [])
    kept = reader().read(request("project_vcpu_usage"), V1)
    assert (kept.histograms, kept.exemplars, kept.refused_histograms) == (1, 1, 1)
    assert only_unreadable(kept.batch).code == "histogram"


def test_metadata_alone_brings_nothing() -> None:
    received = reader().read(v1(metadata=[{"metric_family_name": "up", "help": "x"}]), V1)
    assert received == Received(Batch("prometheus", [], [], [], creates_meters=False))


@pytest.mark.parametrize("version", [V1, V2])
def test_a_rules_scale_is_applied_and_does_not_change_the_id(version: Version) -> None:
    scaled = reader(rule("project_mb_usage", resource=("location_id",), meter="ram", scale=Decimal("0.0009765625")))
    sent = labels("project_mb_usage"), [(1024.0, AT), (1.0, AT + 1)]
    measurements = read(sent, version=version, by=scaled).batch.measurements
    assert [(each.meter, each.value) for each in measurements] == [("ram", 1), ("ram", Decimal("0.0009765625"))]
    plain = read(sent, version=version).batch.measurements
    assert [each.sender_id for each in measurements] == [each.sender_id for each in plain]


def test_a_metric_that_changed_its_unit_is_scaled_to_that_of_its_meter() -> None:
    """The trap of the first system: newer exporters count GiB hours under the name that meant MiB hours before."""
    common = {"resource": ("location_id",), "meter": "project_mb_usage"}
    newer = rule('project_mb_usage{instance="newer"}', scale=Decimal(1024), **common)
    by = reader(newer, rule("project_mb_usage", **common))
    received = read(*((labels("project_mb_usage", instance=age), [(2.0, AT)]) for age in ("newer", "older")), by=by)
    assert [(each.meter, each.value) for each in received.batch.measurements] == [
        ("project_mb_usage", Decimal(2048)),
        ("project_mb_usage", Decimal(2)),
    ]


@pytest.mark.parametrize("milliseconds", [1_553_342_599_293, 1_553_342_599_001, 999, -1, 253_339_228_799_999])
def test_times_are_exact_and_of_utc_where_the_first_system_rounded_them_to_local_ones(milliseconds: int) -> None:
    at = only_measurement(read((labels(), [(1.0, milliseconds)])).batch).at
    assert at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    assert at.tzinfo is UTC


def test_a_request_has_only_so_many_samples() -> None:
    many = [(labels(project=f"p{number}"), [(1.0, AT)]) for number in range(4)]
    by = reader()
    for message, version in ((v1(*many), V1), (v1(*many), V1), (v2(*many), V2)):
        assert by.read(message, version, max_samples=4).samples == 4  # type: ignore[arg-type]
        with pytest.raises(TooLarge, match="at most 3 samples"):
            by.read(message, version, max_samples=3)  # type: ignore[arg-type]


def test_a_request_cannot_be_blown_up_by_reference() -> None:
    """In 2.0 a long label costs two bytes each time it is named."""
    long = {"__name__": "project_vcpu_usage", "x": "x" * (1 << 20)}
    series = [(long | {"n": str(number)}, [(1.0, AT)]) for number in range(100)]
    with pytest.raises(TooLarge, match="so long, labels"):
        read(*series, version=V2)
    assert read(*series[:10], version=V2).refused_samples == 10


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_KNOWN_SERIES", 10)
    by = reader()
    for number in range(100):
        read((labels(project=f"p{number}"), [(1.0, AT)]), by=by)
        assert len(by._known) <= 10
    read((labels(other="x" * 5000), [(1.0, AT)]), by=by)
    assert not any("x" * 5000 in str(key) for key in by._known)


# Pieces


def mend(received: Received, old: str, new: str) -> bytes:
    return only_unreadable(received.batch).raw.replace(old.encode(), new.encode())


def test_a_mended_piece_is_read_as_if_it_had_been_right() -> None:
    piece = mend(read((labels(), [(math.nan, AT)])), '"nan"', "12.5")
    right = read((labels(), [(12.5, AT)])).batch
    assert reader().read_piece(piece).measurements == right.measurements
    assert reader().read_piece(piece.replace(b"12.5", b'"12.5"')).measurements == right.measurements


def test_a_piece_is_read_by_the_rules_of_today() -> None:
    piece = only_unreadable(read(({"__name__": "project_vcpu_usage", "org": "o"}, [(1.0, AT)])).batch).raw
    today = reader(rule("project_vcpu_usage", customer="org"))
    assert only_measurement(today.read_piece(piece)).customer == "o"
    with pytest.raises(Refused, match="no rule maps"):
        reader(rule("other")).read_piece(piece)


def test_what_is_still_wrong_with_a_piece_is_said() -> None:
    piece = mend(read((labels(), [(math.nan, AT), (math.inf, AT)])), '"nan"', "3")
    batch = reader().read_piece(piece)
    assert [each.value for each in batch.measurements] == [3]
    assert [each.code for each in batch.unreadable] == ["invalid_value"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b'{"labels":["a"]}',
        b'{"labels":["a","\\ud800"]}',
        b'{"labels":[],"samples":[["x",1]]}',
        b'{"labels":[],"samples":[[1,"x"]]}',
        b'{"labels":[],"sample":[]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_piece_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        reader().read_piece(raw)
    assert refused.value.code == "invalid_piece"


# Results of queries


def test_the_result_of_a_query_is_mapped_by_its_rule() -> None:
    """It may have lost the name; the query stands in for it, so two of them never bring the same measurement."""
    asked = [
        rule("m", customer="team", meter="use", query=f"sum by (team) (increase(m[{hours}h]))") for hours in (1, 2)
    ]
    by = reader(*asked)
    ids = set()
    for each in asked:
        received = by.read_result(each, [Result(("team", "t"), [("1.5", AT), ("NaN", AT)], query=each.query)])
        (measurement,) = received.batch.measurements
        assert (measurement.customer, measurement.meter, measurement.value) == ("t", "use", Decimal("1.5"))
        ids.add(measurement.sender_id)
        piece = received.batch.unreadable[0].raw.replace(b'"NaN"', b"1.5")
        assert by.read_piece(piece).measurements == [measurement]
    assert len(ids) == 2


# Compression


def test_a_body_is_one_block_of_snappy() -> None:
    assert decompress(compressed(b"x" * 1000), 1000) == b"x" * 1000
    with pytest.raises(TooLarge, match="not be longer than 999 bytes once it is decompressed"):
        decompress(compressed(b"x" * 1000), 999)
    for body in (b"", b"\xff" * 20, compressed(b"x" * 1000)[:-1], b"\x05abc", b"\xff\x06\x00\x00sNaPpY"):
        with pytest.raises(MalformedMessage, match="one block of Snappy"):
            decompress(body, 1 << 20)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    announced = b"\xff\xff\xff\xff\x0f"  # 4 GiB
    with pytest.raises(TooLarge):
        decompress(announced + b"\x00", 32 << 20)


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_refused_or_read(body: bytes) -> None:
    for version in (V1, V2):
        try:
            reader().read(body, version)
        except (MalformedMessage, TooLarge):
            continue


def test_a_message_whose_end_looks_like_a_sample_is_read_as_what_it_is() -> None:
    """The value of a label may hold the very bytes of a sample."""
    tail = TimeSeriesV1(samples=[{"value": 1.5, "timestamp": AT}]).SerializeToString()
    text = "x" * 20 + "\x12\x10\x09" + "y" * 8 + "\x10" + "z" * 6
    by = reader()
    odd = labels(zz=text)
    assert read((odd, []), by=by).samples == 0
    assert read((odd, [(1.5, AT)]), by=by).samples == 1
    assert len(tail) == 18
