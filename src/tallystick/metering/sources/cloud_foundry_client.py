"""Asking a Cloud Foundry platform: with a service account's token, patiently, and within limits.

A platform is asked for as long as one sweep takes. Tokens are got where its root document says, by client credentials
(RFC 6749, 4.4), and anew when they expire or are not accepted any more; one sweep leaves its token to the next. Lists
are read page by page. A list may change meanwhile: what is on two pages counts once, and a list that did not stand
still is read once more.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Final, Generic, TypeVar

import httpx
import msgspec
import structlog

from tallystick.kernel.errors import InvalidInput, Unavailable
from tallystick.kernel.urls import check_url
from tallystick.metering.sources import cloud_foundry_wire as wire
from tallystick.metering.sources.cloud_foundry_wire import PlatformRefuses, Resource

PER_PAGE: Final = 5000
"""Resources that are asked for in one page: the most that the platform gives."""

MAX_READS: Final = 2
"""How often a list is read in all, as long as it does not stand still."""

EXPIRY_MARGIN_SECONDS: Final = 30
"""So long before it expires a token is not used any more: requests take their time."""

GLOBAL_SCOPES: Final = frozenset(
    {"cloud_controller.admin", "cloud_controller.admin_read_only", "cloud_controller.global_auditor"}
)
"""Whoever has one of them is shown the whole platform. Others are shown what they have a role in, and no error."""

_TOKEN = re.compile(r"[!-~]+")
_SECONDS = re.compile(r"[0-9]{1,12}")

_log = structlog.get_logger("tallystick.metering")

Shape = TypeVar("Shape", bound=Resource)


class PlatformUnavailable(Unavailable):
    """The platform cannot be reached, or has too much to do, for longer than it was waited for."""

    code = "platform_unavailable"


@dataclass(frozen=True, slots=True)
class Account:
    """The service account that reads the platform whose API is at ``api_url``."""

    api_url: str
    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much. The job that takes readings gives up after ten minutes."""

    total_seconds: int = 480
    """From the first request of a sweep to the end of its last one."""
    request_seconds: float = 60
    """The longest that one answer may take, to its last byte."""
    attempts: int = 6
    """How often one request is sent while the platform is away or busy."""
    first_pause_ms: int = 1_000
    longest_pause_ms: int = 60_000
    """Pauses between attempts, each twice as long as the one before. What the platform asks for may be longer."""
    page_bytes: int = 64 << 20
    pages: int = 2_000
    """Most pages of one list."""
    resources: int = 1_000_000
    """Most resources of one list."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How time passes and how it is spent; ``jitter`` is a random whole number below the one it is given."""

    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[int], int] = secrets.randbelow


@dataclass(slots=True)
class Kept:
    """What one sweep leaves to the next: its token, if that shows everything. Another one, got anew, may show more."""

    token: wire.Token | None = None
    until: float | None = None


def check_api_url(url: str) -> str:
    """Returns the URL of a platform's API unchanged. Raises ``InvalidInput`` if it is none, or not safe for secrets."""
    return check_url(url, query=False)


# Lists


@dataclass(slots=True)
class Beside:
    """Resources that came beside others, by guid."""

    spaces: dict[str, Resource] = field(default_factory=dict)
    organizations: dict[str, Resource] = field(default_factory=dict)
    plans: dict[str, Resource] = field(default_factory=dict)
    offerings: dict[str, Resource] = field(default_factory=dict)

    def add(self, included: wire.Included | None) -> None:
        """Takes in what a page brought, except what cannot be read: it is then not known, as if it had not come."""
        if included is None:
            return
        for known, listed in (
            (self.spaces, included.spaces),
            (self.organizations, included.organizations),
            (self.plans, included.service_plans),
            (self.offerings, included.service_offerings),
        ):
            _decode(listed, _RESOURCES, known)

    def update(self, other: Beside) -> None:
        self.spaces |= other.spaces
        self.organizations |= other.organizations
        self.plans |= other.plans
        self.offerings |= other.offerings


@dataclass(slots=True)
class Listing(Generic[Shape]):
    """What a list held: resources by guid, what came beside them, and what was wrong, in sentences.

    ``is_whole``: whether its end was reached. If not, what was read until then stands.
    """

    resources: dict[str, Shape] = field(default_factory=dict)
    beside: Beside = field(default_factory=Beside)
    faults: list[str] = field(default_factory=list)
    is_whole: bool = False


