"""The ways in: what a surface's callers show is turned into a ``Caller``, and refusals into what they know.

All of them know the keys of the database. Each looks for one in the header that its callers have always used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from tallystick.access.account_tokens import (
    INVALID_TOKEN,
    SECOND_FACTOR_HEADER,
    TOKEN_HEADER,
    AccountTokens,
    HeaderMissing,
    HeaderRefused,
)
from tallystick.access.callers import Caller, OperatorsOnly, OtherCustomer, Scope, ScopeRequired
from tallystick.access.directory import KeyDirectory
from tallystick.access.keys import INVALID, Keys, NoKeysConfigured, RefusedKey, key_in
from tallystick.access.model import prefix_of
from tallystick.access.oidc import NoIssuerConfigured, Tokens
from tallystick.access.tokens import ADMIN_SCOPE, READ_SCOPE, InvalidToken, MissingScope
from tallystick.kernel.errors import TallyError
from tallystick.kernel.ids import NIL
from tallystick.metering.model import Sender

ADMIN_REQUIRED: Final = "Admin API key required for this endpoint"
NO_ADMIN_KEYS: Final = "Admin API keys not configured for this endpoint"
NO_KEYS: Final = "Service not configured - no API keys available"

_ADMINISTRATOR: Final = Caller(frozenset({Scope.ADMIN}))
_ERASER: Final = Caller(frozenset({Scope.ADMIN, Scope.WIPE}))
_READS: Final = frozenset({Scope.BILLING_READ})

Header = Callable[[str], str | None]
"""The value of a header by its name in lower case."""


class Entrance(Protocol):
    """One way in. ``needed`` is the scope that will be asked for; ``None`` where there is no such route."""

    async def caller(self, header: Header, needed: Scope | None) -> Caller:
        """Who calls. Raises ``TallyError`` for one who is not let in."""

    def said(self, error: TallyError) -> TallyError:
        """A refusal as callers of the surface know it."""


class KeyEntrance:
    """``Authorization: Bearer KEY``; where there is an issuer, its tokens as well."""

    def __init__(
        self, keys: Keys, directory: KeyDirectory, tokens: IssuedTokens | None, schemes: tuple[str, ...] = ("bearer",)
    ) -> None:
        self._keys = keys
        self._directory = directory
        self._tokens = tokens
        self._schemes = schemes

    async def caller(self, header: Header, needed: Scope | None) -> Caller:
        if not (self._keys or self._tokens):
            await _refuse_without_keys(self._directory, NO_KEYS)
        key = key_in(header("authorization"), self._schemes)
        if (caller := self._keys.caller(key)) is not None:
            return _configured(caller, needed)
        if self._tokens is not None and _is_token(key):
            return await self._tokens.caller(header, needed)
        return await self._directory.caller(key)

    def said(self, error: TallyError) -> TallyError:
        return error


class SeparateKeyEntrance:
    """The credits service's: an administrator's key of the configuration opens nothing that is for clients."""

    def __init__(self, keys: Keys, directory: KeyDirectory) -> None:
        self._keys = keys
        self._directory = directory

    async def caller(self, header: Header, needed: Scope | None) -> Caller:
        is_admins = needed is Scope.ADMIN
        if is_admins and not self._keys.admins:
            await _refuse_without_keys(self._directory, NO_ADMIN_KEYS)
        elif not is_admins and not self._keys.clients:
            await _refuse_without_keys(self._directory, NO_KEYS)
        key = key_in(header("authorization"))
        if (caller := self._keys.caller(key)) is None:
            return await self._directory.caller(key)
        if needed is not None and not is_admins and needed not in caller.scopes:
            raise RefusedKey(INVALID)
        return _configured(caller, needed)

    def said(self, error: TallyError) -> TallyError:
        return error


class IssuedTokens:
    """Tokens of an OpenID Connect issuer, of administrators or of one customer."""

    def __init__(self, tokens: Tokens, directory: KeyDirectory, customer_claim: str) -> None:
        self._tokens = tokens
        self._directory = directory
        self._customer_claim = customer_claim

    async def caller(self, header: Header, needed: Scope | None) -> Caller:
        """Raises ``TokenRefused`` in one of its kinds, ``IssuerUnreachable``."""
        authorization = header("authorization")
        if needed is Scope.ADMIN:
            await self._tokens.check(authorization, ADMIN_SCOPE)
            return _ADMINISTRATOR
        named = await self._tokens.customer_seen(authorization, self._customer_claim)
        if named is None:
            return _ADMINISTRATOR
        return Caller(_READS, await self._directory.customer(named) or Sender(NIL, named))


class TokenEntrance:
    """The platform's billing: ``Authorization: bearer TOKEN``, or a key in its place."""

    def __init__(self, tokens: IssuedTokens | None, directory: KeyDirectory) -> None:
        self._tokens = tokens
        self._directory = directory

    async def caller(self, header: Header, needed: Scope | None) -> Caller:
        scheme, _, shown = (header("authorization") or "").partition(" ")
        if scheme.lower() == "bearer" and prefix_of(key := shown.strip()) is not None:
            return await self._directory.caller(key)
        if self._tokens is None:
            raise NoIssuerConfigured("no issuer of tokens is configured: set OIDC_ISSUER and CF_CLIENT_ID")
        return await self._tokens.caller(header, needed)

    def said(self, error: TallyError) -> TallyError:
        match error:
            case RefusedKey():
                return InvalidToken("key")
            case ScopeRequired(scope=scope):
                return MissingScope(ADMIN_SCOPE if scope is Scope.ADMIN else READ_SCOPE)
            case OperatorsOnly() | OtherCustomer():
                return MissingScope()
        return error


class HeaderEntrance:
    """The account management's: ``X-Token``, and ``TWO-FA`` besides from everybody who erases."""

    def __init__(self, tokens: AccountTokens, directory: KeyDirectory) -> None:
        self._tokens = tokens
        self._directory = directory

    async def caller(self, header: Header, needed: Scope | None) -> Caller:
        caller = await self._holder(header(TOKEN_HEADER))
        if needed is not Scope.WIPE:
            return caller
        caller.need(Scope.WIPE)
        self._tokens.check_second_factor(header(SECOND_FACTOR_HEADER))
        return caller

    async def _holder(self, shown: str | None) -> Caller:
        if shown is not None and prefix_of(shown) is not None:
            return await self._directory.caller(shown)
        if shown is None and self._tokens.token is None and await self._directory.are_there():
            raise HeaderMissing("Field required", field=TOKEN_HEADER)
        self._tokens.check_token(shown)
        return _ERASER

    def said(self, error: TallyError) -> TallyError:
        return HeaderRefused(INVALID_TOKEN, field=TOKEN_HEADER) if isinstance(error, RefusedKey) else error


async def _refuse_without_keys(directory: KeyDirectory, sentence: str) -> None:
    """Raises ``NoKeysConfigured`` unless there are keys in the database."""
    if not await directory.are_there():
        raise NoKeysConfigured(sentence)


def _configured(caller: Caller, needed: Scope | None) -> Caller:
    """A holder of a configured key, if it has the scope. Raises ``RefusedKey`` in the words of the credits service."""
    if needed is not None and needed not in caller.every_scope:
        raise RefusedKey(ADMIN_REQUIRED)
    return caller


def _is_token(text: str) -> bool:
    """Whether it has the three parts of a JSON Web Token; no key of ours has any."""
    return text.count(".") == 2
