"""Templates of one's own: texts with ``$placeholder`` or ``${placeholder}``, as OpenStack credits had them.

What is wrong with one is said when it is defined: a ``$`` that begins nothing (``$$`` stands for a dollar), and a
placeholder that nothing stands behind. A template's own placeholders go before those that every template has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.text import check_key

MAX_SUBJECT_CHARACTERS: Final = 200
MAX_BODY_CHARACTERS: Final = 16_384
MAX_PLACEHOLDERS: Final = 50
MAX_VALUE_CHARACTERS: Final = 1_000

KINDS_OF_TEMPLATES: Final = ("share", "exhausted", "balance", "forecast", "unusual")
"""What a file of templates may be named after; ``exhausted`` is a share or balance of zero."""

BUILT_IN: Final = frozenset(
    {
        "project",
        "credits_used",
        "credits_granted",
        "credits_left",
        "asset",
        "customer",
        "threshold",
        "share",
        "spent",
        "usual",
        "ends_on",
        "at",
        "link",
    }
)
"""What every template may name. Where a kind of rule has no such figure, it is empty."""

_SUBJECT = "Subject:"


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """A subject and a text."""

    subject: str
    body: str

    def filled(self, facts: Mapping[str, str]) -> tuple[str, str]:
        """Subject and text with their placeholders filled in; one without a fact stays as it is."""
        return Template(self.subject).safe_substitute(facts), Template(self.body).safe_substitute(facts)


def check_template(subject: str, body: str, own: Iterable[str] = ()) -> OwnTemplate:
    """A template, if it is one. Raises ``InvalidInput`` naming ``subject`` or ``body``."""
    check_key(subject, "subject", MAX_SUBJECT_CHARACTERS)
    if "\n" in subject or "\r" in subject:
        raise InvalidInput("subject must be a single line", field="subject")
    check_key(body, "body", MAX_BODY_CHARACTERS)
    known = BUILT_IN | set(own)
    for field, text in (("subject", subject), ("body", body)):
        template = Template(text)
        if not template.is_valid():
            raise InvalidInput(f"{field} has a $ that begins no placeholder: write $$ for a dollar", field=field)
        for name in template.get_identifiers():
            if name not in known:
                raise InvalidInput(f"{field} has an unknown placeholder: ${name}", field=field)
    return OwnTemplate(subject, body)


def check_placeholders(placeholders: Mapping[str, str]) -> None:
    """Raises ``InvalidInput`` for placeholders that no template could name, or too many or too long ones."""
    if len(placeholders) > MAX_PLACEHOLDERS:
        raise InvalidInput(f"placeholders must be at most {MAX_PLACEHOLDERS}", field="placeholders")
    for name, value in placeholders.items():
        if Template(f"${{{name}}}").get_identifiers() != [name]:
            raise InvalidInput(
                f"placeholders must be named by letters, digits and _: {name!r} is not", field="placeholders"
            )
        if len(value) > MAX_VALUE_CHARACTERS or "\0" in value:
            raise InvalidInput(
                f"placeholders must have at most {MAX_VALUE_CHARACTERS} characters, and no NUL", field="placeholders"
            )


def read_templates(folder: Path) -> dict[str, OwnTemplate]:
    """The templates in a folder, by kind: files like ``share.txt``, whose first line is ``Subject: ...``.

    Raises ``InvalidInput`` naming the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder")
    return {path.stem: _read(path) for path in sorted(folder.glob("*.txt"))}


def _read(path: Path) -> OwnTemplate:
    if path.stem not in KINDS_OF_TEMPLATES:
        raise InvalidInput(f"{path} is named after no kind of template: {', '.join(KINDS_OF_TEMPLATES)}")
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {type(error).__name__}") from None
    if not head.startswith(_SUBJECT):
        raise InvalidInput(f"{path} must begin with a line {_SUBJECT!r}")
    try:
        return check_template(head.removeprefix(_SUBJECT).strip(), body.lstrip("\n"))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.detail}") from None
