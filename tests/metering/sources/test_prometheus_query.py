"""Pulling a period: which instants are asked for, in which windows, and what if Prometheus will not answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput, TooLarge
from tallystick.metering.model import Measurement
from tallystick.metering.series import OPENSTACK, Rule, SeriesMap, parse_selector
from tallystick.metering.sources import prometheus_query
from tallystick.metering.sources.prometheus import Reader
from tallystick.metering.sources.prometheus_query import (
    LONGEST_PAUSE_SECONDS,
    MAX_ATTEMPTS,
    WINDOW_POINTS,
    PrometheusRefuses,
    PrometheusUnavailable,
    Pulled,
    open_prometheus,
    pull,
    steps_between,
)
from tests.doubles.prometheus_api import PrometheusApi, success

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

LABELS = {"__name__": "project_vcpu_usage", "location_id": "8676", "project_name": "p"}


def counter(query: str, second: int) -> dict[str, str | None]:
    """A vCPU counter that rises by half an hour's worth in an hour; nothing else is known."""
    rise = (second - int(START.timestamp())) / 7200
    return {json.dumps(LABELS): f"{rise:g}"} if query == "project_vcpu_usage" else {}


@pytest.fixture
def api() -> Iterator[PrometheusApi]:
    with PrometheusApi(counter) as started:
        yield started


class Pulling:
    """Pulls from an API, noting the pauses instead of taking them."""

    def __init__(self, api: PrometheusApi, *rules: Rule) -> None:
        self.reader = Reader(SeriesMap(rules or OPENSTACK))
        self.api = api
        self.pauses: list[int] = []

    async def __call__(
        self, since: datetime = START, until: datetime = START + 3 * HOUR, step: timedelta = HOUR
    ) -> list[Pulled]:
        return [each async for each in self.windows(since, until, step)]

    async def windows(self, since: datetime, until: datetime, step: timedelta = HOUR) -> AsyncGenerator[Pulled, None]:
        async with open_prometheus(self.api.url, self.api.token) as client:
            async for pulled in pull(client, self.reader, since, until, step, pause=self.pause):
                yield pulled

    async def pause(self, seconds: int) -> None:
        self.pauses.append(seconds)


def measured(pulled: list[Pulled]) -> list[Measurement]:
    return [each for window in pulled for batch in window.batches for each in batch.measurements]


@given(
    st.integers(-(10**9), 4 * 10**9).map(lambda tenths: EPOCH + timedelta(seconds=tenths) / 10),
    st.timedeltas(timedelta(0), timedelta(days=3)),
    st.integers(1, 7200),
)
def test_steps_are_whole_multiples_within_a_half_open_period(since: datetime, length: timedelta, seconds: int) -> None:
    until = since + length
    steps = steps_between(since, until, timedelta(seconds=seconds))
    assert all(step % seconds == 0 for step in steps[:3])
    if steps:
        assert EPOCH + timedelta(seconds=steps[0]) >= since > EPOCH + timedelta(seconds=steps[0] - seconds)
        assert EPOCH + timedelta(seconds=steps[-1]) < until <= EPOCH + timedelta(seconds=steps[-1] + seconds)
    middle = since + length / 2
    both = [
        *steps_between(since, middle, timedelta(seconds=seconds)),
        *steps_between(middle, until, timedelta(seconds=seconds)),
    ]
    assert both == list(steps)


@pytest.mark.parametrize("step", [timedelta(0), -HOUR, timedelta(milliseconds=1500), timedelta(days=367)])
def test_a_step_is_whole_seconds(step: timedelta) -> None:
    with pytest.raises(InvalidInput, match="step must be whole seconds"):
        steps_between(START, START + HOUR, step)


async def test_a_period_is_pulled_and_says_where_to_go_on(api: PrometheusApi) -> None:
    (pulled,) = await Pulling(api)(START - timedelta(minutes=30), START + timedelta(hours=2, minutes=1))
    assert [(each.at, str(each.value)) for each in measured([pulled])] == [
        (START, "0"),
        (START + HOUR, "0.5"),
        (START + 2 * HOUR, "1"),
    ]
    first = measured([pulled])[0]
    assert (first.customer, first.meter, first.resource) == ("p", "project_vcpu_usage", "8676")
    assert (pulled.steps, pulled.until, pulled.ignored) == (3, START + 3 * HOUR, 0)
    assert [asked["query"] for asked in api.asked] == ["project_vcpu_usage", "project_mb_usage"]
    assert pulled.batches[0].creates_meters is False


