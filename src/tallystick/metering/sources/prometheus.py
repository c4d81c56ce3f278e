"""Prometheus remote write, 1.0 and 2.0, read into measurements.

A series that a rule maps to a meter is usage, each of its samples a measurement; what no rule maps is counted and left
alone. The rules are ``metering.series``, the messages ``prometheus_wire``.

A value is a double on the wire. It stands for the shortest decimal number that reads back as the same double, which is
what Prometheus itself shows and what its exporter wrote; with that number everything goes on exactly.

A sample is named by its series and time in the line protocol's writing. That is also what InfluxDB makes of it, so the
same sample counts once whether it comes from Prometheus, by way of InfluxDB through ``/write``, or both.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Final, Literal

import cramjam
import msgspec

from tallystick.kernel.errors import InvalidInput, TooLarge
from tallystick.kernel.text import is_unicode
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.series import Mapped, Rule, SeriesMap, map_series
from tallystick.metering.sources import prometheus_wire as wire
from tallystick.metering.sources.line_protocol import Time, measurement_of, time_of
from tallystick.metering.sources.prometheus_wire import Budget, MalformedMessage, TimeSeries
from tallystick.metering.sources.values import Refused, parse_value

SOURCE: Final = "prometheus"

Version = Literal["prometheus.WriteRequest", "io.prometheus.write.v2.Request"]
V1: Final = "prometheus.WriteRequest"
V2: Final = "io.prometheus.write.v2.Request"

MAX_KNOWN_SERIES: Final = 65_536
"""Series that are remembered, about 1 KiB each. When there are more, remembering starts anew."""

MAX_REMEMBERED_BYTES: Final = 2048
"""Longest labels of a series that is remembered."""

MAX_LABEL_CHARACTERS: Final = 1 << 26
"""Labels of all new series of one request together. In 2.0, few bytes can refer to long labels again and again."""

MAX_SAMPLES: Final = 50_000

STALE: Final = bytes.fromhex("020000000000f07f")
"""The bytes of the NaN which says that a series has ended."""

_DOUBLE = struct.Struct("<d")
_LEAST_PLAIN, _LEAST_WITH_EXPONENT = 1e-4, 1e16


Labels = tuple[str, ...]
"""Names and values of labels in turn."""

Sample = tuple[str, int]
"""A value as text, and milliseconds since 1970."""

Histogram = tuple[str, int]
"""A native histogram, as base64 of its message or as JSON, and milliseconds since 1970."""


class Result(msgspec.Struct, omit_defaults=True):
    """A series with values as text: in the result of a query, and, as JSON, a piece that people can mend."""

    labels: Labels
    samples: list[Sample]
    histograms: list[Histogram] = []
    query: str = ""
    """What was asked for, if the rule says so: its result may lack the labels by which rules select."""


class Received(msgspec.Struct):
    """What a request brought. Counts are of samples, histograms and exemplars in it, whatever became of them.

    ``refused_samples`` and ``refused_histograms`` stand in quarantine; ``ignored`` samples belong to series that no
    rule maps, or say that a series has ended.
    """

    batch: Batch
    samples: int = 0
    histograms: int = 0
    exemplars: int = 0
    ignored: int = 0
    refused_samples: int = 0
    refused_histograms: int = 0


class Unmappable(msgspec.Struct, frozen=True, gc=False):
    """A series that is usage by a rule which it does not satisfy."""

    code: str
    detail: str


Found = Mapped | Unmappable | None
"""What is known of a series; None: it is no usage."""


def decompress(body: bytes, limit_bytes: int) -> bytes:
    """What a block of Snappy holds; its length is announced, and refused, before anything is unpacked.

    Raises ``MalformedMessage``, ``TooLarge``.
    """
    try:
        if cramjam.snappy.decompress_raw_len(body) > limit_bytes:
            raise TooLarge(f"the body must not be longer than {limit_bytes} bytes once it is decompressed")
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError:
        raise MalformedMessage("the body must be compressed as one block of Snappy") from None


class Reader:
    """Reads requests by one set of rules, and remembers the series it has met."""

    def __init__(self, series: SeriesMap) -> None:
        self.series = series
        self.ignored = 0  # samples left alone since the start
        self._known: dict[Labels | bytes, Found] = {}

    def read(self, message: bytes, version: Version, max_samples: int = MAX_SAMPLES) -> Received:
        """The measurements in a decompressed request.

        What is unreadable becomes one piece for each series, with all its samples that are. Raises ``MalformedMessage``
        if the message is none, ``TooLarge`` if it has too many samples or series, or labels that are too long.
        """
        request = _Request(self, max_samples)
        if version == V1:
            for series in wire.series_of_v1(message, request.budget):
                if not request.take_known(series):
                    request.take(wire.read_v1(series, request.budget))
        else:
            symbols, messages = wire.series_of_v2(message, request.budget)
            for series in messages:
                request.take(wire.read_v2(series, symbols, request.budget))
        self.ignored += request.received.ignored
        return request.received

    def read_result(self, rule: Rule, series: list[Result]) -> Received:
        """The measurements in the result of a rule's query, whose series are labels, samples and histograms."""
        request = _Request(self, sum(len(result.samples) + len(result.histograms) for result in series))
        for result in series:
            request.take_result(self._map(rule, result.labels), result)
        return request.received

    def read_piece(self, raw: bytes) -> Batch:
        """The measurements in a quarantined piece, by the rules of today.

        Raises ``Refused`` if it is no such piece, or no rule maps its series.
        """
        piece = _piece(raw)
        rule = self.series.rule_of_query(piece.query) if piece.query else self.series.rule_for(_named(piece.labels))
        found = self._map(rule, piece.labels)
        if found is None:
            raise Refused("unmapped_series", "no rule maps a series with these labels")
        request = _Request(self, MAX_SAMPLES)
        request.take_result(found, piece)
        return request.received.batch

    def find(self, labels: Labels, request: _Request) -> Found:
        """What the series with these labels means."""
        try:
            return self._known[labels]
        except KeyError:
            return self._learn(labels, sum(map(len, labels)), labels, request)

    def find_part(self, part: bytes, request: _Request) -> Found:
        """What the series means whose fields are ``part``. Raises ``KeyError`` if they are not just labels."""
        try:
            return self._known[part]
        except KeyError:
            pass
        try:
            series = wire.read_v1(part, request.budget)
        except MalformedMessage:
            raise KeyError from None
        if series.samples or series.histograms or series.exemplars:
            raise KeyError
        return self._learn(part, len(part), series.labels, request)

    def _learn(self, key: Labels | bytes, size: int, labels: Labels, request: _Request) -> Found:
        request.spend_characters(size)
        found = self._map(self.series.rule_for(_named(labels)), labels)
        if size <= MAX_REMEMBERED_BYTES:
            if len(self._known) >= MAX_KNOWN_SERIES:
                self._known.clear()
            self._known[key] = found
        return found

    def _map(self, rule: Rule | None, labels: Labels) -> Found:
        named = _named(labels)
        if rule is None or not self.series.lists(rule, named):
            return None
        try:
            if len(set(labels[::2])) < len(labels) // 2:
                raise Refused("duplicate_label", "a series must have each label only once")
            return map_series(rule, named)
        except InvalidInput as refusal:
            return Unmappable(refusal.code, refusal.detail)


