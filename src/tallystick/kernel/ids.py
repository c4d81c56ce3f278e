"""Ids. What has a cause gets an id derived from it, so doing a thing twice does it once; all else gets a UUIDv7."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

import uuid_utils

NIL = UUID(int=0)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LOW_64_BITS = (1 << 64) - 1
_UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new_id(now: datetime) -> UUID:
    """A UUIDv7 (RFC 9562) of the instant ``now``: unique, and ordered by time to the millisecond."""
    microseconds = (now - _EPOCH) // timedelta(microseconds=1)
    return UUID(int=uuid_utils.uuid7(nanoseconds=microseconds * 1000).int)


def derived_id(*parts: str | bytes | UUID) -> UUID:
    """The id that these parts, in this order, always have (BLAKE2b-128 over length-prefixed parts)."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.bytes
        digest.update(_with_length(data))
    return UUID(bytes=digest.digest())


def _with_length(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def measurement_id(source: str, sender_id: str) -> int:
    """The id, as a 128-bit number, of what ``source`` calls ``sender_id``."""
    return int.from_bytes(measurement_key(source, sender_id))


def measurement_key(source: str, sender_id: str) -> bytes:
    """The bytes of the id of what ``source`` calls ``sender_id``.

    A UUID keeps its leading 64 bits, so time-ordered ids stay time-ordered, and has the source mixed into the rest;
    within one source that is reversible, so two UUIDs never share an id. Any other text is hashed with its source:
    ``derived_id("measurement", source, sender_id)``, of which the beginning is the same for all of a source.
    """
    if len(sender_id) == 36 and _UUID_TEXT.fullmatch(sender_id):
        return (int(sender_id.replace("-", ""), 16) ^ _source_mask(source)).to_bytes(16)
    digest = _measurements_of(source).copy()
    data = sender_id.encode()
    digest.update(len(data).to_bytes(8) + data)  # _with_length, without a call
    return digest.digest()


@lru_cache(maxsize=4096)
def _measurements_of(source: str) -> blake2b:
    digest = blake2b(digest_size=16)
    digest.update(_with_length(b"measurement") + _with_length(source.encode()))
    return digest


@lru_cache(maxsize=4096)
def _source_mask(source: str) -> int:
    return derived_id("source", source).int & _LOW_64_BITS
