"""How a refusal is said. A broken rule is stated once, where it is enforced; each surface says it in its own way.

- native routes: ``application/problem+json`` (RFC 9457) with ``code`` and, where one is at fault, ``field``;
- credits service, account management: ``{"detail": ...}``, a text, or a list of faults if the request breaks the
  schema, as FastAPI has it;
- OpenStack credits: ``text/plain``, ``<status>: <reason>``;
- platform billing: ``text/plain``, the sentence alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi.exceptions import RequestValidationError
from psycopg_pool import TooManyRequests
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from tallystick.access.account_tokens import HeaderMissing
from tallystick.access.keys import MissingKey
from tallystick.access.tokens import TokenRefused
from tallystick.kernel.errors import Overloaded, TallyError, Unavailable

PROBLEM_JSON = "application/problem+json"
REFUSAL_CODE = "tallystick.refusal_code"
"""Where in the scope of a request the edge finds the code with which it was refused."""
INTERNAL_ERROR = "Internal server error - please try again later"
MAX_FAULTS = 20
"""Faults of one request that are named; a body with more is mended step by step."""
MAX_NAME_CHARACTERS = 100
"""Of a field's name that the caller made up, this much is repeated."""

CREDITS_SERVICE_PATHS = frozenset({"/api/v1/accounts", "/api/v1/balance", "/api/v1/topup", "/api/v1/bill"})
CREDITS_SERVICE_USERS = "/api/v1/users"
"""With all that is under it: the administrators' part of that surface."""
OPENSTACK_PATHS = (
    "/ping",
    "/write",
    "/api/v2/write",
    "/api/credits_history",
    "/api/metrics",
    "/api/costs_per_hour",
    "/api/doc",
    "/stats",
    "/metrics",
    "/logconfig",
)
PLATFORM_PATHS = ("/admin", "/customer")
"""With all that is under them: what is for its administrators, and what is for its customers."""
ACCOUNT_PATHS = ("/accounts", "/agents", "/dev")
"""With all that is under them; and ``/`` itself."""
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
"""What callers named may stand in a text, which no browser must take for a page."""

_SENTENCES = {"Not Found": "there is nothing at this path", "Method Not Allowed": "this path does not take this method"}
"""What Starlette's own refusals say on native routes and on the platform's surface."""


class Busy(Overloaded):
    """Too much comes. Senders of Prometheus are told so with the one status on which each of them sends again."""

    code = "busy"
    status = 503


class Surface(Enum):
    """Whose callers are served: it decides the shape of refusals and which keys are asked for."""

    NATIVE = "native"
    CREDITS_SERVICE = "credits-service"
    OPENSTACK = "openstack-credits"
    PLATFORM = "platform-billing"
    ACCOUNTS = "account-management"


def surface_of(path: str) -> Surface:
    """The surface that a path belongs to; paths that do not exist are native."""
    if path in CREDITS_SERVICE_PATHS or is_under(path, CREDITS_SERVICE_USERS):
        return Surface.CREDITS_SERVICE
    if any(is_under(path, prefix) for prefix in OPENSTACK_PATHS):
        return Surface.OPENSTACK
    if path == "/" or any(is_under(path, prefix) for prefix in ACCOUNT_PATHS):
        return Surface.ACCOUNTS
    return Surface.PLATFORM if any(is_under(path, prefix) for prefix in PLATFORM_PATHS) else Surface.NATIVE


def is_under(path: str, prefix: str) -> bool:
    """Compares whole segments: ``/client-admin`` is not under ``/client``."""
    return path == prefix or path.startswith(f"{prefix}/")


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """What any surface needs to know to say no."""

    status: int
    code: str
    detail: str
    field: str | None = None
    faults: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def refusal_of(error: Exception) -> Refusal:
    """What an exception means to the caller. One that nobody foresaw tells nothing about the inside."""
    match error:
        case HeaderMissing():
            fault = {"type": "missing", "loc": ["header", error.field], "msg": error.detail}
            return Refusal(error.status, error.code, f"{error.field}: {error.detail}", error.field, [fault])
        case TallyError(status=status) if status != HTTPStatus.INTERNAL_SERVER_ERROR:
            return Refusal(status, error.code, error.detail, error.field, headers=_headers(error))
        case RequestValidationError():
            return _broken_schema(error)
        case HTTPException():
            return Refusal(error.status_code, _code(error.status_code), str(error.detail), headers=error.headers or {})
        case TooManyRequests():
            return refusal_of(Overloaded("too many requests wait for the database"))
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return refusal_of(Unavailable("the database cannot be reached"))
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", INTERNAL_ERROR)


