from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.text import (
    MAX_TEXT_CHARACTERS,
    TextEmpty,
    TextNotStorable,
    TextTooLong,
    check_key,
    check_text,
    is_unicode,
)

LONGEST = "𝄞" * MAX_TEXT_CHARACTERS


@pytest.mark.parametrize(
    "text", ["", " ", "project-1", " kept as it is ", "größer\nline", "𝄞", LONGEST, "\x01\x7f\ufffe"]
)
def test_a_text_that_can_be_kept_is_returned_unchanged(text: str) -> None:
    assert check_text(text, "name") == text


@pytest.mark.parametrize(
    ("text", "error", "rule"),
    [
        (LONGEST + "a", TextTooLong, "must have at most 256 characters"),
        ("a" * 10_000, TextTooLong, "must have at most 256 characters"),
        ("a\0b", TextNotStorable, "must not contain NUL"),
        ("a\ud800", TextNotStorable, "must be valid Unicode without lone surrogates"),
        ("\udc00\ud800", TextNotStorable, "must be valid Unicode without lone surrogates"),
    ],
)
def test_a_text_that_cannot_be_kept_is_refused(text: str, error: type[InvalidInput], rule: str) -> None:
    for check in (check_text, check_key):
        with pytest.raises(error) as refused:
            check(text, "key")
        assert str(refused.value) == f"key {rule}"
        assert refused.value.field == "key"


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2003"])
def test_a_key_has_something_in_it(text: str) -> None:
    with pytest.raises(TextEmpty, match=r"^user_id must not be empty$"):
        check_key(text, "user_id")


def test_space_around_a_key_is_kept() -> None:
    assert check_key(" a ", "key") == " a "


@given(st.text(st.characters(exclude_categories=()), max_size=10))
def test_unicode_is_text_without_surrogates(text: str) -> None:
    assert is_unicode(text) == (not any("\ud800" <= character <= "\udfff" for character in text))
