"""Reading requests: bodies within their limit, JSON without binary floats, and the values that many routes take."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NoReturn
from urllib.parse import unquote

import msgspec
from fastapi.routing import APIRoute
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from tallystick.kernel.errors import InvalidInput, TallyError, TooLarge
from tallystick.kernel.money import parse_amount
from tallystick.kernel.text import MAX_TEXT_CHARACTERS, check_key, check_text
from tallystick.metering.charges import BEGINNING, END

MAX_NUMBER_CHARACTERS = 100
"""Longest number with a fraction or exponent in a JSON body; integers are bounded by Python itself."""

_GZIP_WINDOW = 31


class MalformedBody(TallyError):
    """The body is not what its headers say."""

    code = "malformed_body"
    status = 400


class UnsupportedMedia(TallyError):
    """The body has a type or an encoding that this route does not read."""

    code = "unsupported_media_type"
    status = 415


# Bodies


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The body, decompressed if it is gzip. Raises ``TooLarge`` as soon as it is seen to be longer than the limit, before and after
    decompression; ``UnsupportedMedia`` for another encoding; ``MalformedBody``."""
    headers = request.headers
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", ""):
        raise UnsupportedMedia("Content-Encoding must be gzip or identity")
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    return _decompress(body, limit_bytes) if encoding == "gzip" else body


def _decompress(body: bytes, limit_bytes: int) -> bytes:
    """All members of a gzip stream (RFC 1952)."""
    plain = b""
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
    return plain


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body must not be longer than {limit_bytes} bytes")


def is_json(request: Request) -> bool:
    """Whether the request says that its body is JSON. Browsers send that only to origins that allow it, which keeps other sites' pages
    from calling a service that runs without keys."""
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


def _decimal(text: str) -> Decimal:
    try:
        if len(text) <= MAX_NUMBER_CHARACTERS:
            return Decimal(text)
    except InvalidOperation:  # an exponent that not even Decimal can hold
        pass
    raise ValueError(f"a number must have at most {MAX_NUMBER_CHARACTERS} characters and a reasonable exponent")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not part of JSON")


# Routes


class LeanRoute(APIRoute):
    """Documented like any route of FastAPI, run without its machinery: the endpoint takes the request and gives the response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint  # type: ignore[no-any-return]


class ExactRoute(APIRoute):
    """A route of FastAPI whose JSON body never passes through a binary float, and is read within the limit."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_exactly(request: Request) -> Response:
            exact = _ExactRequest(request.scope, request.receive)
            if self.body_field is not None:
                await exact.load()
            return await handle(exact)

        return handle_exactly


class _ExactRequest(Request):
    async def load(self) -> None:
        if not is_json(self):
            raise UnsupportedMedia("Content-Type must be application/json")
        self._body = await read_body(self, self.app.state.service.settings.max_body_bytes)
        self._json = exact_json(self._body)


class _KeyConvertor(Convertor[str]):
    """One segment of the path, decoded after routing: a key with a slash in it is sent as ``a%2Fb`` and stays one segment."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        raise NotImplementedError("addresses are not made from keys")


register_url_convertor("key", _KeyConvertor())


# Values


def parse_instant(text: object, field: str = "time") -> datetime:
    """An RFC 3339 instant in UTC, within the years that PostgreSQL and Python both know. Raises ``InvalidInput``."""
    try:
        if isinstance(text, str):
            instant = msgspec.convert(text, Annotated[datetime, msgspec.Meta(tz=True)]).astimezone(UTC)
            if BEGINNING <= instant <= END:
                return instant
    except (msgspec.ValidationError, OverflowError):
        pass
    raise InvalidInput(f"{field} must be an RFC 3339 instant with a zone, as 2026-01-31T23:59:59Z", field=field)


_FIELD_AT_START = re.compile(r"^value\b[ :]*")


_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")


def _validated(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``check`` as pydantic wants it: a rule that is broken becomes one of its faults, which knows the field's name by itself."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except InvalidInput as error:
            raise PydanticCustomError(error.code, _FIELD_AT_START.sub("", error.detail)) from None  # type: ignore[arg-type]

    return validate


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput("must be a string")
    return value


def _number(value: object) -> Decimal | int | str:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput("must be a decimal number")
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise InvalidInput("must be a decimal number without exponent")
    return value


Text = Annotated[
    str,
    BeforeValidator(_validated(lambda value: check_text(_text(value), "value"))),
    WithJsonSchema({"type": "string", "maxLength": MAX_TEXT_CHARACTERS}),
]
"""A text that can be kept."""

Key = Annotated[
    str,
    BeforeValidator(_validated(lambda value: check_key(_text(value), "value"))),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARACTERS}),
]
"""A text that names something."""

Instant = Annotated[
    datetime,
    BeforeValidator(_validated(lambda value: parse_instant(value, "value"))),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant, in UTC once it is read."""

EXACT_NUMBER = BeforeValidator(_validated(_number))
"""Lets through JSON numbers, and strings that are plain decimal numbers and nothing more."""

Microunits = Annotated[
    int,
    BeforeValidator(_validated(lambda value: parse_amount(_number(value), "value"))),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["99.75"]}),
]
"""An amount that is not negative, as a decimal string or a JSON number; in microunits once it is read."""

MAX_LONG_TEXT_CHARACTERS = 1000

LongText = Annotated[str, Field(max_length=MAX_LONG_TEXT_CHARACTERS, pattern=r"^[^\x00]*$")]
"""A remark that somebody makes."""

IDEMPOTENCY_KEY = "Idempotency-Key"


def idempotency_key(request: Request) -> str | None:
    """The key under which this request may be sent again. Raises ``InvalidInput`` if it is empty or too long."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    return None if key is None else check_key(key, IDEMPOTENCY_KEY)
