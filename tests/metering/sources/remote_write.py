"""Messages of Prometheus remote write, written by the library of Protocol Buffers from the published schema.

The classes are made from this description when the module is loaded, so that no generated code lies around.
"""

from __future__ import annotations

import struct
from typing import Any

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = tuple[str, int, str]

# prompb/types.proto and prompb/remote.proto; "*" stands for repeated
V1 = {
    "WriteRequest": [("timeseries", 1, "*TimeSeries"), ("metadata", 3, "*MetricMetadata")],
    "MetricMetadata": [("type", 1, "int32"), ("metric_family_name", 2, "string"), ("help", 4, "string")],
    "TimeSeries": [
        ("labels", 1, "*Label"),
        ("samples", 2, "*Sample"),
        ("exemplars", 3, "*Exemplar"),
        ("histograms", 4, "*Histogram"),
    ],
    "Label": [("name", 1, "string"), ("value", 2, "string")],
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64")],
    "Exemplar": [("labels", 1, "*Label"), ("value", 2, "double"), ("timestamp", 3, "int64")],
    "Histogram": [
        ("count_int", 1, "uint64"),
        ("sum", 3, "double"),
        ("schema", 4, "sint32"),
        ("timestamp", 15, "int64"),
    ],
}

# prompb/io/prometheus/write/v2/types.proto
V2 = {
    "Request": [("symbols", 4, "*string"), ("timeseries", 5, "*TimeSeries")],
    "TimeSeries": [
        ("labels_refs", 1, "*uint32"),
        ("samples", 2, "*Sample"),
        ("histograms", 3, "*Histogram"),
        ("exemplars", 4, "*Exemplar"),
        ("metadata", 5, "Metadata"),
    ],
    "Sample": [("value", 1, "double"), ("timestamp", 2, "int64"), ("start_timestamp", 3, "int64")],
    "Exemplar": [("labels_refs", 1, "*uint32"), ("value", 2, "double"), ("timestamp", 3, "int64")],
    "Metadata": [("type", 1, "int32"), ("help_ref", 3, "uint32"), ("unit_ref", 4, "uint32")],
    "Histogram": [
        ("count_int", 1, "uint64"),
        ("sum", 3, "double"),
        ("schema", 4, "sint32"),
        ("timestamp", 15, "int64"),
        ("start_timestamp", 17, "int64"),
    ],
}

_Kind = descriptor_pb2.FieldDescriptorProto


def classes(package: str, messages: dict[str, list[Field]]) -> dict[str, Any]:
    """The classes of messages with these fields: name, number, type."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, written in fields:
            added = message.field.add(name=field, number=number)
            added.label = _Kind.LABEL_REPEATED if written.startswith("*") else _Kind.LABEL_OPTIONAL
            kind = written.removeprefix("*")
            if kind in messages:
                added.type, added.type_name = _Kind.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(_Kind, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


_V1, _V2 = classes("prometheus", V1), classes("io.prometheus.write.v2", V2)
WriteRequest, TimeSeriesV1 = _V1["WriteRequest"], _V1["TimeSeries"]
Request, TimeSeriesV2 = _V2["Request"], _V2["TimeSeries"]

STALE = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]
"""The NaN that says that a series has ended."""

Series = tuple[dict[str, str], list[tuple[float, int]]]
"""Labels, and values with milliseconds since 1970."""


def v1(*series: Series, **more: Any) -> bytes:
    """A request of remote write 1.0, as Prometheus writes it: labels in the order of their names."""
    return bytes(
        WriteRequest(
            timeseries=[
                {
                    "labels": [{"name": name, "value": value} for name, value in sorted(labels.items())],
                    "samples": [{"value": value, "timestamp": time} for value, time in samples],
                }
                for labels, samples in series
            ],
            **more,
        ).SerializeToString()
    )


def v2(*series: Series) -> bytes:
    """The same of 2.0."""
    symbols = {"": 0}
    rows = []
    for labels, samples in series:
        references = [symbols.setdefault(text, len(symbols)) for pair in sorted(labels.items()) for text in pair]
        rows.append(
            {
                "labels_refs": references,
                "samples": [{"value": value, "timestamp": time} for value, time in samples],
                "metadata": {"type": 1, "help_ref": 0},
            }
        )
    return bytes(Request(symbols=list(symbols), timeseries=rows).SerializeToString())


def compressed(message: bytes) -> bytes:
    """One block of Snappy."""
    return bytes(cramjam.snappy.compress_raw(message))


HEADERS_V1 = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
HEADERS_V2 = HEADERS_V1 | {
    "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "X-Prometheus-Remote-Write-Version": "2.0.0",
}
