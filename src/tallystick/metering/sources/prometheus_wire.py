"""The two messages of Prometheus remote write, taken apart: the wire format of Protocol Buffers.

``prometheus.WriteRequest`` of remote write 1.0 and ``io.prometheus.write.v2.Request`` of 2.0, as far as usage needs
them. Written by hand because a series that is known need not be decoded at all: what comes before its sample is the
same bytes every time (``known_part``), which no general decoder makes use of. The tests compare each message with what
the library of Protocol Buffers reads.

Sources: "Encoding" of protobuf.dev; ``prompb/types.proto``, ``prompb/remote.proto`` and
``prompb/io/prometheus/write/v2/types.proto`` of prometheus/prometheus.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tallystick.kernel.errors import InvalidInput, TooLarge

MAX_FIELDS: Final = 2_000_000
"""Fields in one request, those of its parts included: 50,000 series of 13 labels, or about a second of work."""

VARINT, I64, LEN, I32 = 0, 1, 2, 5
"""Wire types. The others are groups, which proto3 does not have, and nothing."""

NO_VALUE: Final = bytes(8)
"""The bytes of 0.0, which is what a sample without a value has."""

_MAX_VARINT_BYTES = 10
_MAX_TAG = (1 << 32) - 1
_SIGN = 1 << 63
_WHOLE = 1 << 64

_SAMPLE_BYTES = 18
"""Length of a sample as nearly all are: field 2, 16 bytes long; a double; a timestamp of six bytes (1971 to 2109)."""
_SAMPLE_HEAD = b"\x12\x10\x09"
_SERIES_TAG, _VALUE_TAG, _TIMESTAMP_TAG = 0x0A, 0x09, 0x10


class MalformedMessage(InvalidInput):
    """The bytes are not the message that they are said to be. Sending them again would not help."""

    code = "malformed_message"
    status = 400


class Budget(msgspec.Struct):
    """How many more fields of a request are read. One of lies must not keep everybody else waiting."""

    fields: int = MAX_FIELDS


Sample = tuple[bytes, int]
"""The eight bytes of a double, little end first, and milliseconds since 1970."""


class TimeSeries(msgspec.Struct, gc=False):
    """One series of a request. ``labels`` are names and values in turn; a histogram is its bytes and its time."""

    labels: tuple[str, ...]
    samples: list[Sample]
    histograms: list[tuple[bytes, int]]
    exemplars: int


# Messages


def series_of_v1(body: bytes, budget: Budget) -> list[bytes]:
    """Each series of a ``prometheus.WriteRequest`` in its own bytes. Raises ``MalformedMessage``, ``TooLarge``."""
    series, at = _leading_series(body, budget)
    if at < len(body):
        series += [content for number, kind, content in _fields(body[at:], budget) if number == 1 and kind == LEN]
    return series


def _leading_series(body: bytes, budget: Budget) -> tuple[list[bytes], int]:
    """The series with which a request begins, and where something else comes, or one that is cut off.

    Nearly always that is all of it. A series is less than 16 KiB long here, so its length takes one byte or two.
    """
    series: list[bytes] = []
    at, end = 0, len(body) - 2
    for _ in range(budget.fields):
        if at >= end or body[at] != _SERIES_TAG:
            break
        length, begin = body[at + 1], at + 2
        if length >= 0x80:
            if (high := body[begin]) >= 0x80:
                break
            length, begin = (length & 0x7F) | high << 7, begin + 1
        if begin + length > end + 2:
            break
        at = begin + length
        series.append(body[begin:at])
    _spend(budget, len(series))
    return series, at


def series_of_v2(body: bytes, budget: Budget) -> tuple[list[str], list[bytes]]:
    """Symbols and series of an ``io.prometheus.write.v2.Request``. Raises ``MalformedMessage``, ``TooLarge``."""
    symbols: list[str] = []
    series: list[bytes] = []
    for number, kind, content in _fields(body, budget):
        if kind == LEN and number == 5:
            series.append(content)
        elif kind == LEN and number == 4:
            symbols.append(_text(content))
    return symbols, series


def read_v1(message: bytes, budget: Budget) -> TimeSeries:
    """One series of remote write 1.0. Raises ``MalformedMessage``, ``TooLarge``."""
    labels: list[str] = []
    series = TimeSeries((), [], [], 0)
    for number, kind, content in _fields(message, budget):
        if kind != LEN:
            continue
        if number == 1:
            labels += _label(content, budget)
        elif number == 2:
            series.samples.append(_sample(content, budget))
        elif number == 3:
            series.exemplars += 1
        elif number == 4:
            series.histograms.append(_histogram(content, budget))
    series.labels = tuple(labels)
    return series


def read_v2(message: bytes, symbols: list[str], budget: Budget) -> TimeSeries:
    """One series of remote write 2.0. Raises ``MalformedMessage``, ``TooLarge``."""
    references: list[int] = []
    series = TimeSeries((), [], [], 0)
    for number, kind, content in _fields(message, budget):
        if number == 1 and kind == LEN:
            references += _packed(content, budget)
        elif number == 1 and kind == VARINT:
            references.append(content & _MAX_TAG)
        elif kind == LEN and number == 2:
            series.samples.append(_sample(content, budget))
        elif kind == LEN and number == 3:
            series.histograms.append(_histogram(content, budget))
        elif kind == LEN and number == 4:
            series.exemplars += 1
    if len(references) % 2:
        raise MalformedMessage("labels_refs must hold a name and a value in turn")
    try:
        series.labels = tuple([symbols[reference] for reference in references])
    except IndexError:
        raise MalformedMessage("labels_refs must refer to symbols of the request") from None
    return series


def known_part(message: bytes) -> bytes | None:
    """What stands before the one sample at the end of a series of remote write 1.0; None if it does not end like that.

    If the part is whole fields, the message is those fields and a sample: the value is ``message[-15:-7]``, the
    timestamp the varint ``message[-6:]``. The part is nearly always the labels, and the same every time.
    """
    if message[-18:-15] == _SAMPLE_HEAD and message[-7] == _TIMESTAMP_TAG:
        return message[:-_SAMPLE_BYTES]
    return None


def timestamp_of(varint: bytes) -> int | None:
    """The number in ``varint`` if it takes all of the bytes."""
    try:
        value, end = _varint(varint, 0)
    except IndexError:
        return None
    return _signed(value) if end == len(varint) else None


# Their parts


def _label(content: bytes, budget: Budget) -> tuple[str, str]:
    name = value = b""
    for number, kind, part in _fields(content, budget):
        if kind == LEN and number == 1:
            name = part
        elif kind == LEN and number == 2:
            value = part
    return _text(name), _text(value)


def _sample(content: bytes, budget: Budget) -> Sample:
    if len(content) == 16 and content[0] == _VALUE_TAG and content[9] == _TIMESTAMP_TAG:
        at_ms = timestamp_of(content[10:])
        if at_ms is not None:
            return content[1:9], at_ms
    value, timestamp = NO_VALUE, 0
    for number, kind, part in _fields(content, budget):
        if number == 1 and kind == I64:
            value = part
        elif number == 2 and kind == VARINT:
            timestamp = _signed(part)
    return value, timestamp


def _histogram(content: bytes, budget: Budget) -> tuple[bytes, int]:
    """A native histogram; of its fields, only the time is of interest here."""
    timestamp = 0
    for number, kind, part in _fields(content, budget):
        if number == 15 and kind == VARINT:
            timestamp = _signed(part)
    return content, timestamp


def _packed(data: bytes, budget: Budget) -> list[int]:
    """Numbers of 32 bits, one after the other."""
    _spend(budget, len(data))
    if data.isascii():  # each takes one byte
        return list(data)
    numbers = []
    at, end = 0, len(data)
    try:
        while at < end:
            number = data[at]
            at += 1
            if number >= 0x80:
                if (high := data[at]) < 0x80:  # up to 16,383 symbols
                    number += (high - 1) << 7
                    at += 1
                else:
                    number, at = _varint(data, at - 1)
            numbers.append(number & _MAX_TAG)
    except IndexError:
        raise _cut_off() from None
    return numbers


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise MalformedMessage("the names and values of labels must be UTF-8") from None


# The wire format


def _fields(data: bytes, budget: Budget) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and content of each field: an ``int`` if it is a varint, else bytes."""
    at, end, count = 0, len(data), 0
    limit = budget.fields
    try:
        while at < end:
            count += 1
            if count > limit:
                raise _too_many()
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _varint(data, at - 1)
            number, kind = tag >> 3, tag & 7
            if number == 0 or tag > _MAX_TAG:
                raise MalformedMessage("a field must have a number from 1 to 536870911")
            if kind == LEN:
                length = data[at]
                at += 1
                if length >= 0x80:
                    length, at = _varint(data, at - 1)
            elif kind == VARINT:
                value, at = _varint(data, at)
                yield number, kind, value
                continue
            elif kind in (I64, I32):
                length = 8 if kind == I64 else 4
            else:
                raise MalformedMessage(f"a field must not have the wire type {kind}")
            begin, at = at, at + length
            if at > end:
                raise _cut_off()
            yield number, kind, data[begin:at]
    except IndexError:
        raise _cut_off() from None
    _spend(budget, count)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where it ends. Raises ``IndexError`` if the data ends before."""
    value = shift = 0
    for _ in range(_MAX_VARINT_BYTES):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _WHOLE:
                break
            return value, at
        shift += 7
    raise MalformedMessage("a number must fit 64 bits")


def _signed(number: int) -> int:
    return number - _WHOLE if number >= _SIGN else number


def _spend(budget: Budget, count: int) -> None:
    budget.fields -= count
    if budget.fields < 0:
        raise _too_many()


def _too_many() -> TooLarge:
    return TooLarge(f"a request must have at most {MAX_FIELDS} fields")


def _cut_off() -> MalformedMessage:
    return MalformedMessage("the message must not end in the middle of a field")
