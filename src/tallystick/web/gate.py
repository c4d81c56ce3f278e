"""The gate: every request is turned into a caller who may do what is asked, before anything of its body is read."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import psycopg
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tallystick.access.account_tokens import AccountTokens
from tallystick.access.callers import EVERYTHING, NOBODY, Caller
from tallystick.access.callers import Scope as Permit
from tallystick.access.directory import KeyDirectory
from tallystick.access.entrances import (
    Entrance,
    HeaderEntrance,
    IssuedTokens,
    KeyEntrance,
    SeparateKeyEntrance,
    TokenEntrance,
)
from tallystick.access.keys import Keys
from tallystick.access.limits import RequestLimits
from tallystick.access.oidc import Tokens
from tallystick.access.tokens import Terms
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Overloaded, TallyError
from tallystick.settings import Settings
from tallystick.web.permissions import PERMISSIONS, Found
from tallystick.web.problems import Busy, Surface, refusal_of, say

CALLER: Final = "tallystick.caller"
"""Where in the scope of a request its caller stands."""

LINE_PROTOCOL_PATHS: Final = ("/write", "/api/v2/write")
"""Clients of InfluxDB 2 call the scheme ``Token``."""

REMOTE_WRITE_PATH: Final = "/api/v1/prometheus/write"

REFUSED: Final = (TallyError, HTTPException, psycopg.OperationalError, psycopg.InterfaceError)
"""What may keep a caller out: also a database that cannot be asked."""


MAY_END_KEYS: Final = frozenset({Permit.CUSTOMERS_WRITE, Permit.COMPLIANCE, Permit.ADMIN, Permit.WIPE})
"""The scopes with which keys, or those who hold them, can be ended."""


class RemoteWriteEntrance(KeyEntrance):
    """Senders of Prometheus by default do not send again what got 429, and usage must not be lost by being too much."""

    def said(self, error: TallyError) -> TallyError:
        match error:
            case Overloaded():
                return Busy(error.detail, retry_after_seconds=error.retry_after_seconds)
        return error


def caller_of(request: Request) -> Caller:
    """Who makes a request; what that one may do at this route has been looked at already."""
    caller: Caller = request.scope[CALLER]
    return caller


def is_open(settings: Settings, surface: Surface) -> bool:
    """Whether nobody is asked who calls: with ``--dev``, on loopback.

    But the credits service asks for keys as soon as some are configured, the platform's surface for tokens as soon as
    there is an issuer, and the account management for what its settings name.
    """
    if not settings.dev:
        return False
    match surface:
        case Surface.CREDITS_SERVICE:
            return not (settings.client_keys or settings.admin_keys)
        case Surface.PLATFORM:
            return settings.oidc_issuer is None
        case Surface.ACCOUNTS:
            return settings.auth_token is None and settings.two_fa is None
    return True


class Gate:
    """Lets a request through if its caller may do what it asks for, and not too often."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Clock, directory: KeyDirectory) -> None:
        self._app = app
        self._clock = clock
        self._directory = directory
        self._limits = RequestLimits()
        self._per_minute = settings.key_requests_per_minute
        self._open = frozenset(surface for surface in Surface if is_open(settings, surface))
        keys = Keys(settings.client_keys, settings.admin_keys)
        tokens = _tokens(settings, clock, directory)
        self._entrances: dict[Surface, Entrance] = {
            Surface.NATIVE: KeyEntrance(keys, directory, tokens),
            Surface.OPENSTACK: KeyEntrance(keys, directory, tokens),
            Surface.CREDITS_SERVICE: SeparateKeyEntrance(keys, directory),
            Surface.PLATFORM: TokenEntrance(tokens, directory),
            Surface.ACCOUNTS: HeaderEntrance(_account_tokens(settings), directory),
        }
        lines = KeyEntrance(keys, directory, tokens, ("bearer", "token"))
        self._own_entrances: dict[str, Entrance] = {
            **dict.fromkeys(LINE_PROTOCOL_PATHS, lines),
            REMOTE_WRITE_PATH: RemoteWriteEntrance(keys, directory, tokens),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            found = PERMISSIONS.find(scope["method"], scope["path"])
            try:
                scope[CALLER] = await self._admit(scope, found)
            except REFUSED as error:
                await say(found.surface, refusal_of(error))(scope, receive, send)
                return
            if found.scope in MAY_END_KEYS and scope["method"] != "GET":
                send = self._forgetting(send)
        await self._app(scope, receive, send)

    def _forgetting(self, send: Send) -> Send:
        """As ``send``; before the answer is out, this process knows no key but by asking.

        It would be told of changes too, but perhaps a moment later than the caller is.
        """

        async def send_and_forget(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._directory.forget()
            await send(message)

        return send_and_forget

    async def _admit(self, scope: Scope, found: Found) -> Caller:
        """Who calls. Raises ``TallyError`` for one who is not let in, ``HTTPException`` where there is nothing."""
        is_public = found.permission is not None and found.scope is None
        if is_public or scope["method"] == "OPTIONS":  # which says what there is, and does nothing
            return NOBODY
        if found.surface in self._open:
            return EVERYTHING
        entrance = self._own_entrances.get(scope["path"]) or self._entrances[found.surface]
        try:
            caller = await entrance.caller(lambda name: _header(scope, name), found.scope)
            self._limit(caller)
            _check(found, caller)
        except TallyError as error:
            raise entrance.said(error) from None
        return caller

    def _limit(self, caller: Caller) -> None:
        """Raises ``TooManyRequests``."""
        per_minute = caller.requests_per_minute or self._per_minute
        if per_minute is not None and caller.id is not None:
            self._limits.take(caller.id, per_minute, self._clock.now())


def _check(found: Found, caller: Caller) -> None:
    """Only a caller who is known is told that there is nothing."""
    if found.permission is not None:
        found.permission.check(caller, found.segments)
    elif methods := PERMISSIONS.methods(found.segments):
        raise HTTPException(405, headers={"Allow": ", ".join(methods)})
    else:
        raise HTTPException(404)


def _tokens(settings: Settings, clock: Clock, directory: KeyDirectory) -> IssuedTokens | None:
    issuer, audience = settings.oidc_issuer, settings.cf_client_id
    if issuer is None or audience is None:
        return None
    terms = Terms(issuer, audience, timedelta(seconds=settings.oidc_clock_skew_seconds))
    return IssuedTokens(Tokens(terms, clock), directory, settings.oidc_customer_claim)


def _account_tokens(settings: Settings) -> AccountTokens:
    return AccountTokens(_revealed(settings.auth_token), _revealed(settings.two_fa), is_open=settings.dev)


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _header(scope: Scope, name: str) -> str | None:
    wanted = name.encode()
    for header, value in scope["headers"]:
        if header == wanted:
            text: str = value.decode(errors="surrogateescape")
            return text
    return None
