"""Usage pulled out of Prometheus with range queries, for those who would rather ask than be sent.

Asked are the queries of the rules (``metering.series``), at instants that are whole multiples of the step since 1970,
so that a period pulled twice, by whomever, gives the same measurements: they count once. A window of several steps is
fetched for all rules before any of it is handed on; who records it may go on from its end, whatever happens next.

Source: "HTTP API", prometheus.io/docs/prometheus/latest/querying/api.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Final

import httpx
import msgspec

from tallystick.kernel.errors import InvalidInput, TallyError, TooLarge, Unavailable
from tallystick.kernel.money import EXACT
from tallystick.metering.model import Batch
from tallystick.metering.series import Rule
from tallystick.metering.sources.prometheus import SOURCE, Reader, Result

WINDOW_POINTS: Final = 500
"""Points of one series in one query. Prometheus refuses more than 11,000."""

MAX_ANSWER_BYTES: Final = 64 << 20
"""Longest answer that is read. A window whose answer is longer is asked for in halves."""

BATCH_MEASUREMENTS: Final = 10_000
"""Most measurements in one batch."""

MAX_STEP: Final = timedelta(days=366)

MAX_ATTEMPTS: Final = 6
"""How often a query is asked, as a rule, while Prometheus is away or busy."""

FIRST_PAUSE_SECONDS: Final = 1
LONGEST_PAUSE_SECONDS: Final = 60
"""Pauses between attempts, each twice as long as the one before; a Retry-After is followed up to the longest."""

TIMEOUT: Final = httpx.Timeout(10, read=130)
"""Seconds. Prometheus itself gives up a query after two minutes."""

MAX_REASON_CHARACTERS = 200

NO_TIME = 10**15
"""Milliseconds which are in no year that is taken, for times that cannot be."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Pause = Callable[[int], Awaitable[None]]


class PrometheusRefuses(TallyError):
    """Prometheus does not answer a query, and would not if it were asked again."""

    code = "prometheus_refuses"
    status = 502


class PrometheusUnavailable(Unavailable):
    """Prometheus cannot be reached, or has too much to do, for longer than it was waited for."""

    code = "prometheus_unavailable"


class Pulled(msgspec.Struct):
    """A window of complete steps. The batches are to be recorded in their order: they are in that of time.

    ``until`` is the first instant after the window, where the next pull goes on once all of it is recorded.
    ``ignored`` counts samples of series that are no usage; ``warnings`` are what Prometheus had to say.
    """

    batches: list[Batch]
    until: datetime
    steps: int
    ignored: int
    warnings: list[str]


