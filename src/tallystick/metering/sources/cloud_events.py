"""CloudEvents 1.0, and plain JSON with the same fields, read into measurements.

Formats: JSON event format (single and batch) and HTTP binding (binary mode) of CloudEvents 1.0.2; JSON objects, arrays
and lines without the CloudEvents ceremony.

There are three gears. An array in which nothing is wrong is decoded by msgspec in one go. If anything is, each event
is decoded by itself. An event that this refuses is looked at by ``_examine``, which takes its time and says exactly
what is wrong; it is the reference, and what it accepts counts.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from tallystick.kernel.errors import InvalidInput, TooLarge
from tallystick.kernel.text import MAX_TEXT_CHARACTERS, check_key, check_text
from tallystick.metering.model import Batch, Measurement, Unreadable
from tallystick.metering.sources.values import (
    EARLIEST,
    LATEST,
    MAX_INTEGER_DIGITS,
    InvalidValue,
    Refused,
    check_unit_price,
    parse_value,
)

SOURCE = "events"

STRICT_SOURCE = "events;cloudevents"
"""The reader of pieces that came as CloudEvents: what those require, a mended piece must have too."""

MAX_EVENTS = 50_000
"""Events in one body."""

MAX_COMMAS = 2_000_000
"""A body with more commas is refused unread: to hold its values takes up to thirty times its length of memory. Events
have one comma for every 20 to 30 bytes, so that no body of real ones within the body limit comes near."""

_BLANKS = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUL_ESCAPE = b"\\u0000"
_INTEGER_LIMIT = 10**MAX_INTEGER_DIGITS
_CLOUD_EVENTS_TYPES = frozenset({"application/cloudevents+json", "application/cloudevents-batch+json"})
_LINES_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

_Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
_Key = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
_Instant = Annotated[datetime, Meta(tz=True)]


class _Data(msgspec.Struct, gc=False):
    value: Any
    kind: _Text | None = None
    resource: _Text | None = None
    agent: _Text | None = None
    unit_price: Any = None


class _Event(msgspec.Struct, gc=False, kw_only=True):
    """An event as plain JSON has it."""

    id: _Key
    source: _Text | None = None
    specversion: Literal["1.0"] | None = None
    subject: _Key
    type: _Key
    time: _Instant | None = None
    data: _Data
    data_base64: None = None


class _CloudEvent(_Event, gc=False, kw_only=True):
    """An event sent as CloudEvents, where two more attributes are required."""

    source: _Key
    specversion: Literal["1.0"]


# The hook gets the text of each number that has a fraction or an exponent, so that none of them is ever a float.
_EVENT = msgspec.json.Decoder(_Event, float_hook=parse_value)
_EVENTS = msgspec.json.Decoder(list[_Event], float_hook=parse_value)
_CLOUD_EVENT = msgspec.json.Decoder(_CloudEvent, float_hook=parse_value)
_CLOUD_EVENTS = msgspec.json.Decoder(list[_CloudEvent], float_hook=parse_value)
_RAW = msgspec.json.Decoder(msgspec.Raw)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_DOUBTS = (ValueError, OverflowError, RecursionError, InvalidInput)
"""What decoding and ``_measurement`` raise. Whatever it was, ``_examine`` finds it and names it."""


def read(body: bytes, content_type: str, received_at: datetime, *, max_events: int = MAX_EVENTS) -> Batch:
    """The measurements in ``body``; ``received_at`` (aware) stands in for a missing ``time``.

    The content type decides whether CloudEvents' own requirements hold and whether each line is an event. Whether the
    body is one object, an array or lines is otherwise seen from its beginning, so a wrong or missing type does no harm.
    A ``charset`` is ignored: JSON is UTF-8. An event that cannot be read becomes an ``Unreadable``, and so does a whole
    body that is not JSON.

    Raises ``TooLarge`` if there are more than ``max_events`` events, or if the body is nested too deeply or holds too
    many values to be decoded.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    strict = media_type in _CLOUD_EVENTS_TYPES
    lines = media_type in _LINES_TYPES
    received_at = received_at.astimezone(UTC)
    if body.count(b",") > MAX_COMMAS:
        raise TooLarge(f"the body must hold at most {MAX_COMMAS} commas")

    # NUL is the one text that msgspec passes and PostgreSQL cannot keep, and this is the only way to spell it in JSON.
    trusted = _NUL_ESCAPE not in body
    if trusted and body.startswith(b"[") and not lines:
        batch = _read_array(body, strict, received_at, max_events)
        if batch is not None:
            return batch
    try:
        items = _split(body.removeprefix(_BYTE_ORDER_MARK), lines, max_events)
    except Refused as refusal:
        return Batch(SOURCE, [], [], [_unreadable(0, body, refusal, strict)])
    return _read_each(items, trusted, strict, received_at)


def _read_array(body: bytes, strict: bool, received_at: datetime, max_events: int) -> Batch | None:
    """All events of an array in which nothing is wrong, otherwise None. Raises ``TooLarge``."""
    try:
        events: Sequence[_Event] = (_CLOUD_EVENTS if strict else _EVENTS).decode(body)
        if len(events) > max_events:
            raise _too_many(max_events)
        measurements = [_measurement(event, received_at) for event in events]
    except _DOUBTS:
        return None
    return Batch(SOURCE, measurements, list(range(len(measurements))), [])


