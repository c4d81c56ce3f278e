"""Who is let in where: every route with every kind of key, compared with what the documentation says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Send
from starlette.types import Scope as Request

from tallystick.access.callers import OF_CUSTOMERS, Scope
from tallystick.access.keys import OF_CLIENTS
from tallystick.access.model import NewKey, make_text
from tallystick.customers.model import NewCustomer
from tallystick.kernel.clock import TestClock
from tallystick.service import Service
from tallystick.web.app import ROUTERS, create_app
from tallystick.web.permissions import PERMISSIONS
from tallystick.web.problems import Surface, surface_of
from tests.doubles.oidc_provider import CLIENT_ID, Provider
from tests.web.conftest import settings

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "permissions.md"

LET_IN = 299
"""What the witness answers in the place of all routes."""

SECOND_FACTOR = "the second factor"
ACCOUNT_TOKEN = "the account token"
EVERYTHING = frozenset(Scope)
BUT_WIPE = EVERYTHING - {Scope.WIPE}
READ = frozenset({Scope.BILLING_READ})
WITH_TOKENS = frozenset({Surface.NATIVE, Surface.OPENSTACK, Surface.PLATFORM})
WITH_CONFIGURED_KEYS = frozenset({Surface.NATIVE, Surface.OPENSTACK})
EVERYWHERE = frozenset(Surface)


@dataclass(frozen=True)
class Row:
    """A route as the documentation has it; ``scope`` is missing where nobody is asked."""

    method: str
    route: str
    scope: Scope | None
    of_customers: str


def documented() -> list[Row]:
    """The rows of the tables."""
    lines = re.findall(r"^\| `(/\S*)` \| ([A-Z]+) \| (\S+) \| (no|yes|own) \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    return [
        Row(method, route, None if scope == "none" else Scope(scope.strip("`")), whose)
        for route, method, scope, whose in lines
    ]


ROWS = documented()
ROUTES = [route for router in ROUTERS for route in router.routes if isinstance(route, Route)]


# The table, the documentation and the routes are one


def test_the_documentation_has_every_route_once() -> None:
    there = sorted((method, route.path_format) for route in ROUTES for method in route.methods or ())
    assert sorted((row.method, row.route) for row in ROWS) == there


def test_the_documentation_says_what_the_table_says() -> None:
    words = {"NOBODY": "no", "ANYBODY": "yes", "OWN_PATH": "own", "OWN": "own"}
    table = {(name, permission.scope, words[permission.whose.name]) for name, permission in PERMISSIONS}
    assert {(f"{row.method} {row.route}", row.scope, row.of_customers) for row in ROWS} == table


def sample(route: str, **named: str) -> str:
    """A path of a route, with these in the place of its parameters, or anything."""
    return re.sub(r"\{(\w+)\}", lambda match: named.get(match[1], "x"), route)


def routed(method: str, path: str) -> str | None:
    """The template of the route that a request is given to."""
    scope = {"type": "http", "path": path, "root_path": "", "method": method, "headers": []}
    return next((route.path_format for route in ROUTES if route.matches(scope)[0] is Match.FULL), None)


def permitted(method: str, path: str) -> str | None:
    found = PERMISSIONS.find(method, path).permission
    return None if found is None else found.route


SEGMENTS = sorted({segment for route in ROUTES for segment in route.path_format.split("/") if "{" not in segment})
METHODS = sorted({method for route in ROUTES for method in route.methods or ()} | {"HEAD", "TRACE"})


def test_each_route_is_found_by_its_own_permission() -> None:
    for row in ROWS:
        path = sample(row.route)
        assert permitted(row.method, path) == routed(row.method, path) == row.route


@given(
    st.sampled_from(METHODS),
    st.lists(st.sampled_from([*SEGMENTS, "x", "a%2Fb", "%2e", "..", "%"]), max_size=8).map(
        lambda some: "/" + "/".join(some)
    )
    | st.builds(
        lambda row, at, cut: f"{sample(row.route)}{at}"[cut:], st.sampled_from(ROWS), st.text("/x"), st.integers(0, 3)
    ),
)
def test_no_path_is_let_in_by_the_permission_of_another_route(method: str, path: str) -> None:
    assert permitted(method, path) == routed(method, path)


def test_a_table_with_a_route_twice_is_none() -> None:
    from tallystick.web.permissions import Permissions, Whose

    with pytest.raises(ValueError, match="GET /a stands twice"):
        Permissions(((Scope.ADMIN, Whose.NOBODY, "GET /a"), (Scope.WIPE, Whose.NOBODY, "GET /a")))


# Every route, with every kind of key


@dataclass(frozen=True)
class Kind:
    """What a caller shows, and where that must be of use: for these scopes, on these surfaces.

    ``customer`` is whom it stands for, if not for everybody.
    """

    name: str
    text: str | None
    scopes: frozenset[Scope] = frozenset()
    surfaces: frozenset[Surface] = EVERYWHERE
    customer: str | None = None
    only: frozenset[Scope] = field(default=EVERYTHING)

    def headers(self) -> dict[str, str]:
        if self.text is None:
            return {}
        return {"Authorization": f"Bearer {self.text}", "X-Token": self.text, "TWO-FA": SECOND_FACTOR}

    def is_let_in(self, row: Row, path_of: str) -> bool:
        """As the documentation says, for a path of this customer."""
        if row.scope is None:
            return True
        if surface_of(row.route) not in self.surfaces or row.scope not in self.scopes:
            return False
        if self.customer is None or row.of_customers == "yes":
            return True
        # Whom a body or an item names, the route sees: see below.
        is_in_path = "{" in row.route and not row.route.startswith(("/customer/", "/api/v1/charges/"))
        return row.of_customers == "own" and (not is_in_path or self.customer == path_of)


async def _key(service: Service, scopes: Iterable[Scope], **more: Any) -> str:
    async with service.pool.connection() as conn, conn.transaction():
        return (await service.access.keys.create(conn, NewKey("kind", sorted(scopes), **more))).text


async def _kinds(service: Service, clock: TestClock, provider: Provider) -> list[Kind]:
    """All kinds of keys there are. Ada, Bob and Eve are customers, of whom Eve is deleted; ``gone`` was Ada's agent."""
    async with service.pool.connection() as conn, conn.transaction():
        ids = {name: (await service.accounts.create(conn, NewCustomer(name))).id for name in ("ada", "bob", "eve")}
        for name in ("bot", "blocked", "gone"):
            agent = await service.accounts.create_agent(conn, ids["ada"], f"{name}@example.org", name)
            ids[name] = agent.id
    expired = await _key(service, EVERYTHING, lives=timedelta(hours=1))
    clock.advance(timedelta(hours=1))
    revoked = await _key(service, EVERYTHING)
    ended = {name: await _key(service, OF_CUSTOMERS, agent=f"{name}@example.org") for name in ("blocked", "gone")}
    ended["eve"] = await _key(service, OF_CUSTOMERS, customer="eve")
    async with service.pool.connection() as conn, conn.transaction():
        await conn.execute("update api_keys set revoked_at = now() where digest = sha256(%s)", [revoked.encode()])
        await service.accounts.block(conn, ids["blocked"])
        await service.accounts.delete_agent(conn, ids["gone"])
        await service.accounts.delete(conn, ids["eve"])
    kinds = [
        Kind("nothing", None),
        Kind("something wrong", "wrong"),
        Kind("a key that was never made", make_text()),
        Kind("a token that was never signed", "a.b.c"),
        Kind("an expired key", expired),
        Kind("a revoked key", revoked),
        Kind("the key of a blocked agent", ended["blocked"]),
        Kind("the key of an agent that is no more", ended["gone"]),
        Kind("the key of a customer that is no more", ended["eve"]),
        Kind("a configured client's key", "shop", OF_CLIENTS, WITH_CONFIGURED_KEYS | {Surface.CREDITS_SERVICE}),
        Kind("a configured administrator's key", "boss", BUT_WIPE, WITH_CONFIGURED_KEYS),
        Kind(
            "a configured administrator's key, at the credits service",
            "boss",
            frozenset({Scope.ADMIN}),
            frozenset({Surface.CREDITS_SERVICE}),
        ),
        Kind("the account token", ACCOUNT_TOKEN, EVERYTHING, frozenset({Surface.ACCOUNTS})),
        Kind("an administrator's token", provider.token(clock.now()), BUT_WIPE, WITH_TOKENS),
        Kind(
            "a customer's token",
            provider.token(clock.now(), scope=["usage.read"], customer_id="ada"),
            READ,
            WITH_TOKENS,
            "ada",
        ),
        Kind("a token without a scope", provider.token(clock.now(), scope=[])),
    ]
    for scope in Scope:
        held = BUT_WIPE if scope is Scope.ADMIN else frozenset({scope})
        kinds.append(Kind(f"an operator's key with {scope}", await _key(service, [scope]), held))
    for scope in sorted(OF_CUSTOMERS):
        held = frozenset({scope})
        adas, bots = await _key(service, [scope], customer="ada"), await _key(service, [scope], agent="bot@example.org")
        kinds.append(Kind(f"a customer's key with {scope}", adas, held, customer="ada"))
        kinds.append(Kind(f"an agent's key with {scope}", bots, held, customer="ada"))
    return kinds


