"""PostgreSQL's binary format, as COPY and parameters take it: a row costs the database two thirds of one in text.

A field is its length and its content. Sources: "COPY", section "Binary Format", and ``numeric_recv``, ``date_recv``,
``timestamptz_recv`` and ``uuid_recv`` of PostgreSQL.
"""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
"""What comes before the rows of COPY."""

TRAILER: Final = b"\xff\xff"
"""What comes after them."""

NULL: Final = b"\xff\xff\xff\xff"

_KEPT: Final = 10_000
"""So many of the last different values are kept as fields: most come again and again."""

_UUID_LENGTH = struct.pack("!i", 16)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_FIRST_DAY = _EPOCH.date()
_MICROSECOND = timedelta(microseconds=1)

_BASE = 10_000  # of a numeric's digits
_FILLING = (1, 1000, 100, 10)  # makes as many decimal places a multiple of four
_FOUR_DIGITS = struct.Struct("!ihhHHHHHH")
_NEGATIVE = 0x4000


def row_of(columns: int) -> bytes:
    """How a row begins that has so many fields."""
    return struct.pack("!h", columns)


def uuid_field(content: bytes) -> bytes:
    """A uuid, given its bytes."""
    return _UUID_LENGTH + content


def text_field(text: str) -> bytes:
    """A text without NUL."""
    content = text.encode()
    return len(content).to_bytes(4) + content


@lru_cache(_KEPT)
def timestamp_field(at: datetime) -> bytes:
    """A timestamptz."""
    return struct.pack("!iq", 8, (at - _EPOCH) // _MICROSECOND)


@lru_cache(_KEPT)
def date_field(day: str) -> bytes:
    """A date, given its text in ISO 8601."""
    return struct.pack("!ii", 4, (date.fromisoformat(day) - _FIRST_DAY).days)


@lru_cache(_KEPT)
def numeric_field(number: str) -> bytes:
    """A numeric, given the text of a finite ``int`` or ``Decimal``; it keeps its decimal places."""
    if "E" in number:
        number = format(Decimal(number), "f")
    whole, _, fraction = number.partition(".")
    scale = len(fraction)
    groups = (scale + 3) // 4  # of four decimal places, each of them a digit
    rest = int(whole + fraction) * _FILLING[scale % 4]
    sign = 0
    if rest < 0:
        rest, sign = -rest, _NEGATIVE
    if rest < _BASE**4:  # PostgreSQL strips zeros
        a, b, c, d = rest // _BASE**3, rest // _BASE**2 % _BASE, rest // _BASE % _BASE, rest % _BASE
        return _FOUR_DIGITS.pack(16, 4, 3 - groups, sign, scale, a, b, c, d)
    digits = []
    while rest:
        rest, digit = divmod(rest, _BASE)
        digits.append(digit)
    count = len(digits)
    return struct.pack(f"!ihhHH{count}H", 8 + 2 * count, count, count - groups - 1, sign, scale, *reversed(digits))
