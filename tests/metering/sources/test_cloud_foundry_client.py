"""Getting tokens from a platform, waiting for it while it is busy or away, and what is said of it."""

from __future__ import annotations

import asyncio
import logging

import pytest
import structlog

from tallystick.kernel.errors import InvalidInput
from tallystick.metering.sources.cloud_foundry import CloudFoundry
from tallystick.metering.sources.cloud_foundry_client import (
    Limits,
    PlatformUnavailable,
    check_api_url,
    open_platform,
)
from tallystick.metering.sources.cloud_foundry_wire import App, PlatformRefuses, reason
from tallystick.metering.sources.sweep import Failure
from tests.doubles.capi import CLIENT_SECRET, EXPIRES_IN, SCOPE, Capi
from tests.metering.sources.platforms import Time, account_of, by_resource, put_platform, source_of, sweep_of

ALL = {"app-1", "app-2", "app-3", "app-4", "app-5", "svc-1"}


@pytest.fixture
def capi(capi: Capi) -> Capi:
    """A platform with five apps, on pages of two."""
    put_platform(capi, apps=5)
    capi.tell("set", per_page=2)
    return capi


@pytest.fixture
def time() -> Time:
    return Time()


# Tokens


async def test_all_lists_are_read_with_one_token(capi: Capi) -> None:
    assert set(by_resource(await sweep_of(capi))) == ALL
    assert len(capi.asked("/oauth/token")) == 1
    assert {each["token"] for each in capi.asked("/v3/apps")} == {"bearer token-1"}
    assert {each["token"] for each in (*capi.asked("/"), *capi.asked("/oauth/token"))} == {None}


async def test_who_asks_at_once_gets_one_token(capi: Capi, time: Time) -> None:
    async with open_platform(account_of(capi), Limits(), time.waiting()) as platform:
        await asyncio.gather(*(platform.sign_in() for _ in range(10)))
    assert len(capi.asked("/oauth/token")) == 1


@pytest.mark.parametrize("page", [1, 2, 3])
async def test_a_token_that_stops_counting_half_way_is_replaced(capi: Capi, page: int) -> None:
    capi.tell("when", path="/v3/apps", page=page, times=1, then=[["expire", {}]])
    sweep = await sweep_of(capi)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL, [])
    used = [each["token"] for each in capi.asked("/v3/apps")]
    assert used == sorted(used)  # never the old one again


async def test_a_token_is_replaced_before_it_expires(capi: Capi, time: Time) -> None:
    capi.tell("set", expires_in=60)
    capi.tell("when", path="/v3/apps", page=1, times=1, status=429, headers={"Retry-After": "29"})
    capi.tell("when", path="/v3/apps", page=2, times=1, status=429, headers={"Retry-After": "2"})
    assert set(by_resource(await sweep_of(capi, time))) == ALL
    used = [(each["page"], each["token"]) for each in capi.asked("/v3/apps")]
    assert used == [
        (1, "bearer token-1"),
        (1, "bearer token-1"),
        (2, "bearer token-1"),
        (2, "bearer token-1"),  # what is asked again keeps its token
        (3, "bearer token-2"),
    ]


async def test_a_token_without_an_end_is_kept_until_it_is_refused(capi: Capi, time: Time) -> None:
    capi.tell("set", expires_in=None)
    capi.tell("when", path="/v3/apps", times=1, status=429, headers={"Retry-After": "400"})
    assert set(by_resource(await sweep_of(capi, time))) == ALL
    assert len(capi.asked("/oauth/token")) == 1


async def test_a_sweep_leaves_its_token_to_the_next(capi: Capi, time: Time) -> None:
    source = source_of(capi, time)
    for tokens, seconds in ((1, EXPIRES_IN - 31), (1, 1), (2, 0)):
        assert set(by_resource(await source.sweep())) == ALL
        assert len(capi.asked("/oauth/token")) == tokens
        time.seconds += seconds
    capi.tell("expire")
    sweep = await source.sweep()
    assert (set(by_resource(sweep)), sweep.failures, len(capi.asked("/oauth/token"))) == (ALL, [], 3)


async def test_a_token_that_does_not_show_everything_is_not_kept(capi: Capi) -> None:
    """Who is given the authority meanwhile need not wait until it expires."""
    source = source_of(capi)
    capi.tell("set", scope="cloud_controller.read")
    assert len([await source.sweep() for _ in range(2)]) == len(capi.asked("/oauth/token")) == 2
    capi.tell("set", scope=SCOPE)
    assert len([await source.sweep() for _ in range(2)]) + 1 == len(capi.asked("/oauth/token")) == 3


async def test_a_new_token_that_is_refused_too_ends_the_list(capi: Capi) -> None:
    capi.tell("when", path="/v3/apps", status=401, body='{"errors": [{"code": 1000, "title": "CF-InvalidAuthToken"}]}')
    sweep = await sweep_of(capi)
    assert sweep.failures == [Failure("cfapps", "apps: the platform answered 401 CF-InvalidAuthToken")]
    assert [each["token"] for each in capi.asked("/v3/apps")] == ["bearer token-1", "bearer token-2"]


