"""Keys in the database: what one is, how its text is made, and what is asked for when one is made. Pure."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from tallystick.access.callers import OF_CUSTOMERS, Scope
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.text import check_key

PREFIX_CHARACTERS: Final = 12
SECRET_CHARACTERS: Final = 43
"""Of 62 that are equally likely: 256 bits."""

MAX_REQUESTS_PER_MINUTE: Final = 1_000_000
MAX_LIFE: Final = timedelta(days=3660)
DEFAULT_OVERLAP: Final = timedelta(days=7)
MAX_OVERLAP: Final = timedelta(days=90)

_SMALL = string.ascii_lowercase + string.digits
_ALL = string.ascii_letters + string.digits
_TEXT = re.compile(rf"tally_([a-z0-9]{{{PREFIX_CHARACTERS}}})_[A-Za-z0-9]{{{SECRET_CHARACTERS}}}")


def make_text() -> str:
    """A new key, as its holder is shown it once: ``tally_<prefix>_<secret>``."""
    prefix, secret = _letters(_SMALL, PREFIX_CHARACTERS), _letters(_ALL, SECRET_CHARACTERS)
    return f"tally_{prefix}_{secret}"


def prefix_of(text: str) -> str | None:
    """The part by which a key is found; ``None`` if the text is no key of ours."""
    match = _TEXT.fullmatch(text)
    return match[1] if match else None


def digest_of(text: str) -> bytes:
    """What is kept of a key. Its secret is random and long, so a plain hash cannot be turned back."""
    return sha256(text.encode()).digest()


def _letters(alphabet: str, count: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(count))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as people see it. ``customer`` and ``agent`` say whose it is; without either it is an operator's.

    ``lives`` is for how long it was made, ``last_used_at`` late by up to a minute, ``replaced_by`` the key after it.
    """

    id: UUID
    prefix: str
    name: str
    customer: str | None
    agent_id: UUID | None
    scopes: Sequence[Scope]
    requests_per_minute: int | None
    lives: timedelta | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: UUID | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is asked for: for a customer by its key, or for an agent by id or e-mail, or for an operator."""

    name: str
    scopes: Sequence[Scope]
    customer: str | None = None
    agent: str | None = None
    lives: timedelta | None = None
    requests_per_minute: int | None = None


def check_new(new: NewKey) -> None:
    """Raises ``InvalidInput`` for a field that breaks its rule."""
    check_key(new.name, "name")
    if not new.scopes:
        raise InvalidInput("scopes must name at least one scope", field="scopes")
    is_customers = new.customer is not None or new.agent is not None
    if is_customers and not OF_CUSTOMERS.issuperset(new.scopes):
        allowed = ", ".join(sorted(OF_CUSTOMERS))
        raise InvalidInput(f"scopes of a customer's or agent's key must be among {allowed}", field="scopes")
    if new.lives is not None:
        check_span(new.lives, timedelta(seconds=1), MAX_LIFE, "expires_in")
    if new.requests_per_minute is not None and not 1 <= new.requests_per_minute <= MAX_REQUESTS_PER_MINUTE:
        rule = f"requests_per_minute must be from 1 to {MAX_REQUESTS_PER_MINUTE}"
        raise InvalidInput(rule, field="requests_per_minute")


def check_span(span: timedelta, shortest: timedelta, longest: timedelta, field: str) -> None:
    """Raises ``InvalidInput`` if a time is shorter or longer than that."""
    if not shortest <= span <= longest:
        raise InvalidInput(f"{field} must be from {_seconds(shortest)} to {_seconds(longest)} seconds", field=field)


def _seconds(span: timedelta) -> int:
    return span // timedelta(seconds=1)
