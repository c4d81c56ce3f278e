"""The platform surface: who is let in, to the byte, and tiers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from tallystick.kernel.clock import TestClock
from tallystick.service import Service
from tests.doubles.oidc_provider import CLIENT_ID, Provider
from tests.web.conftest import NOW, asking

TIER = "/admin/tier"
GOLD = {"name": "gold", "credits": "1000"}
JSON = {"Content-Type": "application/json"}
UNREACHABLE = "the issuer of tokens cannot be reached, so nobody is let in; try again later"


@pytest.fixture
async def closed(service: Service, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that trusts the provider's tokens."""
    async with asking(service, dev=False, oidc_issuer=provider.url, cf_client_id=CLIENT_ID) as client:
        yield client


async def ask(client: httpx.AsyncClient, authorization: str | None, body: Any = GOLD) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return await client.post(TIER, json=body, headers=headers)


def said(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, text and challenge. What is said is always plain text."""
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.status_code, answer.text, answer.headers.get("www-authenticate")


# Who is let in


MISSING = (401, "missing bearer token", "Bearer")
INVALID = (401, "invalid token", 'Bearer error="invalid_token"')
UNPARSABLE = (401, "cannot parse claims", 'Bearer error="invalid_token"')
FORBIDDEN = (403, "forbidden", 'Bearer error="insufficient_scope", scope="usage.admin"')


@pytest.mark.parametrize("header", [None, "", "Basic dXNlcjp3b3Jk", "Token abc", "Bearer", "bearer", "abc"])
async def test_row_1_no_header_or_another_scheme(closed: httpx.AsyncClient, header: str | None) -> None:
    assert said(await ask(closed, header)) == MISSING


@pytest.mark.parametrize(
    ("claims", "signed"),
    [
        ({"exp": int(NOW.timestamp()) - 61}, {}),
        ({"nbf": int(NOW.timestamp()) + 61}, {}),
        ({"aud": "other"}, {}),
        ({"iss": "https://other.example"}, {}),
        ({}, {"algorithm": "none"}),
        ({}, {"algorithm": "HS256"}),
        ({}, {"header": {"kid": "unknown"}}),
    ],
)
async def test_row_2_bad_signature_expired_or_wrong_audience(
    closed: httpx.AsyncClient, provider: Provider, claims: dict[str, Any], signed: dict[str, Any]
) -> None:
    assert said(await ask(closed, provider.bearer(NOW, signed=signed, **claims))) == INVALID


@pytest.mark.parametrize("text", ["x", "a.b.c", "a b c", "ü"])
async def test_row_2_what_is_no_token(closed: httpx.AsyncClient, text: str) -> None:
    assert said(await closed.post(TIER, headers=[(b"Authorization", f"Bearer {text}".encode())])) == INVALID


async def test_row_2_a_token_that_was_changed_on_its_way(closed: httpx.AsyncClient, provider: Provider) -> None:
    head, _, signature = provider.token(NOW, scope=[]).split(".")
    _, payload, _ = provider.token(NOW).split(".")
    assert said(await ask(closed, f"Bearer {head}.{payload}.{signature}")) == INVALID


async def test_row_3_claims_that_cannot_be_parsed(closed: httpx.AsyncClient, provider: Provider) -> None:
    for scope in (5, True, {"usage.admin": True}, [["usage.admin"]]):
        assert said(await ask(closed, provider.bearer(NOW, scope=scope))) == UNPARSABLE


async def test_row_4_the_scope_is_missing(closed: httpx.AsyncClient, provider: Provider) -> None:
    for scope in (None, [], ["openid"], "openid profile", ["usage.administrator"]):
        assert said(await ask(closed, provider.bearer(NOW, scope=scope))) == FORBIDDEN


async def test_a_good_token_opens_with_its_scheme_in_any_case(
    closed: httpx.AsyncClient, provider: Provider, clock: TestClock
) -> None:
    token = provider.token(clock.now())
    for scheme in ("Bearer", "bearer", "BEARER", "bEARER "):
        assert said(await ask(closed, f"{scheme} {token}")) == (200, "gold", None)
    for scope in ("usage.admin", "openid usage.admin"):
        assert (await ask(closed, provider.bearer(clock.now(), scope=scope))).status_code == 200


async def test_everything_below_admin_is_behind_the_gate(closed: httpx.AsyncClient, provider: Provider) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
        for path in ("/admin", "/admin/", "/admin/tier", "/admin/usage/job", "/admin/nothing", "/admin/%74ier"):
            answer = await closed.request(method, path)
            assert (answer.status_code, answer.text) == (401, "" if method == "HEAD" else "missing bearer token")
    good = {"Authorization": provider.bearer(NOW)}
    assert said(await closed.get("/admin/nothing", headers=good)) == (404, "there is nothing at this path", None)
    wrong = await closed.delete(TIER, headers=good)
    assert (said(wrong)[:2], wrong.headers["allow"]) == ((405, "this path does not take this method"), "GET, POST")
    assert (await closed.get("/administrators")).headers["content-type"] == "application/problem+json"


async def test_a_configured_key_is_no_token_but_a_token_opens_native_routes(
    service: Service, provider: Provider
) -> None:
    chosen = {"api_keys": "shop", "admin_api_keys": "boss"}  # pragma: allowlist secret
    async with asking(service, dev=False, oidc_issuer=provider.url, cf_client_id=CLIENT_ID, **chosen) as client:
        for key in ("shop", "boss"):
            assert said(await ask(client, f"Bearer {key}")) == INVALID
        bearer = {"Authorization": provider.bearer(NOW)}
        assert (await client.get("/api/v1/verify", headers=bearer)).status_code == 200
        assert (await client.get("/api/v1/verify", headers={"Authorization": "Bearer boss"})).status_code == 200


async def test_an_issuer_that_was_never_reached_is_said_to_be_away(
    closed: httpx.AsyncClient, provider: Provider
) -> None:
    good = provider.bearer(NOW)
    provider.tell("behave", document="discovery", mode="500")
    assert said(await ask(closed, good)) == (503, UNREACHABLE, None)
    assert said(await ask(closed, None)) == MISSING


async def test_with_dev_the_surface_is_open_until_there_is_an_issuer(service: Service, provider: Provider) -> None:
    async with asking(service, dev=True) as client:
        assert said(await ask(client, None)) == (200, "gold", None)
    async with asking(service, dev=True, oidc_issuer=provider.url, cf_client_id=CLIENT_ID) as client:
        assert said(await ask(client, None)) == MISSING
        assert said(await ask(client, provider.bearer(NOW))) == (200, "gold", None)
        assert (await client.get("/api/v1/customers")).status_code == 200  # the rest is as open as before


async def test_without_dev_and_without_an_issuer_the_surface_is_closed(service: Service) -> None:
    async with asking(service, dev=False, admin_api_keys="boss") as client:  # pragma: allowlist secret
        for header in (None, "Bearer boss", "Bearer a.b.c"):
            status, text, _ = said(await ask(client, header))
            assert (status, text) == (503, "no issuer of tokens is configured: set OIDC_ISSUER and CF_CLIENT_ID")


# Tiers


async def test_better_than_before_a_tier_has_the_name_and_the_credits_that_were_sent(
    client: httpx.AsyncClient,
) -> None:
    """[B] of 001-E1: theirs had an empty name and 0 credits, whatever was sent."""
    for name, amount in (("bronze", 1000), ("a/b ü", "0.000001"), ("big", 10**15)):
        assert said(await ask(client, None, {"name": name, "credits": amount})) == (200, name, None)
        kept = (await client.get(f"/api/v1/tiers/{name.replace('/', '%2F')}")).json()
        assert (kept["name"], kept["credits"], kept["asset"]) == (name, str(amount), "CREDIT")
    assert len((await client.get("/api/v1/tiers")).json()["items"]) == 3


async def test_better_than_before_no_tier_is_made_of_nothing(client: httpx.AsyncClient) -> None:
    """[B] of 001-E1: a call without a body, as their clients sent, is told what is missing."""
    sentence = 'a tier needs a name and credits: send JSON, as {"name": "bronze", "credits": "1000"}'
    for headers in ({}, JSON, {"Content-Type": "text/plain"}):
        assert said(await client.post(TIER, headers=headers)) == (400, sentence, None)
    assert (await client.get("/api/v1/tiers")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "name: Field required"),
        ({"name": "gold"}, "credits: Field required"),
        ({"name": "", "credits": 1}, "name: must not be empty"),
        ({"name": " ", "credits": 1}, "name: must not be empty"),
        ({"name": None, "credits": 1}, "name: must be a string"),
        ({"name": 5, "credits": 1}, "name: must be a string"),
        ({"name": "x" * 257, "credits": 1}, "name: must have at most 256 characters"),
        ({"name": "a\0", "credits": 1}, "name: must not contain NUL"),
        ({"name": "gold", "credits": 0}, "credits: Input should be greater than 0"),
        ({"name": "gold", "credits": -1}, "credits: must not be negative"),
        ({"name": "gold", "credits": "0.0000001"}, "credits: must have at most six decimal places"),
        ({"name": "gold", "credits": 10**16}, f"credits: must not exceed {10**15}"),
        ({"name": "gold", "credits": "many"}, "credits: must be a plain decimal number, as 99.75"),
        ({"name": "gold", "credits": None}, "credits: must be a decimal number"),
        ({"name": "gold", "credits": 1, "tier_credits": 2}, "tier_credits: Extra inputs are not permitted"),
    ],
)
async def test_a_tier_is_refused_with_field_and_rule(
    client: httpx.AsyncClient, body: dict[str, Any], sentence: str
) -> None:
    with capture_logs() as logs:
        assert said(await ask(client, None, body)) == (422, sentence, None)
    assert [log["event"] for log in logs] == ["http.request"]  # no failure of ours, whose log would quote the body
    assert (await client.get("/api/v1/tiers")).json()["items"] == []


async def test_a_body_must_be_json_and_say_so(client: httpx.AsyncClient) -> None:
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        refused = await client.post(TIER, content=json.dumps(GOLD), headers={"Content-Type": content_type})
        assert said(refused) == (415, "Content-Type must be application/json", None)
    for body in (b"{", b"\xff", b"NaN", b'{"name":"gold","credits":NaN}'):
        status, text, _ = said(await client.post(TIER, content=body, headers=JSON))
        assert (status, text.partition(" must be ")[0]) == (400, "the body")
    for body in (b"[]", b"null", b'"gold"', b"1"):
        assert said(await client.post(TIER, content=body, headers=JSON))[0] == 422
    assert said(await client.post(TIER, content=b" " * (33 << 20), headers=JSON))[0] == 413
    assert (await client.get("/api/v1/tiers")).json()["items"] == []


async def test_the_same_tier_again_is_the_same_answer_and_another_is_refused(
    client: httpx.AsyncClient, clock: TestClock
) -> None:
    assert said(await ask(client, None)) == (200, "gold", None)
    made = (await client.get("/api/v1/tiers/gold")).json()
    assert said(await ask(client, None, {"name": "gold", "credits": 1000})) == (200, "gold", None)
    taken = (409, "there is a tier 'gold' with other terms", None)
    assert said(await ask(client, None, {"name": "gold", "credits": 1})) == taken
    assert (await client.get("/api/v1/tiers/gold")).json() == made
    await client.put("/api/v1/tiers/gold", json={"credits": "1000", "asset": "USD"})
    assert said(await ask(client, None)) == taken


async def test_of_two_tiers_at_once_under_one_name_one_is_made(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(ask(client, None, {"name": "gold", "credits": 1 + n % 2}) for n in range(10)))
    kept = (await client.get("/api/v1/tiers/gold")).json()["credits"]
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [409] * 5
    assert {answer.status_code for n, answer in enumerate(answers) if str(1 + n % 2) == kept} == {200}


async def test_a_tier_made_here_can_be_agreed_on(client: httpx.AsyncClient) -> None:
    name = (await ask(client, None)).text
    await client.post("/api/v1/customers", json={"key": "ada"})
    period = {"start": "2026-11-01", "end": "2027-11-01"}
    made = await client.post("/api/v1/customers/ada/agreements", json={"tier": name, **period})
    assert made.status_code == 201
    (standing,) = (await client.get("/api/v1/customers/ada")).json()["balances"]
    assert standing["balance"] == "1000"


async def test_a_database_that_is_away_is_a_500_with_text(client: httpx.AsyncClient, service: Service) -> None:
    await service.pool.close()
    assert said(await ask(client, None)) == (500, "the database cannot be reached", None)