class _Request:
    """One request while it is read."""

    def __init__(self, reader: Reader, max_samples: int) -> None:
        self.received = Received(Batch(SOURCE, [], [], [], creates_meters=False))
        self.budget = Budget()
        self._reader = reader
        self._max_samples = max_samples
        self._characters = MAX_LABEL_CHARACTERS
        self._times: dict[bytes | int, Time] = {}

    def take_known(self, message: bytes) -> bool:
        """Takes in a series of 1.0 that is labels and one sample, without decoding it; False if it is anything else."""
        part = wire.known_part(message)
        if part is None:
            return False
        try:
            found = self._reader.find_part(part, self)
            time = self._times.get(message[-6:]) or self._time_in(message[-6:])
        except (KeyError, Refused):
            return False
        received = self.received
        if found is None:
            received.ignored += 1
        elif isinstance(found, Unmappable):
            return False
        else:
            try:
                value = _value(message[-15:-7])
                if found.scale is not None:
                    value = found.scaled(value)
            except InvalidInput:
                return False
            batch = received.batch
            batch.measurements.append(measurement_of(found, time, value))
            batch.indexes.append(received.samples)
        received.samples += 1
        if received.samples > self._max_samples:
            self.check_size()
        return True

    def take(self, series: TimeSeries) -> None:
        """Takes in a series that was decoded."""
        received = self.received
        first = received.samples
        received.samples += len(series.samples)
        received.histograms += len(series.histograms)
        received.exemplars += series.exemplars
        self.check_size()
        found = self._reader.find(series.labels, self)
        if found is None:
            received.ignored += len(series.samples)
            return
        samples = [
            (index, (_shortest(value), time))
            for index, (value, time) in enumerate(series.samples, first)
            if value != STALE
        ]
        received.ignored += len(series.samples) - len(samples)
        histograms = [(base64.b64encode(content).decode(), time) for content, time in series.histograms]
        self._record(found, samples, Result(series.labels, [], histograms))

    def take_result(self, found: Found, result: Result) -> None:
        """Takes in a series whose values are text."""
        received = self.received
        first = received.samples
        received.samples += len(result.samples)
        received.histograms += len(result.histograms)
        if found is None:
            received.ignored += len(result.samples)
        else:
            self._record(found, enumerate(result.samples, first), result)

    def _record(self, found: Mapped | Unmappable, samples: Iterable[tuple[int, Sample]], result: Result) -> None:
        """Records samples of a series that is usage; those that cannot be charged become one piece."""
        received = self.received
        refusals: list[tuple[int, InvalidInput]] = []
        refused: list[Sample] = []
        for index, sample in samples:
            try:
                measurement = self._read_sample(found, *sample)
            except InvalidInput as refusal:
                refusals.append((index, refusal))
                refused.append(sample)
            else:
                received.batch.measurements.append(measurement)
                received.batch.indexes.append(index)
        if result.histograms:
            refusals.append((received.samples, Refused("histogram", "usage must be numbers and not histograms")))
        if refusals:
            received.refused_samples += len(refused)
            received.refused_histograms += len(result.histograms)
            raw = msgspec.json.encode(msgspec.structs.replace(result, samples=refused))
            self.spend_characters(len(raw))
            index, first = refusals[0]
            received.batch.unreadable.append(Unreadable(index, raw, first.code, first.detail, reader=SOURCE))

    def _read_sample(self, found: Mapped | Unmappable, value: str, milliseconds: int) -> Measurement:
        if isinstance(found, Unmappable):
            raise Refused(found.code, found.detail)
        number = found.scaled(parse_value(value))
        return measurement_of(found, self._times.get(milliseconds) or self._time(milliseconds), number)

    def _time_in(self, varint: bytes) -> Time:
        milliseconds = wire.timestamp_of(varint)
        if milliseconds is None:
            raise KeyError
        time = self._times[varint] = self._time(milliseconds)
        return time

    def _time(self, milliseconds: int) -> Time:
        """What the samples of a scrape share."""
        time = self._times[milliseconds] = time_of(milliseconds * 1_000_000)
        return time

    def spend_characters(self, count: int) -> None:
        """Counts labels that were not known, and pieces. Raises ``TooLarge``."""
        self._characters -= count
        if self._characters < 0:
            raise TooLarge("the series of a request must not have so many, or so long, labels")

    def check_size(self) -> None:
        """Raises ``TooLarge``."""
        if self.received.samples + self.received.histograms > self._max_samples:
            raise TooLarge(f"a request must have at most {self._max_samples} samples")


