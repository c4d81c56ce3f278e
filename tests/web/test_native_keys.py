"""Keys through the routes: made and shown once, used on every surface, rotated and revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from tallystick.kernel.clock import TestClock
from tallystick.service import Service
from tests.web.conftest import asking

KEYS = "/api/v1/keys"


@pytest.fixture
async def closed(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """The service as it is for others than developers, with one configured administrator."""
    async with asking(service, dev=False, admin_api_keys="boss") as client:  # pragma: allowlist secret
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def make(client: httpx.AsyncClient, *scopes: str, **more: Any) -> dict[str, Any]:
    made = await client.post(KEYS, json={"name": "shop", "scopes": scopes, **more})
    assert made.status_code == 201, made.text
    document: dict[str, Any] = made.json()
    return document


async def test_a_key_is_shown_once(client: httpx.AsyncClient, closed: httpx.AsyncClient) -> None:
    made = await client.post(KEYS, json={"name": "shop", "scopes": ["billing:read"], "requests_per_minute": 60})
    key = made.json()
    assert made.headers["cache-control"] == "no-store"
    assert key["key"].startswith(f"tally_{key['prefix']}_")
    shown = {name: value for name, value in key.items() if name != "key"}
    assert (await client.get(f"{KEYS}/{key['id']}")).json() == shown
    assert (await client.get(KEYS)).json() == {"items": [shown], "next": None}
    assert (shown["customer"], shown["agent_id"], shown["expires_at"], shown["requests_per_minute"]) == (
        None,
        None,
        None,
        60,
    )
    assert (await closed.get("/api/v1/customers", headers=bearer(key["key"]))).status_code == 200


async def test_a_key_is_for_administrators_to_make(client: httpx.AsyncClient, closed: httpx.AsyncClient) -> None:
    wanted = {"name": "mine", "scopes": ["admin"]}
    for scope in ("customers:write", "compliance", "wipe"):
        key = (await make(client, scope))["key"]
        refused = await closed.post(KEYS, json=wanted, headers=bearer(key))
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_required")
    assert (await closed.post(KEYS, json=wanted, headers=bearer("boss"))).status_code == 201
    admin = (await make(client, "admin"))["key"]
    assert (await closed.post(KEYS, json=wanted, headers=bearer(admin))).status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "", "scopes": ["admin"]}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["everything"]}, "scopes[0]"),
        ({"name": "a", "scopes": ["admin"], "customer": "ada"}, "scopes"),
        ({"name": "a", "scopes": ["billing:read"], "customer": "nobody"}, "customer"),
        ({"name": "a", "scopes": ["billing:read"], "expires_in": 0}, "expires_in"),
        ({"name": "a", "scopes": ["billing:read"], "expires_in": "1"}, "expires_in"),
        ({"name": "a", "scopes": ["billing:read"], "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "a", "scopes": ["billing:read"], "secret": "mine"}, "secret"),  # pragma: allowlist secret
    ],
)
async def test_what_breaks_a_rule_is_refused(client: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    refused = await client.post(KEYS, json=body)
    assert (refused.status_code, refused.json()["field"]) == (422, field)


async def test_a_rotated_key_works_on_for_a_while(
    client: httpx.AsyncClient, closed: httpx.AsyncClient, clock: TestClock
) -> None:
    old = await make(client, "billing:read")
    rotated = await client.post(f"{KEYS}/{old['id']}/rotate", json={"overlap": 3600})
    new = rotated.json()
    assert (rotated.status_code, rotated.headers["cache-control"]) == (201, "no-store")

    async def statuses() -> list[int]:
        asked = [await closed.get("/api/v1/meters", headers=bearer(key["key"])) for key in (old, new)]
        return [answer.status_code for answer in asked]

    assert await statuses() == [200, 200]
    clock.advance(timedelta(hours=1))
    assert await statuses() == [403, 200]
    late = await client.post(f"{KEYS}/{old['id']}/rotate", json={})
    assert (late.status_code, late.json()["code"]) == (409, "key_ended")


async def test_a_revoked_key_opens_nothing_and_is_listed_on(
    client: httpx.AsyncClient, closed: httpx.AsyncClient
) -> None:
    key = await make(client, "billing:read")
    first, second = [await client.delete(f"{KEYS}/{key['id']}") for _ in range(2)]
    assert first.json() == second.json()
    refused = await closed.get("/api/v1/meters", headers=bearer(key["key"]))
    assert (refused.status_code, refused.json()["code"]) == (403, "key_revoked")
    assert [one["id"] for one in (await client.get(KEYS)).json()["items"]] == [key["id"]]
    missing = await client.delete(f"{KEYS}/00000000-0000-4000-8000-000000000000")
    assert missing.status_code == 404


async def codes(closed: httpx.AsyncClient, keys: list[dict[str, Any]]) -> list[str]:
    """With which each key is refused; empty for one that works."""
    asked = [await closed.get("/api/v1/meters", headers=bearer(key["key"])) for key in keys]
    return ["" if answer.status_code == 200 else answer.json()["code"] for answer in asked]


async def test_whoever_has_ended_a_key_never_sees_it_work_again(
    service: Service, client: httpx.AsyncClient, closed: httpx.AsyncClient
) -> None:
    """By the answer the process that gave it knows no key of before, however late it is told of the change itself."""
    async with service.access.directory.running():
        for number in range(30):
            account = (await client.post("/accounts", json={"name": "Ada", "email": f"ada{number}@example.org"})).json()
            seats = [f"bot{number}@example.org", f"eve{number}@example.org"]
            bot, eve = [
                (await client.post(f"/accounts/{account['id']}/agents", json={"name": "Bot", "email": seat})).json()[
                    "id"
                ]
                for seat in seats
            ]
            keys = [await make(client, "billing:read", agent=seat) for seat in seats]
            keys += [await make(client, "billing:read", customer=account["id"]), await make(client, "billing:read")]

            assert await codes(closed, keys) == ["", "", "", ""]
            await client.post(f"/agents/block_agent/{bot}")
            assert await codes(closed, keys) == ["agent_blocked", "", "", ""]
            await client.post(f"/agents/unblock_agent/{bot}")
            assert await codes(closed, keys) == ["", "", "", ""]
            await client.delete(f"/api/v1/agents/{eve}")
            assert await codes(closed, keys) == ["", "agent_deleted", "", ""]
            await client.delete(f"/accounts/{account['id']}")
            assert await codes(closed, keys) == ["customer_deleted", "customer_deleted", "customer_deleted", ""]
            await client.delete(f"{KEYS}/{keys[3]['id']}")
            assert (await codes(closed, keys))[3] == "key_revoked"


async def test_every_surface_takes_a_key_in_its_own_header(service: Service, client: httpx.AsyncClient) -> None:
    key = (await make(client, "admin"))["key"]
    asked = [
        ("GET", "/api/v1/customers", {"Authorization": f"Bearer {key}"}),
        ("POST", "/write", {"Authorization": f"Bearer {key}"}),
        ("POST", "/write", {"Authorization": f"Token {key}"}),
        ("GET", "/api/metrics", {"Authorization": f"bearer {key}"}),
        ("GET", "/api/v1/users", {"Authorization": f"Bearer {key}"}),
        ("GET", "/admin/tier", {"Authorization": f"bearer {key}"}),
        ("GET", "/accounts", {"X-Token": key}),
    ]
    async with asking(service, dev=False) as closed:
        for method, path, headers in asked:
            answer = await closed.request(method, path, headers=headers)
            assert answer.status_code in (200, 202), f"{path}: {answer.text}"
        for method, path, headers in asked:
            if "X-Token" not in headers:
                wrong = {"Authorization": headers["Authorization"].replace(" ", "", 1)}
                assert (await closed.request(method, path, headers=wrong)).status_code in (401, 503), path


REVOKED = "this API key has been revoked"


@pytest.mark.parametrize(
    ("path", "missing", "revoked", "lacking"),
    [
        ("/api/v1/verify", (401, "key_missing"), (403, "key_revoked"), (403, "scope_required")),
        (
            "/api/v1/users",
            (401, '{"detail":"Missing Authorization header"}'),
            (403, f'{{"detail":"{REVOKED}"}}'),
            (403, '{"detail":"this needs the scope admin"}'),
        ),
        (
            "/stats",
            (401, "401: Missing Authorization header"),
            (403, f"403: {REVOKED}"),
            (403, "403: this needs the scope billing:read"),
        ),
        (
            "/accounts",
            (422, '{"detail":[{"type":"missing","loc":["header","x-token"],"msg":"Field required"}]}'),
            (400, '{"detail":"Invalid X-Token header"}'),
            (403, '{"detail":"this needs the scope billing:read"}'),
        ),
        (
            "/admin/tier",
            (503, "no issuer of tokens is configured: set OIDC_ISSUER and CF_CLIENT_ID"),
            (401, "invalid token"),
            (403, "forbidden"),
        ),
    ],
)
async def test_every_surface_refuses_in_its_own_words(
    service: Service,
    client: httpx.AsyncClient,
    path: str,
    missing: tuple[int, str],
    revoked: tuple[int, str],
    lacking: tuple[int, str],
) -> None:
    ended, writer = await make(client, "admin"), await make(client, "usage:write")
    await client.delete(f"{KEYS}/{ended['id']}")
    async with asking(service, dev=False) as closed:
        for key, (status, said) in ((None, missing), (ended, revoked), (writer, lacking)):
            headers = {**bearer(key["key"]), "X-Token": key["key"]} if key else {}
            answer = await closed.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"] if path == "/api/v1/verify" else answer.text) == (
                status,
                said,
            )


async def test_erasing_takes_the_scope_and_the_second_factor(service: Service, client: httpx.AsyncClient) -> None:
    wiper, admin = (await make(client, "wipe"))["key"], (await make(client, "admin"))["key"]
    async with asking(service, dev=False, two_fa=SecretStr("second")) as closed:

        async def erase(key: str, **more: str) -> tuple[int, str]:
            answer = await closed.post("/agents/clear", headers={"X-Token": key, **more})
            return answer.status_code, answer.text

        assert await erase(admin, **{"TWO-FA": "second"}) == (403, '{"detail":"this needs the scope wipe"}')
        assert (await erase(wiper))[0] == 422
        assert await erase(wiper, **{"TWO-FA": "wrong"}) == (400, '{"detail":"Invalid 2FA header"}')
        assert (await erase(wiper, **{"TWO-FA": "second"}))[0] == 202
    async with asking(service, dev=False) as closed:
        assert (await erase(wiper, **{"TWO-FA": "second"}))[0] == 503


async def test_nobody_makes_a_key_that_may_do_more(client: httpx.AsyncClient, closed: httpx.AsyncClient) -> None:
    """``admin`` is not ``wipe``, nor may it give itself that."""
    wiper = await make(client, "admin", "wipe")
    admin = bearer((await make(client, "admin"))["key"])
    for path, body in (("", {"name": "mine", "scopes": ["billing:read", "wipe"]}), (f"/{wiper['id']}/rotate", {})):
        for headers in (admin, bearer("boss")):
            refused = await closed.post(f"{KEYS}{path}", json=body, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "scope_required")
            assert "wipe" in refused.json()["detail"]
    assert (await closed.delete(f"{KEYS}/{wiper['id']}", headers=bearer(wiper["key"]))).status_code == 200
    wiper = await make(client, "admin", "wipe")
    rotated = await closed.post(f"{KEYS}/{wiper['id']}/rotate", json={}, headers=bearer(wiper["key"]))
    assert (rotated.status_code, rotated.json()["scopes"]) == (201, ["admin", "wipe"])


async def test_without_any_key_there_is_nothing_to_ask_for(service: Service, client: httpx.AsyncClient) -> None:
    async with asking(service, dev=False) as closed:
        for method, path in (("GET", "/api/v1/meters"), ("POST", "/api/v1/bill"), ("GET", "/accounts")):
            assert (await closed.request(method, path)).status_code == 503, path
        await make(client, "admin")
        for method, path, status in (
            ("GET", "/api/v1/meters", 401),
            ("POST", "/api/v1/bill", 401),
            ("GET", "/accounts", 422),
        ):
            assert (await closed.request(method, path)).status_code == status, path


async def test_a_database_that_is_away_is_said_so_at_the_gate(service: Service, client: httpx.AsyncClient) -> None:
    key = (await make(client, "admin"))["key"]
    await service.pool.close()
    async with asking(service, dev=False, auth_token=SecretStr("t")) as closed:
        for path, status in (("/api/v1/meters", 503), ("/stats", 503), ("/admin/tier", 500), ("/accounts", 503)):
            with capture_logs() as logs:
                answer = await closed.get(path, headers={**bearer(key), "X-Token": key})
            assert (answer.status_code, "the database cannot be reached" in answer.text) == (status, True)
            assert "http.failure" not in str(logs)
        assert (await closed.get("/ping")).status_code == 200


# How often


async def test_a_key_may_come_so_often(
    service: Service, client: httpx.AsyncClient, closed: httpx.AsyncClient, clock: TestClock
) -> None:
    key, other = [await make(client, "admin", requests_per_minute=2) for _ in range(2)]
    for _ in range(2):
        assert (await closed.get("/api/v1/meters", headers=bearer(key["key"]))).status_code == 200
    refused = await closed.get("/api/v1/meters", headers=bearer(key["key"]))
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (
        429,
        "too_many_requests",
        "30",
    )
    assert (await closed.get("/api/v1/meters", headers=bearer(other["key"]))).status_code == 200
    clock.advance(timedelta(seconds=30))
    assert (await closed.get("/api/v1/meters", headers=bearer(key["key"]))).status_code == 200


async def test_every_surface_says_too_often_in_its_own_way(
    client: httpx.AsyncClient, closed: httpx.AsyncClient
) -> None:
    key = (await make(client, "admin", "usage:write", requests_per_minute=1))["key"]
    sentence = "this key may make 1 requests a minute"
    headers = {**bearer(key), "X-Token": key}
    assert (await closed.get("/api/v1/meters", headers=headers)).status_code == 200
    for method, path, status, said in (
        ("GET", "/api/v1/users", 429, f'{{"detail":"{sentence}"}}'),
        ("POST", "/write", 429, f"429: {sentence}"),
        ("GET", "/admin/tier", 429, sentence),
        ("GET", "/accounts", 429, f'{{"detail":"{sentence}"}}'),
    ):
        refused = await closed.request(method, path, headers=headers)
        assert (refused.status_code, refused.text, refused.headers["retry-after"]) == (status, said, "60"), path
    sender = await closed.post("/api/v1/prometheus/write", headers=headers)
    assert (sender.status_code, sender.json()["code"], sender.headers["retry-after"]) == (503, "busy", "60")


async def test_the_setting_holds_for_keys_without_a_limit_of_their_own(
    service: Service, client: httpx.AsyncClient
) -> None:
    free, limited = await make(client, "admin", requests_per_minute=3), await make(client, "admin")
    chosen = {"admin_api_keys": "boss", "api_keys": "shop"}  # pragma: allowlist secret
    async with asking(service, dev=False, key_requests_per_minute=1, **chosen) as closed:

        async def passed(key: str) -> int:
            asked = [await closed.get("/api/v1/meters", headers=bearer(key)) for _ in range(4)]
            return sum(answer.status_code == 200 for answer in asked)

        assert [await passed(key) for key in (free["key"], limited["key"], "boss", "shop")] == [3, 1, 1, 1]
        assert (await closed.get("/ping")).status_code == 200


# Pages of other origins


async def test_better_than_before_a_preflight_needs_no_key(service: Service) -> None:
    """``[B]`` of the credits service: its preflights got 401, so no page of another origin could call it."""
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    chosen = {"api_keys": "shop", "auth_token": SecretStr("t")}  # pragma: allowlist secret
    async with asking(service, dev=False, cors_allowed_origins="https://shop.example", **chosen) as closed:
        for path in ("/api/v1/bill", "/api/v1/events", "/write", "/accounts", "/admin/tier", "/api/v1/customers/a%2Fb"):
            answer = await closed.options(path, headers=asked)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
            assert "authorization" in answer.headers["access-control-allow-headers"]
            stranger = await closed.options(path, headers={**asked, "Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in stranger.headers
        refused = await closed.post("/api/v1/bill", headers={"Origin": "https://shop.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
    async with asking(service, dev=False, **chosen) as closed:
        plain = await closed.options("/api/v1/meters")
        assert (plain.status_code, plain.headers["allow"]) == (405, "GET")
        assert "access-control-allow-origin" not in (await closed.options("/api/v1/bill", headers=asked)).headers


# Nothing leaks


async def test_no_secret_is_logged_answered_or_seen_in_statements(service: Service, client: httpx.AsyncClient) -> None:
    planted = {"configured": "planted-key", "token": "planted-token", "factor": "planted-factor"}
    made = await make(client, "wipe", "admin")
    secret = made["key"].rpartition("_")[2]
    chosen = {
        "api_keys": planted["configured"],
        "auth_token": SecretStr(planted["token"]),
        "two_fa": SecretStr(planted["factor"]),
    }
    texts = [*planted.values(), made["key"], made["key"][:-1], f"{made['key']}x"]
    with capture_logs() as logs:
        async with asking(service, dev=False, **chosen) as closed, service.access.directory.running():
            said = []
            for text in texts:
                headers = {**bearer(text), "X-Token": text, "TWO-FA": text}
                for method, path in (
                    ("GET", "/api/v1/verify"),
                    ("GET", "/stats"),
                    ("POST", "/api/v1/bill"),
                    ("GET", "/admin/tier"),
                    ("GET", "/accounts"),
                    ("POST", "/agents/clear"),
                    ("GET", "/nothing"),
                    ("GET", KEYS),
                ):
                    answer = await closed.request(method, path, headers=headers)
                    said.append(f"{answer.headers} {answer.text}")
        async with service.pool.connection() as conn:
            seen = await (
                await conn.execute("select query from pg_stat_activity where datname = current_database()")
            ).fetchall()
            kept = await (await conn.execute("select k::text from api_keys as k")).fetchall()
    for where in (logs, said, seen, kept):
        assert where
        for text in (*planted.values(), secret):
            assert text not in str(where)
    assert "update api_keys" in str(seen)
