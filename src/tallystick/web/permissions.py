"""What each route asks of its caller: one table, looked up before anything of a request is read.

``docs/reference/permissions.md`` shows it, and a test walks all routes with all kinds of keys and compares. A route
that is not in the table is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple
from urllib.parse import unquote
from uuid import UUID

from tallystick.access.callers import Caller, OperatorsOnly, Scope
from tallystick.web.problems import Surface, surface_of


class Whose(Enum):
    """Which of those that stand for one customer may use a route; operators may use all."""

    NOBODY = auto()  # it concerns more than one customer
    ANYBODY = auto()  # what it shows is about no customer
    OWN_PATH = auto()  # whose customer is the one that the path names
    OWN = auto()  # whose customer it is about: the route looks, because that stands in the body or the answer


@dataclass(frozen=True, slots=True)
class Permission:
    """What is asked for at one route; without a ``scope``, nothing. ``place`` is where its path names a customer."""

    route: str
    scope: Scope | None
    whose: Whose
    place: int
    by_id: bool
    surface: Surface

    def check(self, caller: Caller, segments: list[str]) -> None:
        """Raises ``ScopeRequired``, ``OperatorsOnly`` or ``OtherCustomer``."""
        if self.scope is not None:
            caller.need(self.scope)
        if caller.sender is None:
            return
        if self.whose is Whose.NOBODY:
            raise OperatorsOnly
        if self.whose is Whose.OWN_PATH:
            named = unquote(segments[self.place], errors="surrogateescape")
            if self.by_id:
                caller.need_customer_of_id(_uuid(named))
            else:
                caller.need_customer(named, "key")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


_NOBODY, _ANYBODY, _OWN_PATH, _OWN = Whose.NOBODY, Whose.ANYBODY, Whose.OWN_PATH, Whose.OWN
_OPEN = None

_ROWS: Final[tuple[tuple[Scope | None, Whose, str], ...]] = (
    (
        _OPEN,
        _ANYBODY,
        """
        GET /
        GET /ping
        GET /api/v1/health
        GET /openapi.json
        GET /docs
        GET /docs/{name}
        GET /api/doc
        """,
    ),
    (
        Scope.USAGE_WRITE,
        _OWN,
        """
        POST /api/v1/events
        POST /write
        POST /api/v2/write
        POST /api/v1/prometheus/write
        """,
    ),
    (
        Scope.BILLING_READ,
        _ANYBODY,
        """
        GET /api/v1/assets
        GET /api/v1/assets/{code}
        GET /api/v1/assets/{code}/rates
        GET /api/v1/meters
        GET /api/v1/meters/{key}
        GET /api/v1/tiers
        GET /api/v1/tiers/{name}
        GET /api/metrics
        POST /api/costs_per_hour
        """,
    ),
    (
        Scope.BILLING_READ,
        _OWN_PATH,
        """
        GET /api/v1/customers/{key}
        GET /api/v1/customers/{key}/agents
        GET /api/v1/customers/{key}/agreements
        GET /api/v1/customers/{key}/agreements/{agreement_id}
        GET /api/v1/customers/{key}/balances
        GET /api/v1/customers/{key}/bill
        GET /api/v1/customers/{key}/charges
        GET /api/v1/customers/{key}/exchanges
        GET /api/v1/customers/{key}/exchanges/{exchange_id}
        GET /api/v1/customers/{key}/grants
        GET /api/v1/customers/{key}/grants/{grant_id}
        GET /api/v1/customers/{key}/holds
        GET /api/v1/customers/{key}/holds/{hold_id}
        GET /api/v1/customers/{key}/postings
        GET /api/v1/customers/{key}/postings/{posting_id}/lines
        GET /api/v1/customers/{key}/resources
        GET /api/v1/customers/{key}/resources/{meter}/{resource}
        GET /api/v1/customers/{key}/transactions
        GET /api/v1/customers/{key}/usage
        GET /api/credits_history/{project_name}
        GET /accounts/{account_id}
        GET /accounts/{account_id}/agents
        GET /accounts/{account_id}/agents/{agent_id}
        POST /accounts/generate_company_report/{account_id}
        POST /accounts/generate_company_raport/{account_id}
        """,
    ),
    (
        Scope.BILLING_READ,
        _OWN,
        """
        GET /api/v1/charges/{charge_id}
        POST /api/v1/balance
        GET /customer/{key}/usage
        GET /customer/{key}/balance
        GET /customer/{key}/price
        """,
    ),
    (
        Scope.BILLING_READ,
        _NOBODY,
        """
        GET /api/v1/agents/{agent_id}
        GET /api/v1/customers
        GET /api/v1/customers/{key}/ancestors
        GET /api/v1/customers/{key}/descendants
        GET /api/v1/customers/{key}/usage/tree
        GET /api/v1/postings
        GET /api/v1/prices
        GET /metrics
        GET /stats
        GET /accounts
        GET /agents
        POST /agents/find_agent/{email}
        """,
    ),
    (
        Scope.BILLING_CHARGE,
        _OWN_PATH,
        """
        POST /api/v1/customers/{key}/holds
        POST /api/v1/customers/{key}/holds/{hold_id}/settle
        DELETE /api/v1/customers/{key}/holds/{hold_id}
        """,
    ),
    (Scope.BILLING_CHARGE, _OWN, "POST /api/v1/bill"),
    (
        Scope.BILLING_CHARGE,
        _NOBODY,
        """
        POST /api/v1/accounts
        POST /api/v1/topup
        """,
    ),
    (
        Scope.CUSTOMERS_WRITE,
        _OWN_PATH,
        """
        POST /api/v1/customers/{key}/agents
        GET /api/v1/customers/{key}/maintainers
        PUT /api/v1/customers/{key}/maintainers
        PUT /api/v1/customers/{key}/resources
        POST /api/v1/customers/{key}/resources/move
        PUT /api/v1/customers/{key}/resources/{meter}/{resource}
        DELETE /api/v1/customers/{key}/resources/{meter}/{resource}
        GET /api/v1/customers/{key}/webhooks
        POST /api/v1/customers/{key}/webhooks
        GET /api/v1/customers/{key}/webhooks/{webhook_id}
        PATCH /api/v1/customers/{key}/webhooks/{webhook_id}
        DELETE /api/v1/customers/{key}/webhooks/{webhook_id}
        GET /api/v1/customers/{key}/webhooks/{webhook_id}/deliveries
        POST /api/v1/customers/{key}/webhooks/{webhook_id}/replay
        POST /api/v1/customers/{key}/webhooks/{webhook_id}/rotate
        POST /api/v1/customers/{key}/webhooks/{webhook_id}/test
        POST /accounts/{account_id}/agents
        PUT /accounts/{account_id}/agents/{agent_id}
        DELETE /accounts/{account_id}/agents/{agent_id}
        """,
    ),
    (
        Scope.CUSTOMERS_WRITE,
        _NOBODY,
        """
        PATCH /api/v1/agents/{agent_id}
        DELETE /api/v1/agents/{agent_id}
        POST /api/v1/customers
        PATCH /api/v1/customers/{key}
        DELETE /api/v1/customers/{key}
        PUT /api/v1/customers/{key}/parent
        POST /accounts
        PUT /accounts/{account_id}
        DELETE /accounts/{account_id}
        """,
    ),
    (
        Scope.COMPLIANCE,
        _NOBODY,
        """
        POST /api/v1/agents/{agent_id}/block
        POST /api/v1/agents/{agent_id}/unblock
        POST /agents/block_agent/{agent_id}
        POST /agents/unblock_agent/{agent_id}
        """,
    ),
    (
        Scope.ADMIN,
        _NOBODY,
        """
        PUT /api/v1/assets/{code}
        POST /api/v1/assets/{code}/rates
        POST /api/v1/customers/{key}/agreements
        PATCH /api/v1/customers/{key}/agreements/{agreement_id}
        POST /api/v1/customers/{key}/exchanges
        POST /api/v1/customers/{key}/grants
        DELETE /api/v1/customers/{key}/grants/{grant_id}
        PUT /api/v1/customers/{key}/payer
        PUT /api/v1/customers/{key}/posting-policy
        GET /api/v1/jobs
        GET /api/v1/jobs/{job_id}
        POST /api/v1/jobs/{job_id}/retry
        GET /api/v1/keys
        POST /api/v1/keys
        GET /api/v1/keys/{key_id}
        DELETE /api/v1/keys/{key_id}
        POST /api/v1/keys/{key_id}/rotate
        GET /api/v1/kinds
        GET /api/v1/kinds/{meter}
        PUT /api/v1/kinds/{meter}
        PUT /api/v1/meters/{key}
        GET /api/v1/notices
        GET /api/v1/notices/{notice_id}
        POST /api/v1/notices/{notice_id}/retry
        GET /api/v1/notices/rules
        POST /api/v1/notices/rules
        DELETE /api/v1/notices/rules/{rule_id}
        GET /api/v1/notices/rules/{rule_id}/preview
        POST /api/v1/postings
        POST /api/v1/prices
        GET /api/v1/pulls
        GET /api/v1/quarantine
        GET /api/v1/quarantine/{piece_id}
        PUT /api/v1/quarantine/{piece_id}
        POST /api/v1/quarantine/replay
        GET /api/v1/readings
        POST /api/v1/readings
        GET /api/v1/readings/{reading_id}
        GET /api/v1/test-clock
        PUT /api/v1/test-clock
        PUT /api/v1/tiers/{name}
        GET /api/v1/users
        GET /api/v1/users/{user_id}
        GET /api/v1/users/{user_id}/transactions
        GET /api/v1/verify
        GET /api/v1/webhooks
        POST /api/v1/webhooks
        GET /api/v1/webhooks/{webhook_id}
        PATCH /api/v1/webhooks/{webhook_id}
        DELETE /api/v1/webhooks/{webhook_id}
        GET /api/v1/webhooks/{webhook_id}/deliveries
        POST /api/v1/webhooks/{webhook_id}/replay
        POST /api/v1/webhooks/{webhook_id}/rotate
        POST /api/v1/webhooks/{webhook_id}/test
        POST /logconfig
        GET /admin/account-type
        GET /admin/customer/{key}/transaction
        GET /admin/kind
        GET /admin/kind/{meter}
        PUT /admin/kind/{meter}
        GET /admin/org
        GET /admin/org/{guid}
        PUT /admin/org/{guid}
        GET /admin/price
        POST /admin/price
        GET /admin/price/{price_id}
        PUT /admin/price/{price_id}
        GET /admin/reading
        GET /admin/reading/{reading_id}
        GET /admin/tier
        POST /admin/tier
        GET /admin/tier/{name}
        PUT /admin/tier/{name}
        POST /admin/usage/app/{guid}
        POST /admin/usage/job
        """,
    ),
    (
        Scope.WIPE,
        _NOBODY,
        """
        POST /accounts/clear
        POST /agents/clear
        POST /dev/erase_db
        """,
    ),
)
"""By scope, and by who of the customers may come with it. ``Scope.ADMIN`` stands for all but ``Scope.WIPE``."""


class Found(NamedTuple):
    """What is asked for at a path; without a permission, there is nothing for this method."""

    permission: Permission | None
    segments: list[str]
    surface: Surface
    scope: Scope | None


@dataclass(slots=True)
class _Node:
    """What may follow a part of a path: a segment by its text, or any."""

    named: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    methods: dict[str, Permission] = field(default_factory=dict)


class Permissions:
    """The table, as a tree of segments: what is looked up takes as long as the path is deep."""

    def __init__(self, rows: tuple[tuple[Scope | None, Whose, str], ...] = _ROWS) -> None:
        self._root = _Node()
        self._all: dict[str, Permission] = {}
        self._methods: set[str] = set()
        for scope, whose, routes in rows:
            for line in routes.strip().splitlines():
                method, route = line.split()
                self._add(method, Permission(route, scope, whose, *_customer_in(route), surface_of(route)))

    def __iter__(self) -> Iterator[tuple[str, Permission]]:
        """Method and route as they stand in the OpenAPI document, with what is asked for there."""
        return iter(self._all.items())

    def find(self, method: str, path: str) -> Found:
        """What is asked for at a path as it was sent, that is with its percent-encoding."""
        segments = path.split("/")
        permission = _find(self._root, segments, 0, method)
        if permission is not None:
            return Found(permission, segments, permission.surface, permission.scope)
        return Found(None, segments, surface_of(path), None)

    def methods(self, segments: list[str]) -> list[str]:
        """The methods that there are at a path of these segments."""
        return sorted(method for method in self._methods if _find(self._root, segments, 0, method) is not None)

    def of_route(self, method: str, route: str) -> Permission | None:
        """What is asked for at a route by its template."""
        return self._all.get(f"{method} {route}")

    def _add(self, method: str, permission: Permission) -> None:
        name = f"{method} {permission.route}"
        if name in self._all:
            raise ValueError(f"{name} stands twice in the table of permissions")
        self._all[name] = permission
        self._methods.add(method)
        node = self._root
        for segment in permission.route.split("/"):
            if segment.startswith("{"):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.named.setdefault(segment, _Node())
        node.methods[method] = permission


def _find(node: _Node, segments: list[str], depth: int, method: str) -> Permission | None:
    """The permission of a path from here on; what is named goes before what is not, as routes are tried."""
    if depth == len(segments):
        return node.methods.get(method)
    segment = segments[depth]
    named = node.named.get(segment)
    if named is not None and (found := _find(named, segments, depth + 1, method)) is not None:
        return found
    if node.any is not None and segment:
        return _find(node.any, segments, depth + 1, method)
    return None


def _customer_in(route: str) -> tuple[int, bool]:
    """Where a route's path names a customer, which is its first parameter, and whether by its id."""
    segments = route.split("/")
    place = next((place for place, segment in enumerate(segments) if segment.startswith("{")), 0)
    return place, segments[place] == "{account_id}"


PERMISSIONS: Final = Permissions()