@dataclass(slots=True)
class _Pass(Generic[Shape]):
    """A list while it is read from its first page to its last."""

    decoder: msgspec.json.Decoder[Shape]
    resources: dict[str, Shape] = field(default_factory=dict)
    beside: Beside = field(default_factory=Beside)
    totals: set[int] = field(default_factory=set)
    unreadable: int = 0
    fault: str | None = None

    def add(self, body: bytes) -> wire.Link | None:
        """Takes in a page. Returns where the list goes on. Raises ``PlatformRefuses``."""
        page = wire.read(body, wire.Page)
        self.totals.add(page.pagination.total_results)
        self.unreadable += _decode(page.resources, self.decoder, self.resources)
        self.beside.add(page.included)
        return page.pagination.next

    def stood_still(self) -> bool:
        """Whether all pages announced the same number of resources, and so many came."""
        return self.totals == {len(self.resources) + self.unreadable}


_RESOURCES = msgspec.json.Decoder(Resource)


def _decode(raws: Iterable[msgspec.Raw], decoder: msgspec.json.Decoder[Shape], into: dict[str, Shape]) -> int:
    """Puts resources under their guids. Returns how many could not be read."""
    unreadable = 0
    for raw in raws:
        try:
            resource = decoder.decode(raw)
        except (ValueError, RecursionError):
            unreadable += 1
        else:
            into[resource.guid] = resource
    return unreadable


# The platform


@asynccontextmanager
async def open_platform(
    account: Account, limits: Limits, waiting: Waiting, kept: Kept | None = None
) -> AsyncIterator[Platform]:
    """A connection to the platform for one sweep: the time for it all runs from now on."""
    is_plain = account.api_url.startswith("http:")
    async with httpx.AsyncClient(
        headers={"Accept": "application/json"},
        timeout=None,  # noqa: S113  it is set for each request, from the first byte to the last
        trust_env=not is_plain,
        verify=_trusted(),
    ) as http:
        yield Platform(http, account, limits, waiting, kept or Kept())


@cache
def _trusted() -> ssl.SSLContext:
    """Whom to believe. To read all those certificates takes longer than to sweep a small platform: it is done once."""
    return httpx.create_ssl_context()