def _read_each(items: Iterable[tuple[int, bytes]], trusted: bool, strict: bool, received_at: datetime) -> Batch:
    decode: Callable[[bytes], _Event] | None = (_CLOUD_EVENT.decode if strict else _EVENT.decode) if trusted else None
    batch = Batch(SOURCE, [], [], [])
    for index, raw in items:
        try:
            measurement = _read_event(raw, decode, strict, received_at)
        except InvalidInput as refusal:
            batch.unreadable.append(_unreadable(index, raw, refusal, strict))
        else:
            batch.measurements.append(measurement)
            batch.indexes.append(index)
    return batch


def _unreadable(index: int, raw: bytes, refusal: InvalidInput, strict: bool) -> Unreadable:
    return Unreadable(index, raw, refusal.code, refusal.detail, STRICT_SOURCE if strict else None)


def read_binary(headers: Mapping[str, str], body: bytes, received_at: datetime) -> Batch:
    """The measurement of an event in the binary mode of HTTP: attributes in ``ce-*`` headers, ``data`` as the body.

    Raises ``TooLarge`` as ``read`` does.
    """
    names = {name.lower(): value for name, value in headers.items()}
    attributes = {name[3:]: _header_text(value) for name, value in names.items() if name.startswith("ce-")}
    return read_attributes(attributes, body, received_at)


def read_attributes(attributes: Mapping[str, str], data: bytes, received_at: datetime) -> Batch:
    """The measurement of an event whose attributes and data came apart.

    It is read as the structured event that it stands for, and kept as such if it is unreadable, so that nothing of it
    is lost. Raises ``TooLarge`` as ``read`` does.
    """
    members = [json.dumps(dict(attributes)).encode()[1:-1]] if attributes else []
    content = data.removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS)
    if content:
        members.append(b'"data":' + content if _is_json(content) else b'"data_base64":"' + b64encode(data) + b'"')
    return read(b"{" + b",".join(members) + b"}", "application/cloudevents+json", received_at)


def _header_text(value: str) -> str:
    """An attribute as the HTTP binding (3.1.3.2) decodes it: unquoted, then percent-decoded.

    Bytes that are not UTF-8 stay behind as lone surrogates, which no text may contain.
    """
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return unquote(value, errors="surrogateescape")


def _split(body: bytes, lines: bool, max_events: int) -> Iterable[tuple[int, bytes]]:
    """Each event's place and own bytes. Raises ``Refused`` if the body is not JSON, ``TooLarge`` as ``read`` does."""
    content = body.strip(_BLANKS)
    if not content:
        raise Refused("not_json", "the body must not be empty")
    if lines:
        return _split_lines(body, max_events)
    if content.startswith(b"["):
        return enumerate(_split_array(content, max_events))
    if not _is_json(content) and b"\n" in content and _is_json(content.partition(b"\n")[0]):
        return _split_lines(body, max_events)  # lines sent under another type
    return [(0, content)]


def _split_lines(body: bytes, max_lines: int) -> list[tuple[int, bytes]]:
    if body.count(b"\n") + (not body.endswith(b"\n")) > max_lines:
        raise TooLarge(f"the body must have at most {max_lines} lines")
    lines = enumerate(body.split(b"\n"))
    return [(index, event) for index, line in lines if (event := line.strip(_BLANKS))]


def _split_array(content: bytes, max_events: int) -> Iterable[bytes]:
    harmless = _without_surrogates(content)
    try:
        items = _RAWS.decode(harmless)
    except RecursionError:
        raise _too_deep() from None
    except msgspec.DecodeError as error:
        raise Refused("not_json", f"the body must be JSON: {error}") from None
    if len(items) > max_events:
        raise _too_many(max_events)
    return map(bytes, items) if harmless == content else _locate(items, harmless, content)


def _without_surrogates(content: bytes) -> bytes:
    """JSON of the same structure, byte for byte, in which no escape stands for a surrogate.

    A lone surrogate in one event would make msgspec give up on all of them.
    """
    return content.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")


def _locate(items: list[msgspec.Raw], harmless: bytes, content: bytes) -> Iterable[bytes]:
    """The bytes in ``content`` of each item found in ``harmless``, which has the same structure."""
    end = 1  # after the opening bracket; between items stand only blanks and commas, with which no item begins
    for item in map(bytes, items):
        start = harmless.index(item, end)
        end = start + len(item)
        yield content[start:end]


def _is_json(text: bytes) -> bool:
    """Whether ``text`` is one JSON text. Raises ``TooLarge`` if it is nested too deeply to tell."""
    try:
        _RAW.decode(_without_surrogates(text))
    except RecursionError:
        raise _too_deep() from None
    except msgspec.DecodeError:
        return False
    return True


def _too_many(max_events: int) -> TooLarge:
    return TooLarge(f"the body must hold at most {max_events} events")


def _too_deep() -> TooLarge:
    return TooLarge("the body must not be nested so deeply")