def _shortest(value: bytes) -> str:
    """The shortest decimal number that reads back as the same double."""
    (number,) = _DOUBLE.unpack(value)
    return repr(number).removesuffix(".0")


def _value(value: bytes) -> Decimal:
    """The number that ``_shortest`` writes. Raises ``InvalidValue``."""
    (number,) = _DOUBLE.unpack(value)
    text = repr(number).removesuffix(".0")
    # Python writes such doubles without an exponent, and with no more digits than a value may have.
    return Decimal(text) if _LEAST_PLAIN <= number < _LEAST_WITH_EXPONENT else parse_value(text)


def _named(labels: Labels) -> dict[str, str]:
    """Labels by name. An empty value means that there is no such label, in Prometheus as in InfluxDB."""
    return {name: value for name, value in zip(labels[::2], labels[1::2], strict=True) if value}


# Pieces of the quarantine


class _Mended(msgspec.Struct, forbid_unknown_fields=True):
    """A piece as somebody may have written it: values with quotes or without."""

    labels: Labels
    samples: Annotated[list[tuple[Decimal, int]], msgspec.Meta(max_length=MAX_SAMPLES)] = []
    histograms: list[Histogram] = []
    query: str = ""


def _piece(raw: bytes) -> Result:
    try:
        piece = msgspec.json.decode(raw, type=_Mended)
    except (ValueError, RecursionError) as error:
        raise Refused("invalid_piece", f"the piece must be labels and samples as JSON: {error}") from None
    if len(piece.labels) % 2 or not all(map(is_unicode, piece.labels)):
        raise Refused("invalid_piece", "labels must be names and values in turn, without lone surrogates")
    return Result(piece.labels, [(str(value), time) for value, time in piece.samples], piece.histograms, piece.query)
