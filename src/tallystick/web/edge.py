"""What every request passes on its way in and out: its id, its path, the caller's identity, the log, the last net."""

from __future__ import annotations

import logging
import re
import time
from datetime import timedelta
from secrets import token_hex
from typing import Final

import structlog
from pydantic import SecretStr
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tallystick.access.account_tokens import SECOND_FACTOR_HEADER, TOKEN_HEADER, AccountTokens
from tallystick.access.keys import Demand, Keys
from tallystick.access.oidc import NoIssuerConfigured, Tokens
from tallystick.access.tokens import ADMIN_SCOPE, Terms
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import TallyError
from tallystick.operations.traffic import Traffic
from tallystick.settings import Settings
from tallystick.web.problems import (
    CREDITS_SERVICE_USERS,
    ERASING_PATHS,
    PLATFORM_CUSTOMERS,
    REFUSAL_CODE,
    Surface,
    is_under,
    refusal_of,
    say,
    surface_of,
)

REQUEST_ID: Final = b"x-request-id"
CUSTOMER_SEEN: Final = "tallystick.customer_seen"
"""Where in the scope of a request stands whose usage its caller may see: one customer's, or everybody's (``None``)."""

_REQUEST_ID_TEXT = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_OPEN_PATHS = ("/ping", "/api/v1/health", "/openapi.json", "/api/doc", "/docs")
_ADMIN_PATHS = (
    "/api/v1/jobs",
    "/api/v1/kinds",
    "/api/v1/test-clock",
    "/api/v1/pulls",
    "/api/v1/quarantine",
    "/api/v1/readings",
    "/api/v1/verify",
    "/logconfig",
)
_ADMIN_WRITES = ("/api/v1/prices", "/api/v1/meters", "/api/v1/customers", "/api/v1/assets", "/api/v1/tiers")
_LINE_PROTOCOL_PATHS = frozenset({"/write", "/api/v2/write"})

_log = structlog.get_logger("tallystick.web")
_LEVEL = logging.getLogger("tallystick.web")
"""Asked before anything is put together: structlog would only ask it at the end."""


def demand_of(settings: Settings, method: str, path: str) -> Demand:
    """What a route asks of its caller. Whatever is not named here asks for a key.

    With ``--dev`` everything is open; but the credits service asks for keys as soon as there are some, the platform's
    surface for tokens as soon as there is an issuer, and the account management for what its settings name.
    """
    if _is_under_any(path, _OPEN_PATHS):
        return Demand.NOTHING
    surface = surface_of(path)
    if surface is Surface.PLATFORM:
        if settings.dev and settings.oidc_issuer is None:
            return Demand.NOTHING
        return Demand.CUSTOMER_TOKEN if is_under(path, PLATFORM_CUSTOMERS) else Demand.TOKEN
    if surface is Surface.ACCOUNTS:
        if path == "/" or (settings.dev and settings.auth_token is None and settings.two_fa is None):
            return Demand.NOTHING
        return Demand.SECOND_FACTOR if path in ERASING_PATHS else Demand.ACCOUNT_TOKEN
    if surface is Surface.CREDITS_SERVICE:
        keys_exist = settings.client_keys or settings.admin_keys
        if settings.dev and not keys_exist:
            return Demand.NOTHING
        return Demand.ADMIN if is_under(path, CREDITS_SERVICE_USERS) else Demand.CLIENT
    if settings.dev:
        return Demand.NOTHING
    if _is_under_any(path, _ADMIN_PATHS) or (method not in ("GET", "HEAD") and _is_under_any(path, _ADMIN_WRITES)):
        return Demand.ADMIN
    return Demand.ANY


