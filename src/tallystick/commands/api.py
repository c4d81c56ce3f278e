"""The public routes as commands use them: of a running service, or of one in this very process for the while.

Commands have no shapes, rules or words of their own: what a command prints is what the route answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx

from tallystick.commands.books import open_books
from tallystick.kernel.errors import TallyError
from tallystick.settings import Settings
from tallystick.web.app import create_app

TIMEOUT = httpx.Timeout(10, read=600)
"""Seconds. Connecting is quick or never; an answer may take a while, if all books are proved for it."""

MAX_REASON_CHARACTERS = 200


class Refusal(TallyError):
    """What a route answered instead of what was asked for: its code, status and sentence, and the whole problem."""

    def __init__(self, problem: dict[str, Any], status: int, retry_after_seconds: int | None = None) -> None:
        super().__init__(problem["detail"], field=problem.get("field"))
        self.code = problem["code"]
        self.status = status
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds


class ServiceUnreachable(TallyError):
    """Nobody answers at the URL."""

    code = "service_unreachable"
    status = 503


class Api:
    """Asks routes and gives their JSON back. Raises ``Refusal`` for an answer that says no, ``ServiceUnreachable``."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def get(self, *path: str, **query: str | int | None) -> Any:
        """``get("customers", key)`` is ``/api/v1/customers/{key}``: each part is one segment, whatever is in it."""
        given = {name: value for name, value in query.items() if value is not None}
        return await self._ask("GET", _native(path), params=given)

    async def put(self, *path: str, json: object) -> Any:
        return await self._ask("PUT", _native(path), json=json)

    async def patch(self, *path: str, json: object) -> Any:
        return await self._ask("PATCH", _native(path), json=json)

    async def post(self, *path: str, json: object, headers: dict[str, str] | None = None) -> Any:
        return await self._ask("POST", _native(path), json=json, headers=headers)

    async def delete(self, *path: str) -> Any:
        return await self._ask("DELETE", _native(path))

    async def send(self, path: str, content: bytes, content_type: str, *, method: str = "POST") -> Any:
        """Sends a body as it is to any path: usage in a sender's format, or a mended piece of it."""
        return await self._ask(method, path, content=content, headers={"Content-Type": content_type})

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            response = await self._http.request(method, path, **request)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            reason = str(error) or type(error).__name__
            raise ServiceUnreachable(f"no answer from {self._http.base_url}: {reason}") from None
        if response.is_error:
            raise _refusal(response)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise ServiceUnreachable(f"what answers at {self._http.base_url} is no Tallystick") from None


def _native(path: tuple[str, ...]) -> str:
    return "/api/v1/" + "/".join(quote(part, safe="") for part in path)


def _refusal(response: httpx.Response) -> Refusal:
    """The refusal in a problem+json; an answer that is none, as of a proxy in between, by its status and first line."""
    retry_after = response.headers.get("Retry-After", "")
    retry_after_seconds = int(retry_after) if retry_after.isdecimal() else None
    try:
        return Refusal(response.json(), response.status_code, retry_after_seconds)
    except (ValueError, KeyError, TypeError):
        reason = response.text.strip().partition("\n")[0][:MAX_REASON_CHARACTERS] or response.reason_phrase
        problem = {"code": "http_error", "detail": f"the service answered {response.status_code}: {reason}"}
        return Refusal(problem, response.status_code, retry_after_seconds)


@asynccontextmanager
async def open_api(settings: Settings, url: str | None) -> AsyncIterator[Api]:
    """The routes of the service at ``url``, or of the books that ``settings`` mean.

    A service is shown one of our own administrators' keys, or else clients' keys, if there are any.
    """
    if url is not None:
        key = min(settings.admin_keys or settings.client_keys, default=None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT) as http:
            yield Api(http)
        return
    # Whoever can read the database needs no key to the routes before it.
    own = settings.model_copy(update={"dev": True, "api_keys": "", "admin_api_keys": ""})
    async with open_books(own) as service:
        transport = httpx.ASGITransport(create_app(service))
        # Inside a process nothing times out: proving large books takes its time.
        async with httpx.AsyncClient(transport=transport, base_url="http://books", timeout=None) as http:  # noqa: S113
            yield Api(http)


def ask(settings: Settings, url: str | None, question: Callable[[Api], Awaitable[Any]]) -> Any:
    """Opens the routes, asks, closes them, and gives the answer. For commands that ask one thing."""

    async def asking() -> Any:
        async with open_api(settings, url) as api:
            return await question(api)

    return asyncio.run(asking())
