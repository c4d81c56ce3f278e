"""Reading bodies: within their limit, and without binary floats."""

from __future__ import annotations

import json
import zlib
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from tallystick.kernel.errors import TallyError, TooLarge

MAX_NUMBER_CHARACTERS = 100
"""Longest number with a fraction or an exponent in a JSON body; Python itself bounds integers (4,300 digits)."""

Model = TypeVar("Model", bound=BaseModel)

_GZIP_WINDOW = 31  # zlib's name for: gzip, window as large as need be


class MalformedBody(TallyError):
    """The body is not what its headers say."""

    code = "malformed_body"
    status = 400


class UnsupportedMedia(TallyError):
    """The body has a type or an encoding that this route does not read."""

    code = "unsupported_media_type"
    status = 415


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The body, decompressed if it is gzip; the limit holds before and after that.

    Raises ``TooLarge`` as soon as more is announced or has arrived, ``UnsupportedMedia`` for another encoding,
    ``MalformedBody``.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise UnsupportedMedia("Content-Encoding must be gzip or identity")
    body = await read_sent(request, limit_bytes)
    return _decompress(body, limit_bytes) if encoding == "gzip" else body


async def read_sent(request: Request, limit_bytes: int) -> bytes:
    """The body as it was sent. Raises ``TooLarge`` as soon as more is announced or has arrived."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _decompress(body: bytes, limit_bytes: int) -> bytes:
    """What a gzip file (RFC 1952) of one or more members holds."""
    plain = bytearray()
    try:
        while body:
            member = zlib.decompressobj(_GZIP_WINDOW)
            plain += member.decompress(body, limit_bytes + 1 - len(plain))
            if len(plain) > limit_bytes:
                raise _too_large(limit_bytes)
            if not member.eof:
                raise MalformedBody("the gzip body is cut off")
            body = member.unused_data
    except zlib.error:
        raise MalformedBody("the body is not gzip, as Content-Encoding says") from None
    return bytes(plain)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body must not be longer than {limit_bytes} bytes")


def is_json(request: Request) -> bool:
    """Whether the request says that its body is JSON.

    Browsers say so only to a service that allows their page's origin. To insist on it keeps the pages of others from
    calling a service that runs without keys.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def exact_json(body: bytes) -> Any:
    """The value that a JSON text stands for, its numbers as ``int`` and ``Decimal``.

    Raises ``MalformedBody``, ``TooLarge`` if it is nested too deeply.
    """
    try:
        return json.loads(body.decode("utf-8-sig"), parse_float=_decimal, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the body must be UTF-8, which byte {error.start} breaks") from None
    except RecursionError:
        raise TooLarge("the body is nested too deeply") from None
    except ValueError as error:
        raise MalformedBody(f"the body must be JSON: {error}") from None


def validated(model: type[Model], body: bytes) -> Model:
    """The body as this model, for routes that read it by themselves.

    Raises what ``exact_json`` does, and ``RequestValidationError`` with all faults, as FastAPI itself would.
    """
    try:
        return model.model_validate(exact_json(body))
    except ValidationError as error:
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]) from None


def _decimal(text: str) -> Decimal:
    try:
        if len(text) <= MAX_NUMBER_CHARACTERS:
            return Decimal(text)
    except InvalidOperation:  # an exponent that not even Decimal can hold
        pass
    raise ValueError(f"a number is longer than {MAX_NUMBER_CHARACTERS} characters, or out of all proportion")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not part of JSON")
