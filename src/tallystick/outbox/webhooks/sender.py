"""One attempt at a delivery: a request to an endpoint, within limits, following nobody elsewhere."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import httpcore
import httpx
import structlog

import tallystick
from tallystick.outbox.messages import CLOUD_EVENT
from tallystick.outbox.webhooks.network import GuardedNetwork, Resolve, system_resolver
from tallystick.outbox.webhooks.queue import Claimed, Outcome
from tallystick.outbox.webhooks.signing import signature
from tallystick.outbox.webhooks.territory import Forbidden, Territory

TIMEOUT_SECONDS: Final = 15
"""The longest that an attempt may take, from asking for the address to the end of the answer."""

MAX_ANSWER_BYTES: Final = 16 << 10
"""So much of an answer is read, so that the connection can serve again; of a longer one it cannot."""

KEEP_ALIVE_SECONDS: Final = 10

MAX_RETRY_AFTER_DIGITS: Final = 9

_log = structlog.get_logger("tallystick.outbox")

_BUSY = (429, 502, 503, 504)
"""Answers whose ``Retry-After`` is heeded, as the specification asks."""


@cache
def trusted() -> ssl.SSLContext:
    """Whom to believe. To read all those certificates takes long: it is done once."""
    return httpx.create_ssl_context()


class Sender:
    """Sends what is claimed. Its connections are kept for a while, and closed by ``opened``."""

    def __init__(self, secure: httpcore.AsyncConnectionPool, plain: httpcore.AsyncConnectionPool) -> None:
        self._clients = {"https": secure, "http": plain}

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        territory: Territory,
        connections: int,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[Sender]:
        """One that holds so many connections of each kind at most.

        Without ``resolve`` the system is asked for addresses; without ``tls`` those are believed whom the machine does.
        """

        def client(resolve: Resolve, *, is_plain: bool) -> httpcore.AsyncConnectionPool:
            return httpcore.AsyncConnectionPool(
                ssl_context=tls or trusted(),
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=GuardedNetwork(territory, resolve, is_plain=is_plain),
            )

        with nullcontext(resolve) if resolve else system_resolver(connections) as ask:
            async with client(ask, is_plain=False) as secure, client(ask, is_plain=True) as plain:
                yield cls(secure, plain)

    async def send(self, claimed: Claimed) -> Outcome:
        """Tries once. Never raises because of the endpoint: what was wrong is in the outcome, without what it said."""
        began = time.monotonic_ns()
        status, pause = None, 0
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, pause = await self._post(claimed)
            error = None if 200 <= status < 300 else _wrong_status(status)
        except TimeoutError:
            error = f"it took longer than {TIMEOUT_SECONDS} seconds"
        except Forbidden as forbidden:
            error = str(forbidden)
        except httpcore.ConnectError as failed:
            error = f"no connection: {_reason(failed)}"
        except httpcore.ConnectTimeout:
            error = "no connection: it took too long"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ssl.SSLError, OSError):
            error = "the connection broke, or what came was not HTTP"
        except Exception as defect:  # or it would be tried for ever; its text may quote a URL
            _log.error("webhook.defect", id=str(claimed.event_id), error=type(defect).__name__)
            error = f"it could not be sent: {type(defect).__name__}"
        return Outcome(status, error, (time.monotonic_ns() - began) // 1_000_000, pause)

    async def _post(self, claimed: Claimed) -> tuple[int, int]:
        """Status of the answer, and for how many seconds the endpoint wants to be left alone."""
        parts = urlsplit(claimed.url)
        body = claimed.body.encode()
        url = httpcore.URL(claimed.url)
        headers = _headers(claimed, body, parts.netloc)
        async with self._clients[parts.scheme].stream("POST", url, headers=headers, content=body) as answer:
            await _drain(answer)
            return answer.status, _retry_after_seconds(answer) if answer.status in _BUSY else 0


def _headers(claimed: Claimed, body: bytes, host: str) -> list[tuple[str, str]]:
    message_id, timestamp = str(claimed.event_id), int(claimed.at.timestamp())
    return [
        ("Host", host),
        ("Content-Type", CLOUD_EVENT),
        ("User-Agent", f"Tallystick/{tallystick.__version__}"),
        ("Accept-Encoding", "identity"),
        ("webhook-id", message_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", signature(claimed.keys, message_id, timestamp, body)),
    ]


async def _drain(answer: httpcore.Response) -> None:
    """Reads an answer to its end, unless that is too far."""
    length = 0
    async for chunk in answer.aiter_stream():
        length += len(chunk)
        if length > MAX_ANSWER_BYTES:
            return


def _retry_after_seconds(answer: httpcore.Response) -> int:
    """Only of the form that is a number; the other one, a date, would have to be believed about the time as well."""
    text = next((value for name, value in answer.headers if name.lower() == b"retry-after"), b"").strip()
    return int(text) if text.isdigit() and len(text) <= MAX_RETRY_AFTER_DIGITS else 0


def _wrong_status(status: int) -> str:
    if 300 <= status < 400:
        return f"it answered {status}; redirects are not followed"
    return f"it answered {status}"


def _reason(error: httpcore.ConnectError) -> str:
    """What went wrong on our side of the connection, as with certificates; nothing that the endpoint says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate: {cause.verify_message}"
        if isinstance(cause, ConnectionRefusedError):
            return "it was refused"
        cause = cause.__cause__ or cause.__context__
    return "the host has no address" if "no address" in str(error) else "it could not be made"
