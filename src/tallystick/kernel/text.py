"""What a text from outside must be before it is kept: short enough, storable, and for a key not empty."""

from __future__ import annotations

from tallystick.kernel.errors import InvalidInput

MAX_TEXT_CHARACTERS = 256
"""Longest key, name or id that is taken in, in Unicode characters: two of them fit an index row of PostgreSQL."""


class TextTooLong(InvalidInput):
    """A text has more than ``MAX_TEXT_CHARACTERS`` characters."""

    code = "text_too_long"


class TextNotStorable(InvalidInput):
    """A text holds NUL, which PostgreSQL cannot keep, or half a surrogate pair, which is not Unicode text."""

    code = "text_not_storable"


class TextEmpty(InvalidInput):
    """A text that names something is empty or only white space."""

    code = "text_empty"


def check_text(text: str, field: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Returns ``text`` unchanged if it can be kept. Raises ``TextTooLong`` or ``TextNotStorable``, naming ``field``."""
    if len(text) > limit:
        raise TextTooLong(f"{field} must have at most {limit} characters", field=field)
    if "\0" in text:
        raise TextNotStorable(f"{field} must not contain NUL", field=field)
    if not is_unicode(text):
        raise TextNotStorable(f"{field} must be valid Unicode without lone surrogates", field=field)
    return text


def check_key(text: str, field: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """As ``check_text``, for a text that names something: also raises ``TextEmpty``. Space around a key is kept."""
    if not text.strip():
        raise TextEmpty(f"{field} must not be empty", field=field)
    return check_text(text, field, limit)


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8, that is, holds no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
