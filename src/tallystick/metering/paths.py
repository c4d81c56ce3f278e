"""Where a resource stands in its customer's reporting tree: slugs, paths, patterns of paths. Pure.

A path is a row of labels joined by dots, as ``apps.usage.cforg_x.space_y.app_z``. Its last label is the slug of what
stands there, those before it are its place. Labels hold ASCII letters, digits and ``_`` only.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from tallystick.kernel.errors import InvalidInput

MAX_SLUG_CHARACTERS = 256
MAX_PATH_CHARACTERS = 1024
MAX_PATTERN_CHARACTERS = 512
MAX_REPEATS = 64
"""The most labels that all counted stars of one pattern may stand for, so that its expression stays small."""

PLATFORM_ROOT = "apps.usage"
"""Where a Cloud Foundry platform's organizations stand."""
ORPHANS = "orphan"
"""Where those resources of a platform stand whose space nobody knows."""
ORGANIZATION, SPACE = "cforg_", "space_"
"""How the labels of organizations and spaces begin."""

_NOT_WORD = re.compile(r"[^A-Za-z0-9_]")
_LABEL = re.compile(r"[A-Za-z0-9_]+")
_ENVIRONMENT = re.compile(r"_(test|dev|stage|staging|prod)$", re.IGNORECASE)
_STAR = re.compile(r"\*(\{(?P<least>[0-9]{0,4})(?P<comma>,(?P<most>[0-9]{0,4}))?\})?")
_WORD_PATTERN = re.compile(r"[A-Za-z0-9_%]+")


# Slugs and paths


def slug(*parts: str) -> str:
    """One label from names as people write them: joined by ``_``, and every character that is none of a word is ``_``.

    One that would be too long is cut, and ends in a digest of the whole, so that two long names stay apart. Raises
    ``InvalidInput`` if nothing is left.
    """
    text = _NOT_WORD.sub("_", "_".join(parts))
    if not text:
        raise InvalidInput("slug must not be empty: a path needs one", field="slug")
    if len(text) <= MAX_SLUG_CHARACTERS:
        return text
    digest = blake2b("_".join(parts).encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{text[: MAX_SLUG_CHARACTERS - len(digest) - 1]}_{digest}"


def path_below(parent: str, *parts: str) -> str:
    """The path of what stands below ``parent`` (at the top, if that is empty) under the slug of ``parts``.

    Raises ``InvalidInput`` if it has no slug, or becomes too long.
    """
    last = slug(*parts)
    return check_path(f"{parent}.{last}" if parent else last, "path")


def app_path(organization: str, space: str, app: str) -> str:
    """Where an app of a platform stands, by the names of its organization, its space and itself."""
    return path_below(_space_path(organization, space), "app", app)


def service_path(organization: str, space: str, offering: str, plan: str, instance: str) -> str:
    """Where a service instance of a platform stands."""
    return path_below(_space_path(organization, space), "svc", offering, plan, instance)


def orphan_path(app: str) -> str:
    """Where an app stands whose space is not known."""
    return path_below(ORPHANS, "app", app)


def _space_path(organization: str, space: str) -> str:
    return path_below(path_below(PLATFORM_ROOT, "cforg", organization), "space", space)


def family(space: str) -> str:
    """The label of the family of a space: ``space_web`` for ``space_web_dev``, ``space_web_prod`` and ``space_web``."""
    return _ENVIRONMENT.sub("", space)


def check_path(path: str, field: str) -> str:
    """Returns ``path`` unchanged if it is one. Raises ``InvalidInput``, naming ``field``."""
    labels = path.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(
            f"{field} must be labels of ASCII letters, digits and underscores, joined by dots", field=field
        )
    if any(len(label) > MAX_SLUG_CHARACTERS for label in labels):
        raise InvalidInput(f"{field} must have labels of at most {MAX_SLUG_CHARACTERS} characters", field=field)
    if len(path) > MAX_PATH_CHARACTERS:
        raise InvalidInput(f"{field} must have at most {MAX_PATH_CHARACTERS} characters", field=field)
    return path


def is_within(path: str, top: str) -> bool:
    """Whether ``path`` is ``top`` or stands below it."""
    return path == top or path.startswith(f"{top}.")


def above(path: str) -> list[str]:
    """The paths above a path, from the top down."""
    labels = path.split(".")
    return [".".join(labels[:number]) for number in range(1, len(labels))]


# Patterns


def expression(pattern: str, field: str = "pattern") -> str:
    """The regular expression that ``path || '.'`` matches exactly if the path fits the pattern.

    A pattern is labels joined by dots. Within a label ``%`` stands for any characters, also none, and ``a|b`` for one
    of several. A label ``*`` stands for any number of labels, ``*{2}`` for two, ``*{1,}`` for one or more, ``*{,3}``
    for up to three, ``*{1,3}`` for one to three. The expression has no groups that could be looked back at, and its
    counts are bounded, so PostgreSQL matches it in time that grows with the path alone. Raises ``InvalidInput``, naming
    ``field``.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise InvalidInput(f"{field} must have at most {MAX_PATTERN_CHARACTERS} characters", field=field)
    repeats = 0
    pieces = []
    for label in pattern.split("."):
        piece, counted = _star(label, field) if label.startswith("*") else (_word(label, field), 0)
        repeats += counted
        pieces.append(piece)
    if repeats > MAX_REPEATS:
        raise InvalidInput(f"{field} must count at most {MAX_REPEATS} labels in all its stars", field=field)
    return f"^{''.join(pieces)}$"


def _word(label: str, field: str) -> str:
    words = label.split("|")
    if not all(_WORD_PATTERN.fullmatch(word) for word in words):
        raise InvalidInput(
            f"{field} must be labels joined by dots: each of ASCII letters, digits, underscores, % and |, or a star as"
            " *, *{2}, *{1,} or *{1,3}",
            field=field,
        )
    choice = "|".join(re.sub("%+", "[A-Za-z0-9_]*", word) for word in words)
    return rf"(?:{choice})\."


def _star(label: str, field: str) -> tuple[str, int]:
    """The expression of a star, and how many labels its counts come to."""
    found = _STAR.fullmatch(label)
    if found is None or label == "*{}":
        raise InvalidInput(f"{field} has a star that is none of *, *{{2}}, *{{1,}}, *{{,3}}, *{{1,3}}", field=field)
    any_label = r"(?:[A-Za-z0-9_]+\.)"
    if label == "*":
        return f"{any_label}*", 0
    least = int(found["least"] or 0)
    if found["comma"] is None:
        most: int | None = least
    else:
        most = int(found["most"]) if found["most"] else None
    if most is not None and most < least:
        raise InvalidInput(f"{field} has a star whose counts run backwards: {label}", field=field)
    counted = max(least, most or 0)
    if counted > MAX_REPEATS:  # before it is written down: PostgreSQL itself ends at 255
        raise InvalidInput(f"{field} must count at most {MAX_REPEATS} labels in all its stars", field=field)
    return f"{any_label}{{{least},{'' if most is None else most}}}", counted