class Platform:
    """The platform while it is swept."""

    def __init__(self, http: httpx.AsyncClient, account: Account, limits: Limits, waiting: Waiting, kept: Kept) -> None:
        self._http = http
        self._account = account
        self._api = account.api_url.rstrip("/")
        self._limits = limits
        self._waiting = waiting
        self._deadline = waiting.monotonic() + limits.total_seconds
        self._signing_in = asyncio.Lock()
        self._token_url: str | None = None
        self._kept = kept
        self._token, self._token_until = kept.token, kept.until

    @property
    def shows_everything(self) -> bool:
        """Whether the account's scopes show it the whole platform, as far as its last token says."""
        return self._token is not None and not GLOBAL_SCOPES.isdisjoint(self._token.scope.split())

    async def sign_in(self) -> None:
        """Gets a token. Raises ``PlatformUnavailable``, ``PlatformRefuses``."""
        await self._access_token()

    async def list(
        self, what: str, path: str, shape: type[Shape], query: dict[str, str] | None = None, *, adds_up: bool = False
    ) -> Listing[Shape]:
        """All resources of a list. ``what`` names it in sentences. Never raises: the listing says what was wrong.

        If it never stands still, all that was seen counts. Not so of what ``adds_up``: who replaces one by another
        meanwhile would have both, so there it is what was seen last from the first page to the last.
        """
        asked = httpx.QueryParams({**(query or {}), "order_by": "created_at", "per_page": PER_PAGE})
        listing: Listing[Shape] = Listing()
        for _ in range(MAX_READS):
            found = await self._read(f"{self._api}{path}?{asked}", shape)
            is_whole = found.fault is None
            is_still = is_whole and found.stood_still()
            if is_still or (is_whole and adds_up):
                listing = Listing(found.resources, found.beside, is_whole=True)
            elif not (listing.is_whole and adds_up):
                listing.resources |= found.resources
                listing.beside.update(found.beside)
                listing.is_whole |= is_whole
            listing.faults = [] if is_still else [f"{what}: {found.fault or _changed(found)}"]
            if is_still or not is_whole:
                break
        if found.unreadable:
            listing.faults.append(f"{what}: {found.unreadable} could not be read, and are left out")
        return listing

    async def single(self, path: str, shape: type[Shape], query: dict[str, str]) -> tuple[Shape, Beside] | None:
        """One resource and what came beside it; ``None`` if there is none.

        Raises ``PlatformUnavailable``, ``PlatformRefuses``.
        """
        url = f"{self._api}{path}?{httpx.QueryParams(query)}"
        status, body = await self._ask_signed(url, (200, 404))
        if status == 404:
            return None
        beside = Beside()
        beside.add(wire.read(body, wire.Single).included)
        return wire.read(body, shape), beside

    async def _read(self, first: str, shape: type[Shape]) -> _Pass[Shape]:
        """Reads a list once, as far as it goes."""
        found = _Pass(msgspec.json.Decoder(shape))
        url: str | None = first
        seen: set[str] = set()
        try:
            while url is not None:
                if len(seen) == self._limits.pages:
                    raise PlatformRefuses(f"it has more than {self._limits.pages} pages")
                seen.add(url)
                _, body = await self._ask_signed(url)
                following = await asyncio.to_thread(found.add, body)  # thousands of resources, while others wait
                if len(found.resources) > self._limits.resources:
                    raise PlatformRefuses(f"it has more than {self._limits.resources} resources")
                url = self._next(url, following)
                if url in seen:
                    raise PlatformRefuses("its pages lead in a circle")
        except (PlatformUnavailable, PlatformRefuses) as error:
            found.fault = error.detail
        return found

    def _next(self, url: str, following: wire.Link | None) -> str | None:
        """Where a list goes on; only at the platform itself, for there goes our token."""
        if following is None:
            return None
        try:
            here, there = httpx.URL(url), httpx.URL(url).join(following.href)
        except httpx.InvalidURL:
            raise PlatformRefuses("its next page has no URL") from None
        if (here.scheme, here.host, here.port, here.userinfo) != (there.scheme, there.host, there.port, there.userinfo):
            raise PlatformRefuses("its next page is not at CF_API_URL but on another host")
        return str(there)

    # Tokens

    async def _ask_signed(self, url: str, expected: tuple[int, ...] = (200,)) -> tuple[int, bytes]:
        """Asks with the token, and once more with a new one if that is not accepted."""
        token = await self._access_token()
        status, body = await self._ask("GET", url, (*expected, 401), headers=_bearer(token))
        if status == 401:
            token = await self._access_token(instead_of=token)
            status, body = await self._ask("GET", url, expected, headers=_bearer(token))
        return status, body

    async def _access_token(self, instead_of: str | None = None) -> str:
        """A token that counts; however many ask at once, it is got once."""
        async with self._signing_in:
            token = self._token
            is_over = self._token_until is not None and self._waiting.monotonic() >= self._token_until
            if token is None or is_over or token.access_token == instead_of:
                token = await self._new_token()
            return token.access_token

    async def _new_token(self) -> wire.Token:
        if self._token_url is None:
            self._token_url = await self._find_token_url()
        form = {
            "grant_type": "client_credentials",
            "client_id": self._account.client_id,
            "client_secret": self._account.client_secret,
        }
        status, body = await self._ask("POST", self._token_url, (200, 400, 401), data=form)
        if status != 200:
            raise PlatformRefuses(f"the platform gives CF_CLIENT_ID no token: {wire.reason(body) or status}")
        token = wire.read(body, wire.Token)
        if not _TOKEN.fullmatch(token.access_token):
            raise PlatformRefuses("what the platform gives as a token is none")
        self._token, self._token_until = token, None
        if token.expires_in is not None:
            self._token_until = self._waiting.monotonic() + token.expires_in - EXPIRY_MARGIN_SECONDS
        if self.shows_everything:
            self._kept.token, self._kept.until = self._token, self._token_until
        return token

    async def _find_token_url(self) -> str:
        _, body = await self._ask("GET", f"{self._api}/", (200,))
        links = wire.read(body, wire.Root).links
        link = links.uaa or links.login
        if link is None:
            raise PlatformRefuses("the platform does not say where its tokens are")
        try:
            return check_url(link.href.rstrip("/"), plain=self._api.startswith("http:"), query=False) + "/oauth/token"
        except InvalidInput as error:
            raise PlatformRefuses(f"where the platform's tokens are: {error.detail}") from None

    # Requests

    async def _ask(
        self,
        method: str,
        url: str,
        expected: tuple[int, ...],
        *,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of its answer; asked again while that may help."""
        for attempt in range(1, self._limits.attempts + 1):
            try:
                response, body = await self._ask_once(method, url, headers, data)
                _refuse_busy(response)
            except _Busy as busy:
                if attempt == self._limits.attempts:
                    raise PlatformUnavailable(f"{busy.reason}, {attempt} times") from None
                await self._pause(attempt, busy)
                continue
            if response.status_code not in expected:
                why = wire.reason(body)
                raise PlatformRefuses(f"the platform answered {response.status_code}{f' {why}' if why else ''}")
            return response.status_code, body
        raise AssertionError("every attempt returns or raises")

    async def _ask_once(
        self, method: str, url: str, headers: dict[str, str] | None, data: dict[str, str] | None
    ) -> tuple[httpx.Response, bytes]:
        seconds = min(self._limits.request_seconds, self._remaining())
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(method, url, headers=headers, data=data) as response,
            ):
                return response, await self._body(response)
        except TimeoutError:
            raise _Busy("the platform took too long to answer") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise PlatformRefuses("the platform has an address that is no URL of http or https") from None
        except httpx.TransportError as error:
            raise _Busy(f"the platform cannot be asked: {type(error).__name__}") from None
        except httpx.DecodingError:
            raise PlatformRefuses("the platform does not compress its answers as it says") from None

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._limits.page_bytes:
                raise PlatformRefuses(f"the platform gave an answer longer than {self._limits.page_bytes} bytes")
        return bytes(body)

    def _remaining(self) -> float:
        """Seconds that are left. Raises ``PlatformUnavailable`` if there are none."""
        remaining = self._deadline - self._waiting.monotonic()
        if remaining <= 0:
            raise PlatformUnavailable(f"the {self._limits.total_seconds} seconds for a sweep were over")
        return remaining

    async def _pause(self, attempt: int, busy: _Busy) -> None:
        """Waits twice as long as the last time, give or take, or as long as the platform asks for."""
        longest = min(self._limits.first_pause_ms << (attempt - 1), self._limits.longest_pause_ms)
        half = longest // 2
        seconds = max((half + self._waiting.jitter(half + 1)) / 1000, busy.retry_after_seconds)
        if seconds >= self._remaining():
            raise PlatformUnavailable(
                f"{busy.reason}, and waiting {seconds:.0f} s would be longer than the {self._limits.total_seconds}"
                " seconds for a sweep"
            )
        _log.info("cloud_foundry.waits", reason=busy.reason, attempt=attempt, seconds=seconds)
        await self._waiting.pause(seconds)


class _Busy(Exception):
    """This attempt failed; the next may not."""

    def __init__(self, reason: str, retry_after_seconds: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


def _refuse_busy(response: httpx.Response) -> None:
    if response.status_code == 429 or response.status_code >= 500:
        raise _Busy(f"the platform answered {response.status_code}", _retry_after_seconds(response.headers))


def _retry_after_seconds(headers: httpx.Headers) -> int:
    """How long the platform asks to wait: ``Retry-After``, or until ``X-RateLimit-Reset`` by its own clock; or 0."""
    after, reset = headers.get("Retry-After", ""), headers.get("X-RateLimit-Reset", "")
    if _SECONDS.fullmatch(after):
        return int(after)
    if not _SECONDS.fullmatch(reset) or "Date" not in headers:
        return 0
    try:
        return max(int(reset) - int(parsedate_to_datetime(headers["Date"]).timestamp()), 0)
    except ValueError:
        return 0


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"bearer {token}"}


def _changed(found: _Pass[Shape]) -> str:
    totals = sorted(found.totals)
    announced = f"{totals[0]}" if len(totals) == 1 else f"{totals[0]} to {totals[-1]}"
    return f"it changed while it was read: {announced} announced, {len(found.resources)} read"
