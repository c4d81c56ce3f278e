"""Every type of event there is, with its meaning and an example of its data, as `docs/reference/events.md` has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_ACCOUNT_ID: Final = "5f0c7d1e-7b43-4c0a-9f0e-3d1f5b8a2c61"
_AGENT_ID: Final = "b7a0f1d2-06f4-4f0b-8a55-9f6f0c1f7e3d"
_ACCOUNT: Final = {"id": _ACCOUNT_ID, "name": "Ada Ltd", "email": "ada@example.org"}
_AGENT: Final = {
    "id": _AGENT_ID,
    "account_id": _ACCOUNT_ID,
    "name": "Bot",
    "email": "bot@example.org",
    "blocked": False,
}


@dataclass(frozen=True, slots=True)
class EventType:
    """A type of event.

    ``data`` is an example. ``original`` is the routing key under which the account management always told it, with the
    bare ``id`` of its data as the body; ``None`` if it never did.
    """

    name: str
    meaning: str
    data: Mapping[str, Any]
    original: str | None = None


ACCOUNT_CREATED: Final = EventType(
    "account.created",
    "An account, which is a customer, was made on any surface.",
    _ACCOUNT,
    "create.account.{region}.{standing}",
)
ACCOUNT_CHANGED: Final = EventType(
    "account.changed",
    "Name, e-mail, region or VIP of an account changed; `before` has the region and VIP it had.",
    {**_ACCOUNT, "before": {"region": "nam", "vip": False}},
)
ACCOUNT_DELETED: Final = EventType(
    "account.deleted",
    "An account was deleted. An `agent.deleted` for each of its agents follows.",
    {"id": _ACCOUNT_ID},
    "delete.account.{region}.{standing}",
)
AGENT_CREATED: Final = EventType("agent.created", "An account has a new agent.", _AGENT, "create.agent.{region}")
AGENT_CHANGED: Final = EventType("agent.changed", "Name or e-mail of an agent changed.", _AGENT)
AGENT_DELETED: Final = EventType(
    "agent.deleted",
    "An agent was deleted, alone or with its account.",
    {"id": _AGENT_ID, "account_id": _ACCOUNT_ID},
    "delete.agent.{region}",
)
AGENT_BLOCKED: Final = EventType(
    "agent.blocked",
    "From now on what an agent uses is kept and not charged.",
    {**_AGENT, "blocked": True},
    "block.agent.{region}",
)
AGENT_UNBLOCKED: Final = EventType(
    "agent.unblocked", "From now on what an agent uses is charged again.", _AGENT, "unblock.agent.{region}"
)

CATALOGUE: Final[Mapping[str, EventType]] = {
    each.name: each
    for each in (
        ACCOUNT_CREATED,
        ACCOUNT_CHANGED,
        ACCOUNT_DELETED,
        AGENT_CREATED,
        AGENT_CHANGED,
        AGENT_DELETED,
        AGENT_BLOCKED,
        AGENT_UNBLOCKED,
    )
}
