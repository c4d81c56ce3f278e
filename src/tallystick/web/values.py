"""Values that callers send, as types of pydantic. The rules are those of the rooms below; pydantic adds the field."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import parse_amount
from tallystick.kernel.text import MAX_TEXT_CHARACTERS, check_key, check_text
from tallystick.metering.charges import BEGINNING, END
from tallystick.web.gate import caller_of

MAX_REMARK_CHARACTERS = 1000

IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARACTERS},
    "description": "The same key with the same request moves money once, and gets the same answer for good.",
}
"""The header, as OpenAPI describes it."""

MOVES_MONEY: dict[str, Any] = {"parameters": [IDEMPOTENCY_KEY]}
"""``openapi_extra`` of a route that moves money."""

_AWARE: Any = Annotated[datetime, msgspec.Meta(tz=True)]
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")


def idempotency_key(request: Request) -> str | None:
    """The key under which this request may be sent again. Raises ``InvalidInput`` if it is empty or too long.

    Each customer's callers have keys of their own, which nobody else can use up: no header holds a line feed.
    """
    key = request.headers.get(IDEMPOTENCY_KEY["name"])
    if key is None:
        return None
    sender = caller_of(request).sender
    check_key(key, IDEMPOTENCY_KEY["name"])
    return key if sender is None else f"{sender.customer_id}\n{key}"


def _checked(check: Callable[[Any], Any]) -> BeforeValidator:
    """``check``, whose sentences begin with ``value``, as pydantic wants it: it puts the name of the field there."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except InvalidInput as error:
            raise PydanticCustomError(error.code, error.detail.removeprefix("value ")) from None

    return BeforeValidator(validate)


def _text(value: object) -> str:
    return check_text(_string(value), "value")


def _key(value: object) -> str:
    return check_key(_string(value), "value")


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInput("value must be a string")
    return value


def _instant(value: object) -> datetime:
    try:
        if isinstance(value, str):
            instant: datetime = msgspec.convert(value, _AWARE).astimezone(UTC)
            if BEGINNING <= instant <= END:
                return instant
    except (msgspec.ValidationError, OverflowError):
        pass
    raise InvalidInput("value must be an RFC 3339 instant with a zone, as 2026-01-31T23:59:59Z")


def _number(value: object) -> Decimal | int | str:
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise InvalidInput("value must be a decimal number")
    if isinstance(value, str) and not _PLAIN_NUMBER.fullmatch(value):
        raise InvalidInput("value must be a plain decimal number, as 99.75")
    return value


def _microunits(value: object) -> int:
    return parse_amount(_number(value), "value")


Text = Annotated[str, _checked(_text), WithJsonSchema({"type": "string", "maxLength": MAX_TEXT_CHARACTERS})]
"""A text that can be kept."""

Key = Annotated[
    str, _checked(_key), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARACTERS})
]
"""A text that names something."""

Remark = Annotated[str, Field(max_length=MAX_REMARK_CHARACTERS, pattern=r"^[^\x00]*$")]
"""What somebody says about a movement of money."""

Instant = Annotated[datetime, _checked(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
"""An instant within the years that PostgreSQL and Python both know; UTC once it is read."""

NUMBER_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "number"}], "examples": ["99.75"]}

EXACT_NUMBER = _checked(_number)
"""Lets JSON numbers through, and strings that are plain decimal numbers."""

JsonNumber = Annotated[Decimal, WithJsonSchema({"type": "number"})]
"""In answers: a JSON number that shows the exact digits."""

Microunits = Annotated[int, _checked(_microunits), WithJsonSchema(NUMBER_SCHEMA)]
"""An amount that is not negative, as a decimal string or a JSON number; microunits once it is read."""