def chosen(provider: Provider) -> dict[str, Any]:
    """Settings with everything that may let somebody in."""
    return {
        "dev": False,
        "api_keys": "shop",  # pragma: allowlist secret
        "admin_api_keys": "boss",  # pragma: allowlist secret
        "auth_token": SecretStr(ACCOUNT_TOKEN),
        "two_fa": SecretStr(SECOND_FACTOR),
        "oidc_issuer": provider.url,
        "cf_client_id": CLIENT_ID,
    }


async def _witness(scope: Request, receive: Receive, send: Send) -> None:
    """Stands where the routes are, and answers all who come so far."""
    await Response(status_code=LET_IN)(scope, receive, send)


@pytest.fixture
async def guarded(service: Service, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    """The application with everything but its routes."""
    service = replace(service, settings=settings(**chosen(provider)))
    app = create_app(service)
    app.router.middleware_stack = _witness
    async with (
        service.access.directory.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tally") as client,
    ):
        yield client


async def test_every_route_lets_in_whom_the_documentation_says(
    guarded: httpx.AsyncClient, service: Service, clock: TestClock, provider: Provider
) -> None:
    kinds = await _kinds(service, clock, provider)
    async with service.pool.connection() as conn:
        ids = {name: (await service.customers.get(conn, name)).id for name in ("ada", "bob")}
    wrong = []
    for row in ROWS:
        for name in ("ada", "bob"):
            first = row.route.partition("{")[2].partition("}")[0]
            path = sample(row.route, **{first: str(ids[name]) if first == "account_id" else name})
            for kind in kinds:
                if "at the credits service" in kind.name and surface_of(row.route) is not Surface.CREDITS_SERVICE:
                    continue
                if kind.name == "a configured administrator's key" and surface_of(row.route) is Surface.CREDITS_SERVICE:
                    continue
                answer = await guarded.request(row.method, path, headers=kind.headers())
                if (answer.status_code == LET_IN) is not kind.is_let_in(row, name):
                    wrong.append(f"{kind.name} at {row.method} {path}: {answer.status_code} {answer.text[:100]}")
    assert not wrong, "\n".join(wrong[:20])
    assert len(ROWS) > 150
    assert len(kinds) > 30