async def test_an_empty_period_asks_for_nothing(api: PrometheusApi) -> None:
    assert await Pulling(api)(START, START) == []
    assert await Pulling(api)(START + HOUR, START) == []
    assert api.asked == []


async def test_a_long_period_is_pulled_in_windows(api: PrometheusApi) -> None:
    steps = 2 * WINDOW_POINTS + 1
    pulled = await Pulling(api)(START, START + steps * HOUR)
    assert [window.steps for window in pulled] == [WINDOW_POINTS, WINDOW_POINTS, 1]
    assert len(measured(pulled)) == steps
    assert pulled[0].until == START + WINDOW_POINTS * HOUR
    ids = {each.sender_id for each in measured(pulled)}
    again = await Pulling(api)(pulled[0].until, START + steps * HOUR)
    assert {each.sender_id for each in measured(again)} < ids


async def test_batches_are_in_the_order_of_time(api: PrometheusApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters continue from one batch to the next: an older value after a newer one would count zero."""
    monkeypatch.setattr(prometheus_query, "BATCH_MEASUREMENTS", 4)
    others = [json.dumps(LABELS | {"location_id": str(number)}) for number in range(3)]
    api.value = lambda query, second: dict.fromkeys(others, "1") if "vcpu" in query else {}
    (pulled,) = await Pulling(api)()
    assert [len(batch.measurements) for batch in pulled.batches] == [4, 4, 1]
    times = [each.at for each in measured([pulled])]
    assert times == sorted(times)


async def test_an_answer_that_is_too_long_is_asked_for_in_halves(
    api: PrometheusApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_query, "MAX_ANSWER_BYTES", 320)
    pulled = await Pulling(api)(START, START + 10 * HOUR)
    assert [window.steps for window in pulled] == [5, 5]
    assert len(measured(pulled)) == 10
    monkeypatch.setattr(prometheus_query, "MAX_ANSWER_BYTES", 100)
    with pytest.raises(TooLarge, match="for one step"):
        await Pulling(api)()


async def test_what_is_unreadable_is_kept_and_the_rest_counted(api: PrometheusApi) -> None:
    api.value = lambda query, second: {json.dumps(LABELS): "NaN" if second % 7200 else "1"} if "vcpu" in query else {}
    (pulled,) = await Pulling(api)()
    assert [each.value for each in measured([pulled])] == [1, 1]
    (piece,) = pulled.batches[0].unreadable
    assert (piece.code, piece.reader) == ("invalid_value", "prometheus")


async def test_each_series_is_its_first_rules(api: PrometheusApi) -> None:
    """Two selectors may bring the same series; it is charged by one rule, as with remote write."""
    api.value = lambda query, second: {json.dumps(LABELS): "1"}
    narrow = Rule('{project_name="p"}', parse_selector('{project_name="p"}'), meter="narrow")
    pulled = await Pulling(api, narrow, *OPENSTACK)()
    assert {each.meter for each in measured(pulled)} == {"narrow"}


async def test_a_rule_may_ask_its_own_query(api: PrometheusApi) -> None:
    query = "sum by (project_name) (increase(requests_total[1h]))"
    api.value = lambda asked, second: {json.dumps({"project_name": "p"}): "3"} if asked == query else {}
    rule = Rule("requests_total", parse_selector("requests_total"), meter="requests", query=query)
    (pulled,) = await Pulling(api, rule)()
    assert [(each.customer, each.meter, each.value) for each in measured([pulled])] == [
        ("p", "requests", Decimal(3))
    ] * 3


async def test_a_token_is_shown(api: PrometheusApi) -> None:
    api.token = "portal-secret"  # pragma: allowlist secret
    pulling = Pulling(api)
    assert len(measured(await pulling())) == 3
    async with open_prometheus(api.url, "wrong") as client:
        with pytest.raises(PrometheusRefuses, match="what answers 401"):
            _ = [each async for each in pull(client, pulling.reader, START, START + HOUR, HOUR)]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_busy_prometheus_is_asked_again_after_a_while(api: PrometheusApi, status: int) -> None:
    api.faults = [(status, {}, b"later")] * 3
    pulling = Pulling(api)
    assert len(measured(await pulling())) == 3
    assert pulling.pauses == [1, 2, 4]


async def test_retry_after_is_followed_within_limits(api: PrometheusApi) -> None:
    texts = ("7", "99999", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 5000)
    api.faults = [(429, {"Retry-After": text}, b"") for text in texts]
    pulling = Pulling(api)
    await pulling()
    assert pulling.pauses == [7, LONGEST_PAUSE_SECONDS, 4, 8]


async def test_one_that_stays_busy_is_given_up(api: PrometheusApi) -> None:
    api.faults = [(503, {}, b"")] * MAX_ATTEMPTS
    pulling = Pulling(api)
    with pytest.raises(PrometheusUnavailable, match=f"Prometheus answered 503, {MAX_ATTEMPTS} times"):
        await pulling()
    assert len(pulling.pauses) == MAX_ATTEMPTS - 1


async def test_one_that_is_not_there_is_given_up(api: PrometheusApi) -> None:
    pulling = Pulling(api)
    api.url = "http://127.0.0.1:1"
    with pytest.raises(PrometheusUnavailable, match="no answer from Prometheus: ConnectError"):
        await pulling()


async def test_windows_before_a_failure_stand(api: PrometheusApi) -> None:
    pulling, taken = Pulling(api), []
    windows = pulling.windows(START, START + (WINDOW_POINTS + 1) * HOUR)
    taken.append(await anext(windows))
    api.faults = [(500, {}, b"")] * MAX_ATTEMPTS
    with pytest.raises(PrometheusUnavailable):
        await anext(windows)
    assert [each.until for each in taken] == [START + WINDOW_POINTS * HOUR]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (
            400,
            b'{"status":"error","errorType":"bad_data","error":"parse error"}',
            "Prometheus answered 400: parse error",
        ),
        (
            422,
            b'{"status":"error","errorType":"execution","error":"' + b"x" * 500 + b'"}',
            "answered 422: " + "x" * 200,
        ),
        (200, b'{"status":"error","error":"no"}', "Prometheus answered 200: no"),
        (200, b"<html>", "what answers 200 at the URL of Prometheus is no Prometheus"),
        (404, b"404 page not found", "what answers 404 at the URL of Prometheus is no Prometheus"),
        (200, b"[" * 100_000, "is no Prometheus"),
        (200, b'{"status":"success"}', "must answer a range query with a matrix"),
        (200, success([], "vector"), "must answer a range query with a matrix"),
        (302, b"", "what answers 302"),
    ],
)
async def test_what_would_not_help_to_be_asked_again_is_said(
    api: PrometheusApi, status: int, body: bytes, reason: str
) -> None:
    api.faults = [(status, {}, body)]
    pulling = Pulling(api)
    with pytest.raises(PrometheusRefuses) as refused:
        await pulling()
    assert reason in refused.value.detail
    assert pulling.pauses == []


async def test_odd_answers_harm_nothing(api: PrometheusApi) -> None:
    values = [["NaN", "1"], [1e300, "1"], [1793491200.123, "1"], [1793491201, "1" * 5000], [1793491202, "x"]]
    histograms = [[1793491200, {"count": "3", "sum": "1"}]]
    odd = {"metric": LABELS, "values": values, "histograms": histograms}
    api.faults = [(200, {}, success([odd], warnings=["partial answer"], infos=["x"]))]
    (pulled,) = await Pulling(api)()
    assert [each.at for each in measured([pulled])] == [datetime(2026, 11, 1, 0, 0, 0, 123000, tzinfo=UTC)]
    (piece,) = pulled.batches[0].unreadable
    assert json.loads(piece.raw)["histograms"] == [['{"count": "3", "sum": "1"}', 1793491200000]]
    assert pulled.warnings == ["partial answer"]


async def test_a_url_that_is_none_is_refused() -> None:
    reader = Reader(SeriesMap(OPENSTACK))
    async with httpx.AsyncClient(base_url="ftp://prometheus") as client:
        with pytest.raises(PrometheusRefuses, match="one of http or https"):
            _ = [each async for each in pull(client, reader, START, START + HOUR, HOUR)]