def _read_event(
    raw: bytes, decode: Callable[[bytes], _Event] | None, strict: bool, received_at: datetime
) -> Measurement:
    """The measurement in one event. Raises ``InvalidInput`` with the reason if there is none."""
    if decode is not None:
        try:
            return _measurement(decode(raw), received_at)
        except _DOUBTS:
            pass
    return _examine(raw, strict, received_at)


def _measurement(event: _Event, received_at: datetime) -> Measurement:
    """What ``event`` says. Raises ``ValueError``, ``OverflowError`` or ``InvalidInput`` at the first doubt."""
    source = event.source or ""
    if event.id.isspace() or event.subject.isspace() or event.type.isspace() or source.isspace():
        raise ValueError
    data = event.data
    value = data.value
    price = data.unit_price
    at = event.time or received_at
    if not EARLIEST <= at < LATEST:
        raise ValueError
    return Measurement(
        f"events:{source}",
        event.id,
        event.subject,
        event.type,
        at if at.tzinfo is UTC else at.astimezone(UTC),
        value if type(value) is Decimal else _number(value),
        data.kind or "",
        data.resource or "",
        data.agent or "",
        None if price is None else check_unit_price(price if type(price) is Decimal else _number(price)),
    )


def _number(value: object) -> Decimal:
    if type(value) is int and -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
        return Decimal(value)
    if type(value) is str:
        return parse_value(value)
    raise ValueError


class _NumberText(str):
    """The text of a JSON number; tells ``1`` from ``"1"``."""

    __slots__ = ()


def _examine(raw: bytes, strict: bool, received_at: datetime) -> Measurement:
    """The measurement in one event. Raises ``InvalidInput`` with the first fault in the order of this function."""
    event = _load(raw)
    sender_id = _key(event, "id")
    source = _key(event, "source") if strict else _text(event, "source")
    version = event.get("specversion")
    if version is None and strict:
        raise Refused("missing_field", "specversion is required", field="specversion")
    if version is not None and not (type(version) is str and version == "1.0"):
        raise Refused("invalid_field", 'specversion must be "1.0"', field="specversion")
    customer = _key(event, "subject")
    meter = _key(event, "type")
    at = _time(event, received_at)
    data = _data(event)
    return Measurement(
        source=f"events:{source}",
        sender_id=sender_id,
        customer=customer,
        meter=meter,
        at=at,
        value=_quantity(data, "value"),
        kind=_text(data, "kind", "data.kind"),
        resource=_text(data, "resource", "data.resource"),
        agent=_text(data, "agent", "data.agent"),
        unit_price=_unit_price(data),
    )


def _load(raw: bytes) -> dict[str, Any]:
    try:
        event = json.loads(
            raw.decode(), parse_int=_NumberText, parse_float=_NumberText, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise Refused("text_not_storable", f"the event must be UTF-8, which byte {error.start} breaks") from None
    except RecursionError:
        raise Refused("too_deep", "the event is nested too deeply") from None
    except ValueError as error:
        raise Refused("not_json", f"the event must be JSON: {error}") from None
    if not isinstance(event, dict):
        raise Refused("not_an_object", "an event must be a JSON object")
    return event


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not part of JSON")


def _text(members: dict[str, Any], name: str, path: str | None = None) -> str:
    """An optional text; null and absence are the same."""
    text = members.get(name)
    if text is None:
        return ""
    if type(text) is not str:
        raise Refused("invalid_field", f"{path or name} must be a string", field=path or name)
    return check_text(text, path or name)


def _key(members: dict[str, Any], name: str) -> str:
    if members.get(name) is None:
        raise Refused("missing_field", f"{name} is required", field=name)
    return check_key(_text(members, name), name)


def _time(event: dict[str, Any], received_at: datetime) -> datetime:
    text = event.get("time")
    if text is None:
        return received_at
    try:
        if type(text) is not str:
            raise ValueError
        at = msgspec.convert(text, _Instant)
        if not EARLIEST <= at < LATEST:
            raise ValueError
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(
            "invalid_time",
            "time must be an RFC 3339 instant with a zone, as 2026-01-31T23:59:59Z, between the years 2 and 9997",
            field="time",
        ) from None


def _data(event: dict[str, Any]) -> dict[str, Any]:
    data = event.get("data")
    if event.get("data_base64") is not None:
        raise Refused("invalid_field", "data must be a JSON object; data_base64 is not read", field="data_base64")
    if data is None:
        raise Refused("missing_field", "data is required", field="data")
    if not isinstance(data, dict):
        raise Refused("invalid_field", "data must be a JSON object", field="data")
    return data


def _quantity(data: dict[str, Any], name: str) -> Decimal:
    number = data.get(name)
    if number is None:
        raise Refused("missing_field", f"data.{name} is required", field=f"data.{name}")
    if not isinstance(number, str):
        raise InvalidValue(f"data.{name}")
    return parse_value(number, f"data.{name}")


def _unit_price(data: dict[str, Any]) -> Decimal | None:
    if data.get("unit_price") is None:
        return None
    return check_unit_price(_quantity(data, "unit_price"), "data.unit_price")