async def test_a_wrong_secret_is_told_without_the_secret(
    capi: Capi, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """UAA repeats the secret in its answer here."""
    wrong = "wrong-s3cret"
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs, pytest.raises(PlatformRefuses) as refusal:
        await CloudFoundry(account_of(capi, wrong), waiting=time.waiting()).sweep()
    assert str(refusal.value) == "the platform gives CF_CLIENT_ID no token: invalid_client"
    assert wrong not in f"{logs}{caplog.text}{account_of(capi, wrong)}"
    assert time.pauses == []


async def test_neither_secret_nor_token_is_logged(capi: Capi, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    capi.tell("when", path="/v3/apps", times=2, status=500)
    capi.tell("when", path="/oauth/token", times=2, status=500)
    with structlog.testing.capture_logs() as logs:
        assert (await sweep_of(capi, time)).failures == []
    assert {entry["event"] for entry in logs} == {"cloud_foundry.waits"}
    for text in (CLIENT_SECRET, "token-1"):
        assert text not in f"{logs}{caplog.text}"


async def test_tokens_are_got_where_login_is_if_there_is_no_uaa(capi: Capi) -> None:
    capi.tell("when", path="/", status=200, body=f'{{"links": {{"uaa": null, "login": {{"href": "{capi.url}/"}}}}}}')
    assert set(by_resource(await sweep_of(capi))) == ALL


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"links": {}}', "the platform does not say where its tokens are"),
        ("{}", "the platform answered what is no Root: Object missing required field `links`"),
        ("[]", "the platform answered what is no Root: Expected `object`, got `array`"),
        (
            '{"links": {"uaa": {"href": "http://uaa.example.org"}}}',
            "where the platform's tokens are: it must be an https",
        ),
        ('{"links": {"uaa": {"href": "ftp://uaa.example.org"}}}', "where the platform's tokens are: it must be a URL"),
        (
            '{"links": {"uaa": {"href": "https://a@uaa.example.org"}}}',
            "where the platform's tokens are: it must be a URL",
        ),
    ],
)
async def test_the_secret_is_sent_only_where_tokens_surely_are(capi: Capi, body: str, detail: str) -> None:
    capi.tell("when", path="/", status=200, body=body)
    with pytest.raises(PlatformRefuses) as refusal:
        await sweep_of(capi)
    assert str(refusal.value).startswith(detail)
    assert capi.asked("/oauth/token") == []


@pytest.mark.parametrize(
    "token", ['{"access_token": "a b"}', '{"access_token": "a\\r\\nX: y"}', '{"access_token": ""}', "{}", "<html>"]
)
async def test_what_is_no_token_is_refused(capi: Capi, token: str) -> None:
    capi.tell("when", path="/oauth/token", status=200, body=token)
    with pytest.raises(PlatformRefuses):
        await sweep_of(capi)
    assert capi.asked("/v3/apps") == []


# Busy times


async def test_a_burst_of_errors_is_waited_out_ever_longer(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=2, times=3, status=500)
    sweep = await sweep_of(capi, time)
    assert (set(by_resource(sweep)), sweep.failures) == (ALL, [])
    assert time.pauses == [1, 2, 4]


async def test_pauses_differ_by_chance_up_to_half(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", times=3, status=503)
    waiting = time.waiting()
    shortest = type(waiting)(waiting.pause, waiting.monotonic, lambda _: 0)
    assert (await CloudFoundry(account_of(capi), waiting=shortest).sweep()).failures == []
    assert time.pauses == [0.5, 1, 2]


@pytest.mark.parametrize("path", ["/", "/oauth/token", "/v3/processes", "/v3/service_instances"])
async def test_every_request_is_asked_again(capi: Capi, time: Time, path: str) -> None:
    capi.tell("when", path=path, times=2, status=502)
    sweep = await sweep_of(capi, time)
    assert (set(by_resource(sweep)), sweep.failures, time.pauses) == (ALL, [], [1, 2])


async def test_a_platform_that_stays_away_is_given_up(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=2, status=500)
    sweep = await sweep_of(capi, time, attempts=4)
    assert sweep.failures == [Failure("cfapps", "apps: the platform answered 500, 4 times")]
    assert time.pauses == [1, 2, 4]
    assert set(by_resource(sweep)) == {"app-1", "app-2", "svc-1"}


async def test_the_longest_pause_is_bounded(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", times=5, status=500)
    await sweep_of(capi, time, longest_pause_ms=3000)
    assert time.pauses == [1, 2, 3, 3, 3]


async def test_retry_after_is_honoured(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=2, times=1, status=429, headers={"Retry-After": "77"})
    sweep = await sweep_of(capi, time)
    assert (set(by_resource(sweep)), sweep.failures, time.pauses) == (ALL, [], [77])


async def test_the_end_of_the_rate_limit_is_waited_for_by_the_clock_of_the_platform(capi: Capi, time: Time) -> None:
    headers = {"X-RateLimit-Reset": "1711000123", "Date": "Thu, 21 Mar 2024 05:47:05 GMT"}
    capi.tell("when", path="/v3/apps", times=1, status=429, headers=headers)
    assert (await sweep_of(capi, time)).failures == []
    assert time.pauses == [98]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-RateLimit-Reset": "1", "Retry-After": "soon"},
        {"X-RateLimit-Reset": "1711000123", "Date": "yesterday"},
        {"X-RateLimit-Reset": "9" * 30, "Date": "Thu, 21 Mar 2024 05:47:05 GMT"},
        {"Retry-After": "-5"},
        {"Retry-After": "9" * 30},
        {"Retry-After": "Thu, 21 Mar 2024 05:47:05 GMT"},
    ],
)
async def test_what_is_no_number_of_seconds_is_no_reason_to_wait_longer(
    capi: Capi, time: Time, headers: dict[str, str]
) -> None:
    capi.tell("when", path="/v3/apps", times=1, status=429, headers=headers)
    assert (await sweep_of(capi, time)).failures == []
    assert time.pauses == [1]


