"""Who is let in by an issuer's tokens, while the issuer rotates, misbehaves and goes away. The time is the test's."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tallystick.access.oidc import (
    ASK_AGAIN_AFTER,
    FRESH_FOR,
    MAX_DOCUMENT_BYTES,
    USABLE_FOR,
    IssuerUnreachable,
    Tokens,
)
from tallystick.access.tokens import (
    ADMIN_SCOPE,
    READ_SCOPE,
    InvalidToken,
    MissingScope,
    MissingToken,
    Terms,
    TokenRefused,
    UnreadableClaims,
)
from tallystick.kernel.clock import TestClock
from tests.doubles.oidc_provider import CERTIFICATE, CLIENT_ID, Provider

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SKEW = timedelta(seconds=60)
SHORT = timedelta(milliseconds=50)
"""A time-out for a test in which nobody answers: it runs out anyhow."""


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
def tokens(provider: Provider, clock: TestClock) -> Tokens:
    return made(provider, clock)


def made(provider: Provider, clock: TestClock, **more: Any) -> Tokens:
    return Tokens(Terms(provider.url, CLIENT_ID, SKEW), clock, **more)


async def is_let_in(tokens: Tokens, authorization: str | None) -> bool:
    """Whether it is; an invalid token is the only other answer that it may get."""
    try:
        await tokens.check(authorization, ADMIN_SCOPE)
    except InvalidToken:
        return False
    return True


async def reason_against(tokens: Tokens, authorization: str) -> str:
    """The word in the log for which a token is invalid."""
    with capture_logs() as logs, pytest.raises(InvalidToken, match=r"^invalid token$"):
        await tokens.check(authorization, ADMIN_SCOPE)
    (reason,) = [log["reason"] for log in logs if log["event"] == "oidc.token_refused"]
    return str(reason)


# Good and bad tokens


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        *(("rsa", name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("ed25519", "EdDSA"),
    ],
)
async def test_a_good_token_is_let_in(
    provider: Provider, tokens: Tokens, clock: TestClock, kind: str, algorithm: str
) -> None:
    provider.tell("rotate", kid="new", kind=kind)
    signed = {"algorithm": algorithm, "key": "new"}
    for audience in (CLIENT_ID, [CLIENT_ID, "others"]):
        for scope in (["usage.admin"], ["openid", "usage.admin"], "usage.admin", "openid usage.admin"):
            assert await is_let_in(tokens, provider.bearer(clock.now(), signed=signed, aud=audience, scope=scope))
    assert (provider.asked("discovery"), provider.asked("keys")) == (1, 1)


async def test_a_token_without_the_scope_is_not_enough(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    for scope in (
        None,
        [],
        "",
        ["usage"],
        ["usage.admin.x"],
        "usage admin",
        ["USAGE.ADMIN"],
        ["openid usage.admin"],
    ):
        with pytest.raises(MissingScope) as refused:
            await tokens.check(provider.bearer(clock.now(), scope=scope), ADMIN_SCOPE)
        assert (refused.value.status, refused.value.detail) == (403, "forbidden")
    for odd in (5, {"usage.admin": 1}, [1]):
        with pytest.raises(UnreadableClaims) as refused_claims:
            await tokens.check(provider.bearer(clock.now(), scope=odd), ADMIN_SCOPE)
        assert (refused_claims.value.status, refused_claims.value.detail) == (401, "cannot parse claims")


async def test_whose_usage_a_token_shows(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    async def seen(claim: str = "customer_id", **claims: Any) -> str | None:
        return await tokens.customer_seen(provider.bearer(clock.now(), **claims), claim)

    assert await seen(scope=[READ_SCOPE], customer_id="ada") == "ada"
    assert await seen("org_id", scope="openid usage.read", customer_id="ada", org_id="org-1") == "org-1"
    for scope in ([ADMIN_SCOPE], [READ_SCOPE, ADMIN_SCOPE]):
        assert await seen(scope=scope, customer_id="ada") is None
    for claims in ({"scope": [READ_SCOPE]}, {"scope": [], "customer_id": "ada"}, {"scope": None, "customer_id": "ada"}):
        with pytest.raises(MissingScope) as refused:
            await seen(**claims)
        assert refused.value.challenge == 'Bearer error="insufficient_scope", scope="usage.read"'
    with pytest.raises(UnreadableClaims):
        await seen(scope=[READ_SCOPE], customer_id=7)
    with pytest.raises(InvalidToken):
        await seen(scope=[READ_SCOPE], customer_id="ada", aud="other")
    with pytest.raises(MissingToken):
        await tokens.customer_seen(None, "customer_id")


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        ({"algorithm": "none"}, "algorithm"),
        ({"algorithm": "none", "header": {"alg": "None"}}, "algorithm"),
        ({"algorithm": "none", "header": {"alg": "RS256"}}, "signature"),
        ({"algorithm": "HS256"}, "algorithm"),  # with the public key as its secret
        ({"algorithm": "HS256", "header": {"alg": "RS256"}}, "signature"),
        ({"algorithm": "none", "header": {"alg": "ES512"}}, "algorithm"),
        ({"algorithm": "none", "header": {"alg": ["RS256"]}}, "algorithm"),
        ({"algorithm": "none", "header": {"alg": "RS256", "kid": 7}}, "malformed"),
        ({"header": {"kid": "unknown"}}, "signature"),
        ({"header": {"kid": ""}}, "signature"),
        ({"header": {"crit": ["exp"]}}, "malformed"),
    ],
)
async def test_a_token_signed_otherwise_is_invalid(
    provider: Provider, tokens: Tokens, clock: TestClock, signed: dict[str, Any], reason: str
) -> None:
    assert await reason_against(tokens, provider.bearer(clock.now(), signed=signed)) == reason


async def test_a_token_that_names_no_key_is_tried_with_all(
    provider: Provider, tokens: Tokens, clock: TestClock
) -> None:
    provider.tell("rotate", kid="second", keep=True)
    provider.tell("rotate", kid="third", kind="p256", keep=True)
    for key, algorithm in (("first", "RS256"), ("second", "PS256"), ("third", "ES256")):
        signed = {"algorithm": algorithm, "key": key, "header": {"kid": None}}
        assert await is_let_in(tokens, provider.bearer(clock.now(), signed=signed))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "other"}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": None}, "claims"),
        ({"iss": "https://other.example"}, "issuer"),
        ({"iss": None}, "claims"),
        ({"exp": None}, "claims"),
    ],
)
async def test_a_token_for_others_or_of_others_is_invalid(
    provider: Provider, tokens: Tokens, clock: TestClock, changes: dict[str, Any], reason: str
) -> None:
    assert await reason_against(tokens, provider.bearer(clock.now(), **changes)) == reason


async def test_a_payload_that_is_no_claims_is_invalid(provider: Provider, tokens: Tokens) -> None:
    for payload in ("", "garbage", "[]", "\udcff", "[" * 1000):
        assert await reason_against(tokens, f"Bearer {provider.tell('sign', payload=payload)}") == "claims"


async def test_tokens_expire_on_our_clock(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    hour = provider.bearer(clock.now())
    later = provider.bearer(clock.now(), nbf=int(NOW.timestamp()) + 120)
    assert await is_let_in(tokens, hour)
    assert await reason_against(tokens, later) == "not_yet_valid"
    clock.advance(timedelta(seconds=60))
    assert await is_let_in(tokens, later)
    clock.set(NOW + timedelta(hours=1) + SKEW - timedelta(seconds=1))
    assert await is_let_in(tokens, hour)
    clock.advance(timedelta(seconds=1))
    assert await reason_against(tokens, hour) == "expired"


async def test_strangers_without_a_token_do_not_make_us_ask_the_issuer(provider: Provider, tokens: Tokens) -> None:
    unsigned = provider.bearer(NOW, signed={"algorithm": "none"})
    for header in (None, "", "Basic x", "Bearer", "Bearer x", "Bearer a.b.c", unsigned):
        with pytest.raises(TokenRefused):
            await tokens.check(header, ADMIN_SCOPE)
    assert provider.asked("discovery") == 0


# Rotation


async def test_a_new_key_is_fetched_when_its_first_token_comes(
    provider: Provider, tokens: Tokens, clock: TestClock
) -> None:
    old = provider.bearer(clock.now())
    assert await is_let_in(tokens, old)
    clock.advance(ASK_AGAIN_AFTER)
    provider.tell("rotate", kid="new", keep=True)
    new = provider.bearer(clock.now(), signed={"key": "new"})
    assert await is_let_in(tokens, new)
    assert await is_let_in(tokens, old)
    assert provider.asked("keys") == 2
    clock.advance(ASK_AGAIN_AFTER)
    provider.tell("rotate", kid="newest")
    assert await is_let_in(tokens, provider.bearer(clock.now(), signed={"key": "newest"}))
    assert not await is_let_in(tokens, old)  # the issuer no longer has its key
    assert not await is_let_in(tokens, new)


async def test_a_key_replaced_under_its_name_is_fetched_too(
    provider: Provider, tokens: Tokens, clock: TestClock
) -> None:
    provider.tell("rotate", kid="only")
    old = provider.bearer(clock.now(), signed={"key": "only"})
    assert await is_let_in(tokens, old)
    provider.tell("rotate", kid="only")
    clock.advance(ASK_AGAIN_AFTER)
    assert await is_let_in(tokens, provider.bearer(clock.now(), signed={"key": "only"}))
    assert not await is_let_in(tokens, old)


async def test_keys_move_to_where_the_issuer_says_that_they_are(
    provider: Provider, tokens: Tokens, clock: TestClock
) -> None:
    assert await is_let_in(tokens, provider.bearer(clock.now()))
    provider.tell("say", jwks_uri=f"{provider.url}/elsewhere")
    provider.tell("rotate", kid="new")
    clock.advance(ASK_AGAIN_AFTER)
    assert await is_let_in(tokens, provider.bearer(clock.now(), signed={"key": "new"}))
    assert (provider.asked("keys"), provider.asked("elsewhere")) == (1, 1)


async def test_garbage_cannot_make_us_a_nuisance_to_the_issuer(
    provider: Provider, tokens: Tokens, clock: TestClock
) -> None:
    garbage = [provider.bearer(clock.now(), signed={"header": {"kid": f"k{number}"}}) for number in range(20)]
    for asked in (1, 2, 3):
        for bearer in garbage:
            assert not await is_let_in(tokens, bearer)
        assert (provider.asked("discovery"), provider.asked("keys")) == (asked, asked)
        clock.advance(ASK_AGAIN_AFTER - timedelta(microseconds=1))
        assert not await is_let_in(tokens, garbage[0])
        assert provider.asked("keys") == asked
        clock.advance(timedelta(microseconds=1))


async def test_all_keys_withdrawn_means_nobody_is_let_in(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    good = provider.bearer(clock.now())
    assert await is_let_in(tokens, good)
    provider.tell("withdraw")
    clock.advance(ASK_AGAIN_AFTER)
    assert not await is_let_in(tokens, provider.bearer(clock.now(), signed={"header": {"kid": "unknown"}}))
    assert not await is_let_in(tokens, good)


async def test_a_secret_among_the_keys_signs_nothing(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    provider.tell("publish", jwk={"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "RS256"})
    provider.tell("publish", jwk={"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "HS256"})
    provider.tell("publish", jwk={"kty": "weird"})
    assert await is_let_in(tokens, provider.bearer(clock.now()))
    assert not await is_let_in(tokens, provider.bearer(clock.now(), signed={"algorithm": "HS256"}))


async def test_short_keys_do_not_count(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    provider.tell("rotate", kid="short", kind="rsa-short", keep=True)
    assert await reason_against(tokens, provider.bearer(clock.now(), signed={"key": "short"})) == "signature"
    assert await is_let_in(tokens, provider.bearer(clock.now()))


# An issuer that is slow


async def test_however_many_wait_the_issuer_is_asked_once(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    good = provider.bearer(clock.now())
    provider.tell("behave", document="keys", mode="hang")
    waiting = [asyncio.create_task(is_let_in(tokens, good)) for _ in range(50)]
    await asyncio.to_thread(provider.tell, "wait", document="keys", times=1)
    clock.advance(ASK_AGAIN_AFTER)  # it would be time to ask again, were it not being asked
    more = [asyncio.create_task(is_let_in(tokens, good)) for _ in range(50)]
    waiting[0].cancel()  # whoever goes away takes nobody with him
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    provider.tell("release")
    assert all(await asyncio.gather(*waiting[1:], *more))
    assert (provider.asked("discovery"), provider.asked("keys")) == (1, 1)


async def test_nobody_waits_for_keys_that_are_only_old(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    assert await is_let_in(tokens, provider.bearer(clock.now()))
    clock.advance(FRESH_FOR + timedelta(seconds=1))
    provider.tell("rotate", kid="new")
    provider.tell("behave", document="keys", mode="hang")
    old = provider.bearer(clock.now())
    assert await is_let_in(tokens, old)  # and the issuer is asked in the background
    await asyncio.to_thread(provider.tell, "wait", document="keys", times=2)
    assert await is_let_in(tokens, old)
    new = asyncio.create_task(is_let_in(tokens, provider.bearer(clock.now(), signed={"key": "new"})))
    provider.tell("release")
    assert await new
    assert not await is_let_in(tokens, old)
    assert provider.asked("keys") == 2


@pytest.mark.parametrize("document", ["discovery", "keys"])
async def test_an_issuer_that_does_not_answer_is_given_up(provider: Provider, clock: TestClock, document: str) -> None:
    provider.tell("behave", document=document, mode="hang")
    tokens = made(provider, clock, timeout=SHORT)
    with capture_logs() as logs, pytest.raises(IssuerUnreachable) as refused:
        await tokens.check(provider.bearer(clock.now()), ADMIN_SCOPE)
    assert (refused.value.status, refused.value.code) == (503, "issuer_unreachable")
    assert [log["reason"] for log in logs] == ["it took too long to answer"]


# An issuer that misbehaves or is away

NO_JSON = "it is not the JSON that it must be"
ILL = {
    "500": "it answered with status 500",
    "404": "it answered with status 404",
    "redirect": "it answered with status 302",
    "huge": f"its answer is longer than {MAX_DOCUMENT_BYTES} bytes",
    "cut": "it cannot be asked: RemoteProtocolError",
    "garbage": NO_JSON,
    "nested": NO_JSON,
    "null": NO_JSON,
    "empty": NO_JSON,
    "gzip": NO_JSON,  # which nobody has asked for
}


@pytest.mark.parametrize("document", ["discovery", "keys"])
@pytest.mark.parametrize("mode", ILL)
async def test_an_issuer_that_answers_nonsense_lets_nobody_in_and_is_asked_again(
    provider: Provider, tokens: Tokens, clock: TestClock, document: str, mode: str
) -> None:
    good = provider.bearer(clock.now())
    provider.tell("behave", document=document, mode=mode)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(IssuerUnreachable):
                await tokens.check(good, ADMIN_SCOPE)
    assert [log["reason"].removeprefix("its answer: ").removeprefix("its keys: ") for log in logs] == [ILL[mode]]
    assert (provider.asked(document), provider.asked("elsewhere")) == (1, 0)
    provider.tell("behave", document=document, mode="well")
    with pytest.raises(IssuerUnreachable):
        await tokens.check(good, ADMIN_SCOPE)
    clock.advance(ASK_AGAIN_AFTER)
    assert await is_let_in(tokens, good)


async def test_a_set_of_more_keys_than_anybody_has_is_refused(
    provider: Provider, tokens: Tokens, clock: TestClock
) -> None:
    provider.tell("behave", document="keys", mode="many")
    with pytest.raises(IssuerUnreachable):
        await tokens.check(provider.bearer(clock.now()), ADMIN_SCOPE)


@pytest.mark.parametrize("mode", ILL)
async def test_the_last_good_keys_count_while_the_issuer_is_ill(
    provider: Provider, tokens: Tokens, clock: TestClock, mode: str
) -> None:
    assert await is_let_in(tokens, provider.bearer(clock.now()))
    provider.tell("behave", document="keys", mode=mode)
    clock.advance(FRESH_FOR * 2)
    assert await is_let_in(tokens, provider.bearer(clock.now()))
    assert not await is_let_in(tokens, provider.bearer(clock.now(), signed={"header": {"kid": "unknown"}}))
    assert provider.asked("keys") == 2
    assert await is_let_in(tokens, provider.bearer(clock.now()))


async def test_an_issuer_that_is_gone_is_missed_after_a_day(clock: TestClock) -> None:
    issuer = Provider()
    tokens = made(issuer, clock)
    last = issuer.bearer(clock.now(), exp=int(NOW.timestamp()) + 10 * 86400)
    assert await is_let_in(tokens, last)
    issuer.close()
    for age in (FRESH_FOR * 3, USABLE_FOR):
        clock.set(NOW + age)
        assert await is_let_in(tokens, last)
    clock.advance(ASK_AGAIN_AFTER)
    with pytest.raises(IssuerUnreachable, match="cannot be reached"):
        await tokens.check(last, ADMIN_SCOPE)


async def test_an_issuer_that_was_never_there_is_asked_when_somebody_comes(clock: TestClock) -> None:
    issuer = Provider()
    good = issuer.bearer(clock.now())
    issuer.close()
    tokens = made(issuer, clock)
    with capture_logs() as logs, pytest.raises(IssuerUnreachable):
        await tokens.check(good, ADMIN_SCOPE)
    assert [(log["event"], log["reason"]) for log in logs] == [
        ("oidc.issuer_failed", "it cannot be asked: All connection attempts failed")
    ]


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": ""},
        {"jwks_uri": "/keys"},
        {"jwks_uri": "http://192.0.2.1/keys"},
        {"jwks_uri": "http://localhost.example/keys"},
        {"jwks_uri": "http://127.0.0.1@192.0.2.1/keys"},
        {"jwks_uri": "ftp://127.0.0.1/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://127.0.0.1:99999/keys"},
        {"jwks_uri": "http://[::1/keys"},
        {"jwks_uri": "http://127.0.0.1/\r\nkeys"},
    ],
)
async def test_a_discovery_that_leads_astray_is_not_followed(
    provider: Provider, tokens: Tokens, clock: TestClock, said: dict[str, Any]
) -> None:
    provider.tell("say", **said)
    with pytest.raises(IssuerUnreachable):
        await tokens.check(provider.bearer(clock.now()), ADMIN_SCOPE)
    assert provider.asked("keys") == 0


async def test_by_https_the_issuer_must_be_who_it_says_it_is(
    clock: TestClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Provider(tmp_path)
    try:
        tokens, good = made(issuer, clock), issuer.bearer(clock.now())
        with capture_logs() as logs, pytest.raises(IssuerUnreachable):
            await tokens.check(good, ADMIN_SCOPE)
        assert "certificate verify failed" in logs[0]["reason"]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / CERTIFICATE))
        clock.advance(ASK_AGAIN_AFTER)
        assert await is_let_in(tokens, good)
        # Whoever is asked safely cannot send us where anybody may listen, not even on this machine.
        issuer.tell("say", jwks_uri=issuer.url.replace("https", "http") + "/keys")
        with capture_logs() as logs, pytest.raises(IssuerUnreachable):
            await made(issuer, clock).check(good, ADMIN_SCOPE)
        assert "https" in logs[0]["reason"]
        assert issuer.asked("keys") == 1
    finally:
        issuer.close()


async def test_nothing_that_somebody_shows_is_logged(provider: Provider, tokens: Tokens, clock: TestClock) -> None:
    shown = [
        provider.token(clock.now()),
        provider.token(clock.now(), aud="other"),
        provider.token(clock.now(), scope=5),
        provider.token(clock.now(), signed={"header": {"kid": "unknown"}}),
        "a-secret-key",
    ]
    with capture_logs() as logs:
        for text in shown:
            try:
                await tokens.check(f"Bearer {text}", ADMIN_SCOPE)
            except TokenRefused:
                continue
    told = json.dumps(logs)
    assert "oidc.token_refused" in told
    assert not [part for text in shown for part in text.split(".") if part in told]