def say(surface: Surface, refusal: Refusal) -> Response:
    """The refusal in the words of a surface."""
    headers = dict(refusal.headers)
    if surface is Surface.OPENSTACK:
        text = f"{int(refusal.status)}: {refusal.detail}"
        return _Said(refusal, text.encode(errors="backslashreplace"), headers, "text/plain")
    if surface is Surface.PLATFORM:
        # Its callers know one status for a database that fails.
        status = HTTPStatus.INTERNAL_SERVER_ERROR if refusal.code == Unavailable.code else refusal.status
        text = _SENTENCES.get(refusal.detail, refusal.detail)
        body_text = text.encode(errors="backslashreplace")
        return _Said(dataclasses.replace(refusal, status=status), body_text, {**headers, **NO_SNIFFING}, "text/plain")
    if surface in (Surface.CREDITS_SERVICE, Surface.ACCOUNTS):
        return _json(refusal, {"detail": refusal.faults or refusal.detail}, headers, "application/json")
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": int(refusal.status),
        "detail": _SENTENCES.get(refusal.detail, refusal.detail),
        "code": refusal.code,
    }
    if refusal.field is not None:
        body["field"] = refusal.field
    if len(refusal.faults) > 1:
        body["errors"] = [{"field": _path(fault["loc"]), "detail": fault["msg"]} for fault in refusal.faults]
    return _json(refusal, {**body, **refusal.more}, headers, PROBLEM_JSON)


class _Said(Response):
    """Leaves the code of the refusal in the scope, whoever sends it."""

    def __init__(self, refusal: Refusal, body: bytes, headers: dict[str, str], media_type: str) -> None:
        super().__init__(body, refusal.status, headers, media_type)
        self._code = refusal.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REFUSAL_CODE] = self._code
        await super().__call__(scope, receive, send)


async def answer(request: Request, error: Exception) -> Response:
    """The handler of every exception that a route may raise."""
    response = say(surface_of(request.scope["path"]), refusal_of(error))
    if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = _allowed(request)
    return response


def _allowed(request: Request) -> str:
    """The methods of all routes with this path; the exception knows those of one of them."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in matching for method in methods}))


def _json(refusal: Refusal, body: object, headers: dict[str, str], media_type: str) -> Response:
    # ASCII, so that half a surrogate pair in a name that the caller made up cannot break the answer
    return _Said(refusal, json.dumps(body, separators=(",", ":")).encode(), headers, media_type)


def _headers(error: TallyError) -> dict[str, str]:
    if isinstance(error, Overloaded):
        return {"Retry-After": str(error.retry_after_seconds)}
    if isinstance(error, MissingKey):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, TokenRefused):
        return {"WWW-Authenticate": error.challenge}
    return {}


def _code(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "_")


def _broken_schema(error: RequestValidationError) -> Refusal:
    """All faults that pydantic found, without the input: it may be anything, and long."""
    faults = [
        {"type": fault["type"], "loc": [_short(part) for part in fault["loc"]], "msg": fault["msg"]}
        for fault in error.errors()[:MAX_FAULTS]
    ]
    first = faults[0]
    path = _path(first["loc"])
    return Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_input", f"{path or 'the body'}: {first['msg']}", path or None, faults
    )


def _short(part: object) -> object:
    return part[:MAX_NAME_CHARACTERS] if isinstance(part, str) else part


def _path(loc: Sequence[object]) -> str:
    """``model.tiers[0].amount`` for ``("body", "model", "tiers", 0, "amount")``."""
    path = ""
    for part in loc[1:] if loc and loc[0] in ("body", "query", "path", "header") else loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path