async def test_a_rate_limit_that_outlasts_the_sweep_ends_it_at_once(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=2, status=429, headers={"Retry-After": "3000"})
    sweep = await sweep_of(capi, time)
    sentence = "apps: the platform answered 429, and waiting 3000 s would be longer than the 480 seconds for a sweep"
    assert (sweep.failures, time.pauses) == ([Failure("cfapps", sentence)], [])


async def test_a_sweep_ends_in_time(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", status=500)
    sweep = await sweep_of(capi, time, total_seconds=10, attempts=100)
    assert time.pauses == [1, 2, 4]
    (failure,) = sweep.failures
    assert failure.detail.endswith("waiting 8 s would be longer than the 10 seconds for a sweep")


async def test_nothing_is_asked_when_the_time_is_over(capi: Capi, time: Time) -> None:
    async with open_platform(account_of(capi), Limits(total_seconds=10), time.waiting()) as platform:
        await platform.sign_in()
        time.seconds = 10
        found = await platform.list("apps", "/v3/apps", App)
    assert (found.faults, found.is_whole) == (["apps: the 10 seconds for a sweep were over"], False)
    assert capi.asked("/v3/apps") == []


async def test_an_answer_that_does_not_come_is_asked_for_again(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=2, times=1, hang=True)
    with structlog.testing.capture_logs() as logs:
        sweep = await sweep_of(capi, time, request_seconds=0.5)
    assert [entry["reason"] for entry in logs] == ["the platform took too long to answer"]
    assert (set(by_resource(sweep)), sweep.failures, time.pauses) == (ALL, [], [1])


async def test_an_answer_that_breaks_off_is_asked_for_again(capi: Capi, time: Time) -> None:
    capi.tell("when", path="/v3/apps", page=2, times=2, cut=True)
    sweep = await sweep_of(capi, time)
    assert (set(by_resource(sweep)), sweep.failures, time.pauses) == (ALL, [], [1, 2])


@pytest.mark.integration
async def test_a_platform_that_is_not_there_is_unavailable(time: Time) -> None:
    gone = Capi()
    gone.close()
    with pytest.raises(PlatformUnavailable, match="cannot be asked: ConnectError, 6 times"):
        await sweep_of(gone, time)
    assert time.pauses == [1, 2, 4, 8, 16]


# What is said


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"errors": [{"code": 10003, "title": "CF-NotAuthorized", "detail": "secret"}]}', "CF-NotAuthorized"),
        (b'{"error": "invalid_client", "error_description": "secret"}', "invalid_client"),
        (b'{"errors": [{"title": "a sentence with a secret"}]}', ""),
        (b'{"errors": [{"title": "CF-' + b"x" * 100 + b'"}]}', ""),
        ('{"error": "größe"}'.encode(), ""),
        (b'{"errors": []}', ""),
        (b'{"errors": 5}', ""),
        (b"<html>", ""),
        (b"", ""),
    ],
)
def test_a_reason_is_one_word_of_the_platform_or_nothing(body: bytes, word: str) -> None:
    assert reason(body) == word


@pytest.mark.parametrize(
    "url", ["https://api.example.gov", "https://api.example.gov:8443/", "http://127.0.0.1:8080", "http://localhost"]
)
def test_urls_that_can_be_asked(url: str) -> None:
    assert check_api_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.gov",
        "http://api.example.gov",
        "ftp://api.example.gov",
        "https://",
        "https://a:b@example.gov",
        "https://example.gov/?a=b",
        "https://example.gov/#a",
        "https://example.gov:x",
        "https://ex ample.gov",
        "https://[x",
    ],
)
def test_urls_that_are_none_or_not_safe_for_a_secret(url: str) -> None:
    with pytest.raises(InvalidInput, match="it must be"):
        check_api_url(url)
