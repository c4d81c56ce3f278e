"""Any message: what the library of Protocol Buffers reads, ours reads too, and nothing breaks it."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tallystick.kernel.errors import TooLarge
from tallystick.metering.sources import prometheus_wire as wire
from tallystick.metering.sources.prometheus_wire import Budget, MalformedMessage, TimeSeries
from tests.metering.sources.remote_write import Request, TimeSeriesV1, TimeSeriesV2, WriteRequest, classes

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
doubles = st.floats(allow_nan=False)
times = st.integers(-(2**63), 2**63 - 1)
labels = st.fixed_dictionaries({"name": texts, "value": texts})
samples = st.fixed_dictionaries({"value": doubles, "timestamp": times})
histograms = st.fixed_dictionaries(
    {"count_int": st.integers(0, 2**64 - 1), "sum": doubles, "schema": st.integers(-4, 8), "timestamp": times}
)
exemplars = st.fixed_dictionaries({"value": doubles, "timestamp": times})


def several(of: st.SearchStrategy[Any], at_most: int = 4) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, max_size=at_most)


series_v1 = st.fixed_dictionaries(
    {
        "labels": several(labels),
        "samples": several(samples),
        "histograms": several(histograms, 2),
        "exemplars": several(exemplars | st.fixed_dictionaries({"labels": several(labels)}), 2),
    }
)
requests_v1 = st.builds(
    WriteRequest,
    timeseries=several(series_v1),
    metadata=several(st.fixed_dictionaries({"metric_family_name": texts, "help": texts}), 2),
)


@st.composite
def built_v2(draw: st.DrawFn) -> Any:
    symbols = ["", *draw(st.lists(texts, min_size=1, max_size=200))]
    references = st.integers(0, len(symbols) - 1)
    pairs = several(st.tuples(references, references), 6)
    series = several(
        st.fixed_dictionaries(
            {
                "labels_refs": pairs.map(lambda pairs: [reference for pair in pairs for reference in pair]),
                "samples": several(samples | samples.map(lambda sample: sample | {"start_timestamp": 5})),
                "histograms": several(histograms, 2),
                "exemplars": several(exemplars, 2),
                "metadata": st.fixed_dictionaries({"type": st.integers(0, 7), "help_ref": references}),
            }
        )
    )
    return Request(symbols=symbols, timeseries=draw(series))


def packed(value: float) -> bytes:
    return struct.pack("<d", value)


def as_ours(labels: tuple[str, ...], series: Any) -> TimeSeries:
    return TimeSeries(
        labels,
        [(packed(sample.value), sample.timestamp) for sample in series.samples],
        [(each.SerializeToString(), each.timestamp) for each in series.histograms],
        len(series.exemplars),
    )


def as_ours_v1(series: Any) -> TimeSeries:
    return as_ours(tuple(text for label in series.labels for text in (label.name, label.value)), series)


@given(requests_v1)
def test_what_was_written_in_1_0_is_read(request: Any) -> None:
    messages = wire.series_of_v1(request.SerializeToString(), Budget())
    assert [wire.read_v1(message, Budget()) for message in messages] == [
        as_ours_v1(series) for series in request.timeseries
    ]


@given(built_v2())
def test_what_was_written_in_2_0_is_read(request: Any) -> None:
    symbols, messages = wire.series_of_v2(request.SerializeToString(), Budget())
    assert symbols == list(request.symbols)
    assert [wire.read_v2(message, symbols, Budget()) for message in messages] == [
        as_ours(tuple(request.symbols[reference] for reference in series.labels_refs), series)
        for series in request.timeseries
    ]


@given(series_v1)
def test_a_known_part_and_its_sample_are_the_message(series: dict[str, Any]) -> None:
    message = TimeSeriesV1(**series).SerializeToString()
    part = wire.known_part(message)
    whole = wire.read_v1(message, Budget())
    if part is None:
        return
    try:
        before = wire.read_v1(part, Budget())
    except MalformedMessage:
        return
    assert (before.labels, before.histograms) == (whole.labels, whole.histograms)
    timestamp = wire.timestamp_of(message[-6:])
    if timestamp is not None:
        assert whole.samples == [*before.samples, (message[-15:-7], timestamp)]


@pytest.mark.parametrize("value", [0.1, -1.5, 1e300, float("inf")])
def test_nearly_all_samples_have_a_known_part(value: float) -> None:
    """Or the short way would be no way."""
    labels = [{"name": "__name__", "value": "up"}]
    message = TimeSeriesV1(labels=labels, samples=[{"value": value, "timestamp": 1_795_000_000_123}])
    part = wire.known_part(message.SerializeToString())
    assert part == TimeSeriesV1(labels=labels).SerializeToString()
    assert wire.timestamp_of(message.SerializeToString()[-6:]) == 1_795_000_000_123


def test_numbers_of_references_may_stand_alone_or_together() -> None:
    """Senders pack them; the format lets them not to."""
    alone = b"".join(b"\x08" + bytes([reference]) for reference in (1, 2))
    assert wire.read_v2(alone, ["", "a", "b"], Budget()).labels == ("a", "b")
    assert TimeSeriesV2.FromString(alone).labels_refs == [1, 2]


valid = (requests_v1 | built_v2()).map(lambda request: request.SerializeToString())
pieces = st.sampled_from(
    [
        b"\x0a",
        b"\x12\x10\x09",
        b"\x08\xff",
        b"\xff" * 9 + b"\x01",
        b"\x2a\x02\x0a\x00",
        b"\x00",
        b"\x0b",
        b"\x0d",
        b"\x80",
    ]
)
hostile = (
    st.binary(max_size=60)
    | st.lists(pieces | st.binary(max_size=5), max_size=12).map(b"".join)
    | st.builds(
        lambda data, at, noise: data[: at % (len(data) + 1)] + noise, valid, st.integers(0), st.binary(max_size=4)
    )
)


# As the published schema, but for what is no concern of ours, which is bytes.
_SAMPLE = [("value", 1, "double"), ("timestamp", 2, "int64")]
_HISTOGRAM = [("timestamp", 15, "int64")]
ESSENCE_V1 = classes(
    "essence1",
    {
        "WriteRequest": [("timeseries", 1, "*TimeSeries"), ("metadata", 3, "*bytes")],
        "TimeSeries": [
            ("labels", 1, "*Label"),
            ("samples", 2, "*Sample"),
            ("exemplars", 3, "*bytes"),
            ("histograms", 4, "*Histogram"),
        ],
        "Label": [("name", 1, "string"), ("value", 2, "string")],
        "Sample": _SAMPLE,
        "Histogram": _HISTOGRAM,
    },
)["WriteRequest"]
ESSENCE_V2 = classes(
    "essence2",
    {
        "Request": [("symbols", 4, "*string"), ("timeseries", 5, "*TimeSeries")],
        "TimeSeries": [
            ("labels_refs", 1, "*uint32"),
            ("samples", 2, "*Sample"),
            ("histograms", 3, "*Histogram"),
            ("exemplars", 4, "*bytes"),
            ("metadata", 5, "bytes"),
        ],
        "Sample": _SAMPLE,
        "Histogram": _HISTOGRAM,
    },
)["Request"]


def essence(series: Any, labels: tuple[str, ...]) -> Any:
    """What matters of a series; NaN is not compared bit by bit, as Python's floats do not keep all of them."""
    values = [
        ("nan" if sample.value != sample.value else packed(sample.value), sample.timestamp) for sample in series.samples
    ]
    return labels, values, [each.timestamp for each in series.histograms], len(series.exemplars)


