"""Keys of the configuration: ``API_KEYS`` of clients, ``ADMIN_API_KEYS`` of administrators.

They are two sets; neither contains the other. Statuses and texts of refusals are the ones that callers of the credits
service know, and hold for every surface.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from tallystick.access.callers import Caller, Scope
from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import derived_id

FORMAT: Final = "Invalid Authorization header format. Use: Bearer <api_key>"
INVALID: Final = "Invalid API key"

OF_CLIENTS: Final = frozenset({Scope.USAGE_WRITE, Scope.BILLING_READ, Scope.BILLING_CHARGE})
OF_ADMINS: Final = frozenset({Scope.ADMIN})


class MissingKey(TallyError):
    """The caller did not say who it is."""

    code = "key_missing"
    status = 401


class RefusedKey(TallyError):
    """The key is unknown, or not enough for this route."""

    code = "key_refused"
    status = 403


class NoKeysConfigured(TallyError):
    """The service demands a key and was given none that it could accept."""

    code = "no_keys_configured"
    status = 503


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the configuration, all of operators."""

    clients: frozenset[str]
    admins: frozenset[str]
    _known: tuple[tuple[bytes, Caller], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = [(_bytes(key), self._caller(key)) for key in sorted(self.clients | self.admins)]
        object.__setattr__(self, "_known", tuple(known))

    def __bool__(self) -> bool:
        return bool(self.clients or self.admins)

    def caller(self, key: str) -> Caller | None:
        """Who calls with this key, if it is known.

        Compares with every known key, each in constant time, so that how long it takes tells nothing of any of them.
        """
        given, found = _bytes(key), None
        for known, caller in self._known:
            if hmac.compare_digest(given, known):
                found = caller
        return found

    def _caller(self, key: str) -> Caller:
        clients = OF_CLIENTS if key in self.clients else frozenset[Scope]()
        admins = OF_ADMINS if key in self.admins else frozenset[Scope]()
        return Caller(clients | admins, id=derived_id("configured key", _bytes(key)))


def key_in(authorization: str | None, schemes: Collection[str] = ("bearer",)) -> str:
    """The key in an ``Authorization`` header. Raises ``MissingKey``."""
    if authorization is None:
        raise MissingKey("Missing Authorization header")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() not in schemes or not (key := key.strip()):
        raise MissingKey(FORMAT)
    return key


def _bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")
