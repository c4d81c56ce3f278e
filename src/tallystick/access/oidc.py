"""An OpenID Connect issuer: who is let in by its tokens, and where its keys come from.

Its documents are found by discovery (OpenID Connect Discovery 1.0, 4). Keys are fetched when they are first needed, and
again when they have grown old or when a token is signed by none of them, but never oftener than ``ASK_AGAIN_AFTER``: a
stranger's tokens cannot make us a nuisance to the issuer. While the issuer is away its last keys go on to count.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import structlog

from tallystick.access.tokens import (
    ADMIN_SCOPE,
    READ_SCOPE,
    Document,
    InvalidToken,
    Key,
    MissingScope,
    Terms,
    UnreadableDocument,
    customer_in,
    payload_of,
    read_document,
    read_keys,
    scopes_of,
    token_in,
)
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import InvalidInput, TallyError
from tallystick.kernel.urls import check_url

FRESH_FOR = timedelta(hours=1)
"""Older keys are fetched anew in the background."""
USABLE_FOR = timedelta(days=1)
"""Older keys count no more: whoever has them revoked at the issuer must not wait for ever. Tokens live for hours."""
ASK_AGAIN_AFTER = timedelta(seconds=10)
"""So long after one attempt to fetch keys there is no other."""

FETCH_TIMEOUT = timedelta(seconds=5)
"""The longest that one document may take, from connecting to its last byte."""
MAX_DOCUMENT_BYTES = 256 << 10

_DISCOVERY = "/.well-known/openid-configuration"

_log = structlog.get_logger("tallystick.access")


class IssuerUnreachable(TallyError):
    """The issuer has not told its keys since the service was started, or not for long."""

    code = "issuer_unreachable"
    status = 503


class NoIssuerConfigured(TallyError):
    """The service demands a token and knows nobody whose tokens it could accept."""

    code = "no_issuer_configured"
    status = 503


class IssuerFault(Exception):
    """The issuer does not answer, or not as it must. The text says what is wrong, and holds no secret."""


# Addresses


def check_issuer(url: str) -> str:
    """Returns the URL of an issuer unchanged. Raises ``InvalidInput`` if it is none, or not safe to be asked."""
    return check_url(url, query=False)


# Documents


class Discovery(msgspec.Struct):
    """Where an issuer has what."""

    issuer: str
    jwks_uri: str
    token_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None


class Issuer:
    """Asks an issuer for its documents: within a time and a length, following nobody elsewhere."""

    def __init__(self, url: str, timeout: timedelta = FETCH_TIMEOUT) -> None:
        self.url = url
        self._timeout_seconds = timeout.total_seconds()
        self._is_plain = url.startswith("http:")

    async def discover(self) -> Discovery:
        """What the issuer says about itself. Raises ``IssuerFault``."""
        found = read_as(await self.ask("GET", self.url.rstrip("/") + _DISCOVERY), Discovery)
        if found.issuer != self.url:  # demanded by Discovery 4.3: else one issuer could speak for another
            raise IssuerFault("its discovery document names another issuer")
        return found

    async def keys(self) -> tuple[Key, ...]:
        """The keys that it signs with. Raises ``IssuerFault``."""
        document = await self.ask("GET", (await self.discover()).jwks_uri)
        try:
            return read_keys(document)
        except UnreadableDocument as error:
            raise IssuerFault(f"its keys: {error}") from None

    async def ask(self, method: str, url: str, expected: tuple[int, ...] = (200,), **request: Any) -> bytes:
        """The body of its answer. Raises ``IssuerFault`` if there is none, or if its status is not expected."""
        try:
            check_url(url, plain=self._is_plain)
            async with (
                asyncio.timeout(self._timeout_seconds),  # of it all; httpx would give each read as long
                httpx.AsyncClient(timeout=None, trust_env=not self._is_plain) as http,  # noqa: S113
                http.stream(method, url, headers=_HEADERS, **request) as response,
            ):
                if response.status_code not in expected:
                    raise IssuerFault(f"it answered with status {response.status_code}")
                return await _read(response)
        except TimeoutError:
            raise IssuerFault("it took too long to answer") from None
        except InvalidInput as error:
            raise IssuerFault(f"one of its addresses: {error.detail}") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Of connecting, all that went wrong, as with certificates; of answers, nothing that may stand in them.
            reason = str(error) if isinstance(error, httpx.ConnectError) else type(error).__name__
            raise IssuerFault(f"it cannot be asked: {reason}") from None


_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""Not compressed, so that the limit holds for what comes as for what is read."""


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise IssuerFault(f"its answer is longer than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


def read_as(document: bytes, shape: type[Document]) -> Document:
    """A document of the issuer. Raises ``IssuerFault``."""
    try:
        return read_document(document, shape)
    except UnreadableDocument as error:
        raise IssuerFault(f"its answer: {error}") from None


# Keys


class KeyRing:
    """The keys of an issuer, as they were last told."""

    def __init__(self, issuer: Issuer, clock: Clock) -> None:
        self._issuer = issuer
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._told_at: datetime | None = None
        self._asked_at: datetime | None = None
        self._asking: asyncio.Task[None] | None = None

    async def at_hand(self) -> tuple[Key, ...]:
        """The keys, without waiting for the issuer if there are any. Raises ``IssuerUnreachable``."""
        if self._age() > USABLE_FOR:
            await self._ask()
            if self._age() > USABLE_FOR:
                raise IssuerUnreachable("the issuer of tokens cannot be reached, so nobody is let in; try again later")
        elif self._age() > FRESH_FOR:
            self._start_asking()
        return self._keys

    async def newer(self) -> tuple[Key, ...]:
        """The keys after the issuer was asked again, unless it was a moment ago."""
        await self._ask()
        return self._keys

    def _age(self) -> timedelta:
        return timedelta.max if self._told_at is None else self._clock.now() - self._told_at

    async def _ask(self) -> None:
        """Waits for an answer. However many wait, the issuer is asked once, even if one of them goes away."""
        self._start_asking()
        if self._asking is not None:
            await asyncio.shield(self._asking)

    def _start_asking(self) -> None:
        now = self._clock.now()
        is_early = self._asked_at is not None and timedelta() <= now - self._asked_at < ASK_AGAIN_AFTER
        if not is_early and (self._asking is None or self._asking.done()):
            self._asked_at = now
            self._asking = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        try:
            self._keys = await self._issuer.keys()
        except IssuerFault as fault:
            _log.warning("oidc.issuer_failed", issuer=self._issuer.url, reason=str(fault))
            return
        self._told_at = self._clock.now()
        _log.info("oidc.keys_fetched", issuer=self._issuer.url, keys=len(self._keys))


# Who is let in


class Tokens:
    """Lets in who shows a token of the issuer that gives a scope."""

    def __init__(self, terms: Terms, clock: Clock, timeout: timedelta = FETCH_TIMEOUT) -> None:
        self._terms = terms
        self._clock = clock
        self._keys = KeyRing(Issuer(terms.issuer, timeout), clock)

    async def check(self, authorization: str | None, scope: str) -> None:
        """Returns if the ``Authorization`` header holds a token with this scope.

        Raises ``TokenRefused`` in one of its kinds, ``IssuerUnreachable`` if nobody can say whether the token is right.
        """
        scopes, _ = await self._verified(authorization)
        if scope not in scopes:
            raise MissingScope(scope)

    async def customer_seen(self, authorization: str | None, claim: str) -> str | None:
        """Whose usage a caller may see: the customer whom the token's ``claim`` names; of all, as ``None``, by scope.

        Raises what ``check`` raises.
        """
        scopes, payload = await self._verified(authorization)
        if ADMIN_SCOPE in scopes:
            return None
        customer = customer_in(payload, claim) if READ_SCOPE in scopes else None
        if customer is None:
            raise MissingScope(READ_SCOPE)
        return customer

    async def _verified(self, authorization: str | None) -> tuple[frozenset[str], bytes]:
        """The scopes that a token gives, and what it says. Raises ``TokenRefused``, ``IssuerUnreachable``."""
        try:
            payload = await self._signed(authorization)
            return scopes_of(payload, self._terms, self._clock.now()), payload
        except InvalidToken as error:
            _log.info("oidc.token_refused", reason=error.reason)
            raise

    async def _signed(self, authorization: str | None) -> bytes:
        """What a token says, if the issuer has signed it."""
        token = token_in(authorization)
        payload = payload_of(token, await self._keys.at_hand())
        if payload is None:  # by a key that is new, or that has replaced another under its name
            payload = payload_of(token, await self._keys.newer())
        if payload is None:
            raise InvalidToken("signature")
        return payload