def _is_under_any(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(is_under(path, prefix) for prefix in prefixes)


class Gate:
    """Lets a request through if its caller has the key or the token that its route asks for."""

    def __init__(self, app: ASGIApp, settings: Settings, clock: Clock) -> None:
        self._app = app
        self._settings = settings
        self._keys = Keys(settings.client_keys, settings.admin_keys)
        self._tokens = _tokens(settings, clock)
        self._accounts = AccountTokens(_revealed(settings.auth_token), _revealed(settings.two_fa))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            demand = demand_of(self._settings, scope["method"], path)
            try:
                scope[CUSTOMER_SEEN] = await self._admit(demand, path, scope)
            except TallyError as error:
                await say(surface_of(path), refusal_of(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, demand: Demand, path: str, scope: Scope) -> str | None:
        """Answers the one customer whose usage the caller may see, ``None`` if of all. Raises ``TallyError``."""
        if demand in (Demand.ACCOUNT_TOKEN, Demand.SECOND_FACTOR):
            self._accounts.check(
                _text_header(scope, TOKEN_HEADER),
                _text_header(scope, SECOND_FACTOR_HEADER),
                erases=demand is Demand.SECOND_FACTOR,
                is_open=self._settings.dev,
            )
            return None
        authorization = _text_header(scope, "authorization")
        if demand not in (Demand.TOKEN, Demand.CUSTOMER_TOKEN):
            schemes = ("bearer", "token") if path in _LINE_PROTOCOL_PATHS else ("bearer",)
            self._keys.check(demand, authorization, schemes)
            return None
        if self._tokens is None:
            raise NoIssuerConfigured("no issuer of tokens is configured: set OIDC_ISSUER and CF_CLIENT_ID")
        if demand is Demand.CUSTOMER_TOKEN:
            return await self._tokens.customer_seen(authorization, self._settings.oidc_customer_claim)
        await self._tokens.check(authorization, ADMIN_SCOPE)
        return None


def _tokens(settings: Settings, clock: Clock) -> Tokens | None:
    issuer, audience = settings.oidc_issuer, settings.cf_client_id
    if issuer is None or audience is None:
        return None
    return Tokens(Terms(issuer, audience, timedelta(seconds=settings.oidc_clock_skew_seconds)), clock)


class Edge:
    """The outermost layer.

    Routes match the path as it was sent: a key with a slash in it is one segment, ``a%2Fb``. An exception that nobody
    handled is logged, and answered without a word about the inside.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        if b"%" in (raw_path := scope.get("raw_path") or b""):
            scope["path"] = raw_path.decode("latin-1")
        sent_id = _header(scope, REQUEST_ID) or b""
        request_id = sent_id if _REQUEST_ID_TEXT.fullmatch(sent_id) else token_hex(16).encode()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = 499  # nobody is there to be answered; the number is the one that nginx logs
        except Exception as error:
            _log.exception("http.failure", request_id=request_id.decode(), route=_route(scope))
            if status:  # half of an answer is out already
                self._traffic.note(_route(scope), scope["method"], 500, time.perf_counter() - began, "internal_error")
                raise
            await say(surface_of(scope["path"]), refusal_of(error))(scope, receive, send_with_id)
        seconds = time.perf_counter() - began
        self._traffic.note(_route(scope), scope["method"], status, seconds, scope.get(REFUSAL_CODE))
        # Thousands a second go well; to tell of each would cost a fifth of them.
        level = logging.INFO if status >= 400 else logging.DEBUG
        if status >= 400 or _LEVEL.isEnabledFor(level):
            _log.log(
                level,
                "http.request",
                method=scope["method"],
                route=_route(scope),
                status=status,
                duration_ms=round(seconds * 1000, 1),
                request_id=request_id.decode(),
            )


def _route(scope: Scope) -> str | None:
    """The template of the path, never the path: keys of customers are in it."""
    return getattr(scope.get("route"), "path_format", None)


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _text_header(scope: Scope, name: str) -> str | None:
    value = _header(scope, name.encode())
    return None if value is None else value.decode(errors="surrogateescape")


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for header, value in scope["headers"] if header == name), None)