@asynccontextmanager
async def open_prometheus(url: str, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the Prometheus whose API is below ``url``; it shows the bearer token, if there is one."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT) as client:
        yield client


def steps_between(since: datetime, until: datetime, step: timedelta) -> range:
    """The instants that are asked for, as seconds since 1970: multiples of ``step`` from ``since`` to before ``until``.

    Raises ``InvalidInput`` if ``step`` is not a whole number of seconds up to ``MAX_STEP``.
    """
    seconds = step // timedelta(seconds=1)
    if not timedelta(0) < step <= MAX_STEP or timedelta(seconds=seconds) != step:
        raise InvalidInput(f"step must be whole seconds, from 1 to {MAX_STEP // timedelta(seconds=1)}", field="step")
    first, end = (-((_EPOCH - instant) // step) * seconds for instant in (since, until))
    return range(first, end, seconds)


async def pull(
    client: httpx.AsyncClient,
    reader: Reader,
    since: datetime,
    until: datetime,
    step: timedelta,
    *,
    attempts: int = MAX_ATTEMPTS,
    pause: Pause = asyncio.sleep,
) -> AsyncGenerator[Pulled, None]:
    """The usage of a period, window by window, from the first step not before ``since`` to the last before ``until``.

    Prometheus must have all samples of the period: a step before its last sample has come is not complete.

    Raises ``InvalidInput`` for an impossible step, ``PrometheusRefuses``, ``PrometheusUnavailable``, ``TooLarge`` if
    the answer for a single step is too long. Windows given before stand.
    """
    steps = steps_between(since, until, step)
    ask = _Asking(client, reader, attempts, pause)
    points = WINDOW_POINTS
    while steps:
        window = steps[:points]
        try:
            pulled = await ask.window(window)
        except TooLarge:
            if len(window) == 1:
                raise
            points = len(window) // 2
            continue
        yield pulled
        steps = steps[len(window) :]


class _Asking:
    """One pull under way."""

    def __init__(self, client: httpx.AsyncClient, reader: Reader, attempts: int, pause: Pause) -> None:
        self._client = client
        self._reader = reader
        self._attempts = attempts
        self._pause = pause

    async def window(self, window: range) -> Pulled:
        """What all rules bring for these steps."""
        batch = Batch(SOURCE, [], [], [], creates_meters=False)
        pulled = Pulled([], _EPOCH + timedelta(seconds=window.stop), len(window), 0, [])
        for rule in self._reader.series.rules:
            data, warnings = await self._ask(rule.query or rule.select, window)
            pulled.warnings += warnings
            received = self._reader.read_result(rule, self._results(rule, data.result))
            pulled.ignored += received.ignored
            batch.measurements.extend(received.batch.measurements)
            batch.indexes.extend(received.batch.indexes)
            batch.unreadable.extend(received.batch.unreadable)
        pulled.batches = _in_time(batch)
        return pulled

    def _results(self, rule: Rule, found: list[_Series]) -> list[Result]:
        """The series that are this rule's. What a selector brings may be that of an earlier rule, or of none here."""
        series = self._reader.series
        return [
            Result(
                tuple(text for pair in each.metric.items() for text in pair),
                [(value, _milliseconds(at)) for at, value in each.values],
                [(bytes(histogram).decode(), _milliseconds(at)) for at, histogram in each.histograms],
                rule.query,
            )
            for each in found
            if rule.query or series.rule_for(each.metric) is rule
        ]

    async def _ask(self, query: str, window: range) -> tuple[_Data, list[str]]:
        """The answer to a query and warnings with it; asked again while that may help."""
        asked: dict[str, str | int] = {"query": query, "start": window[0], "end": window[-1], "step": window.step}
        seconds = FIRST_PAUSE_SECONDS
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._ask_once(asked)
            except _Busy as busy:
                if attempt == self._attempts:
                    times = "" if attempt == 1 else f", {attempt} times"
                    raise PrometheusUnavailable(f"{busy.reason}{times}") from None
                await self._pause(min(max(seconds, busy.retry_after_seconds), LONGEST_PAUSE_SECONDS))
                seconds *= 2
        raise AssertionError("every attempt returns or raises")

    async def _ask_once(self, asked: dict[str, str | int]) -> tuple[_Data, list[str]]:
        try:
            async with self._client.stream("GET", "/api/v1/query_range", params=asked) as response:
                body = await _body(response)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise PrometheusRefuses("the URL of Prometheus must be one of http or https") from None
        except httpx.TransportError as error:
            raise _Busy(f"no answer from Prometheus: {type(error).__name__}") from None
        if response.status_code == 429 or response.status_code >= 500:
            retry_after = response.headers.get("Retry-After", "")
            seconds = int(retry_after) if retry_after.isdecimal() and len(retry_after) < 10 else 0
            raise _Busy(f"Prometheus answered {response.status_code}", seconds)
        return _answer(response.status_code, body)


class _Busy(Exception):
    """This attempt failed; the next may not."""

    def __init__(self, reason: str, retry_after_seconds: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


# What Prometheus answers


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[Decimal, str]] = []
    histograms: list[tuple[Decimal, msgspec.Raw]] = []


class _Data(msgspec.Struct, rename="camel"):
    result_type: str = ""
    result: list[_Series] = []


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""
    warnings: list[str] = []


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise TooLarge(f"the answer of Prometheus for one step must not be longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _answer(status: int, body: bytes) -> tuple[_Data, list[str]]:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (ValueError, RecursionError):
        raise PrometheusRefuses(f"what answers {status} at the URL of Prometheus is no Prometheus") from None
    if status != 200 or answer.status != "success":
        raise PrometheusRefuses(f"Prometheus answered {status}: {answer.error[:MAX_REASON_CHARACTERS]}")
    if answer.data is None or answer.data.result_type != "matrix":
        raise PrometheusRefuses("Prometheus must answer a range query with a matrix")
    return answer.data, answer.warnings


def _milliseconds(seconds: Decimal) -> int:
    """Prometheus gives times to the millisecond."""
    return int(EXACT.scaleb(seconds, 3)) if seconds.is_finite() and abs(seconds) < NO_TIME else NO_TIME


def _in_time(batch: Batch) -> list[Batch]:
    """The batch in the order of time, in parts of a good size; what could not be read goes with the first."""
    ordered = sorted(enumerate(batch.measurements), key=lambda item: item[1].at)
    parts = [ordered[start : start + BATCH_MEASUREMENTS] for start in range(0, len(ordered), BATCH_MEASUREMENTS)]
    return [
        Batch(
            batch.source,
            list(map(itemgetter(1), part)),
            list(map(itemgetter(0), part)),
            [] if number else batch.unreadable,
            batch.creates_meters,
        )
        for number, part in enumerate(parts or [[]])
    ]
