"""API keys: who may call, told by a bearer key of the configuration.

Clients' keys and administrators' keys are two sets; neither contains the other. Statuses and texts of refusals are the
ones that callers of the credits service know, and hold for every surface.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from tallystick.kernel.errors import TallyError

FORMAT = "Invalid Authorization header format. Use: Bearer <api_key>"


class Demand(Enum):
    """What a route asks of its caller."""

    NOTHING = auto()
    CLIENT = auto()  # a client key and nothing else
    ANY = auto()  # a client key or an administrator's
    ADMIN = auto()  # an administrator's key
    TOKEN = auto()  # an administrator's token of the OIDC issuer, which no key stands for
    ACCOUNT_TOKEN = auto()  # the token of the account management
    SECOND_FACTOR = auto()  # that, and its second factor
    CUSTOMER_TOKEN = auto()  # that, or one that names the customer whose usage its bearer may see


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
    """The keys of the configuration."""

    clients: frozenset[str]
    admins: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.clients or self.admins)

    def check(self, demand: Demand, authorization: str | None, schemes: Collection[str] = ("bearer",)) -> None:
        """Returns if the ``Authorization`` header meets the demand.

        Raises ``MissingKey``, ``RefusedKey`` or ``NoKeysConfigured``.
        """
        if demand is Demand.NOTHING:
            return
        if demand is Demand.ADMIN and not self.admins:
            raise NoKeysConfigured("Admin API keys not configured for this endpoint")
        if not (self.clients or (self.admins and demand is not Demand.CLIENT)):
            raise NoKeysConfigured("Service not configured - no API keys available")
        key = _key_in(authorization, schemes)
        is_client, is_admin = _is_one_of(key, self.clients), _is_one_of(key, self.admins)
        if demand is Demand.ADMIN and is_client and not is_admin:
            raise RefusedKey("Admin API key required for this endpoint")
        enough = {Demand.CLIENT: is_client, Demand.ANY: is_client or is_admin, Demand.ADMIN: is_admin}
        if not enough.get(demand, False):
            raise RefusedKey("Invalid API key")


def _key_in(authorization: str | None, schemes: Collection[str]) -> str:
    if authorization is None:
        raise MissingKey("Missing Authorization header")
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() not in schemes or not key.strip():
        raise MissingKey(FORMAT)
    return key.strip()


def _is_one_of(key: str, known: frozenset[str]) -> bool:
    """Compares with every known key, each in constant time, so that how long it takes tells nothing of any of them."""
    found = False
    for one in known:
        found |= hmac.compare_digest(key.encode(errors="surrogateescape"), one.encode(errors="surrogateescape"))
    return found
