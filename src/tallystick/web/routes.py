"""Two kinds of routes of FastAPI, and how a key stands in a path."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote, unquote

from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from tallystick.web.body import UnsupportedMedia, exact_json, is_json, read_body

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class LeanRoute(APIRoute):
    """Documented like any route, run without FastAPI's machinery: the endpoint takes a request, gives a response."""

    def get_route_handler(self) -> Handler:
        return self.endpoint


class ExactRoute(APIRoute):
    """A route whose JSON body is read within the limit and never passes through a binary float."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_exactly(request: Request) -> Response:
            exact = _ExactRequest(request.scope, request.receive)
            if self.body_field is not None:
                await exact.load()
            return await handle(exact)

        return handle_exactly


class _ExactRequest(Request):
    async def load(self) -> None:
        """Sets what ``body()`` and ``json()`` give. FastAPI itself would make one bare 400 of all that can be wrong."""
        if not is_json(self):
            raise UnsupportedMedia("Content-Type must be application/json")
        self._body = await read_body(self, self.app.state.service.settings.max_body_bytes)
        self._json = exact_json(self._body)


class _KeyConvertor(Convertor[str]):
    """One segment of the path, decoded after routing: a key with a slash is sent as ``a%2Fb`` and stays one segment."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        return quote(value, safe="", errors="surrogateescape")


register_url_convertor("key", _KeyConvertor())
