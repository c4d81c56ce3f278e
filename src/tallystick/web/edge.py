"""What every request passes on its way in and out: its id, its path, the log, the last net."""

from __future__ import annotations

import logging
import re
import time
from secrets import token_hex
from typing import Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tallystick.operations.traffic import Traffic
from tallystick.web.problems import REFUSAL_CODE, refusal_of, say, surface_of

REQUEST_ID: Final = b"x-request-id"

_REQUEST_ID_TEXT = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

_log = structlog.get_logger("tallystick.web")
_LEVEL = logging.getLogger("tallystick.web")
"""Asked before anything is put together: structlog would only ask it at the end."""


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


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for header, value in scope["headers"] if header == name), None)