def essence_of_ours(series: TimeSeries) -> Any:
    values = [("nan" if math.isnan(struct.unpack("<d", value)[0]) else value, time) for value, time in series.samples]
    return series.labels, values, [time for _, time in series.histograms], series.exemplars


@given(hostile)
@example(b"\x0a\x04\x0a\x02\x0a\x00")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0a\x06\x12\x04\x10\x80\x80\x80")
def test_whatever_comes_is_refused_or_read_as_the_library_reads_it(data: bytes) -> None:
    try:
        ours = [wire.read_v1(each, Budget()) for each in wire.series_of_v1(data, Budget())]
    except MalformedMessage:
        return
    theirs = ESSENCE_V1.FromString(data).timeseries
    assert list(map(essence_of_ours, ours)) == [
        essence(each, tuple(text for label in each.labels for text in (label.name, label.value))) for each in theirs
    ]


@given(hostile)
def test_so_it_is_in_2_0(data: bytes) -> None:
    try:
        symbols, messages = wire.series_of_v2(data, Budget())
        ours = [wire.read_v2(each, symbols, Budget()) for each in messages]
    except MalformedMessage:
        return
    theirs = ESSENCE_V2.FromString(data)
    assert symbols == list(theirs.symbols)
    assert list(map(essence_of_ours, ours)) == [
        essence(each, tuple(symbols[reference] for reference in each.labels_refs)) for each in theirs.timeseries
    ]


@pytest.mark.parametrize("fields", [wire.MAX_FIELDS, wire.MAX_FIELDS + 1])
def test_a_request_has_only_so_many_fields(fields: int) -> None:
    body = b"\x0a\x00" * fields
    if fields > wire.MAX_FIELDS:
        with pytest.raises(TooLarge):
            wire.series_of_v1(body, Budget())
    else:
        assert len(wire.series_of_v1(body, Budget())) == fields


def test_the_fields_of_all_parts_count_together() -> None:
    budget = Budget(10)
    message = TimeSeriesV1(samples=[{"value": 1, "timestamp": 1}] * 3).SerializeToString()
    wire.read_v1(message, budget)
    assert budget.fields == 1
    with pytest.raises(TooLarge):
        wire.read_v1(message, budget)
    with pytest.raises(TooLarge):
        wire.read_v2(b"\x0a\x0b" + b"\x00" * 11, [""], Budget(10))


@given(st.lists(st.sampled_from([0, 1, 100, 127, 128, 129, 16_383, 16_384, 20_000]), max_size=6), st.integers(0, 6))
def test_series_of_any_length_are_found_before_and_after_what_is_none(lengths: list[int], metadata_at: int) -> None:
    """Those with which a request begins are taken apart in a quicker way."""
    series = [bytes([number]) * length for number, length in enumerate(lengths)]
    parts = [b"\x0a" + varint(len(each)) + each for each in series]
    parts.insert(metadata_at, b"\x1a\x02\x10\x01")
    body = b"".join(parts)
    assert wire.series_of_v1(body, Budget()) == series
    assert wire.series_of_v1(body, Budget(len(parts))) == series
    with pytest.raises(TooLarge):
        wire.series_of_v1(body, Budget(len(parts) - 1))
    for cut_off in (b"\x0a", b"\x0a\x01", b"\x0a\x80", b"\x0a\x80\x01", b"\x0a\x80\x01" + bytes(127)):
        with pytest.raises(MalformedMessage):
            wire.series_of_v1(body + cut_off, Budget())


def varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
