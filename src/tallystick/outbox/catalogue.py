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
WEBHOOK_DISABLED: Final = EventType(
    "webhook.disabled",
    "A webhook is told nothing any more, because it wanted no more or failed for days. Of one that heard of all"
    " customers it is told without a subject, for the region `all`.",
    {
        "id": "01988a3c-5b1e-7c55-a7a5-1f6f3f0e9d11",
        "description": "the desk in Vienna",
        "because": "it took nothing for 5 days",
        "failing_since": "2026-11-15T12:00:00.250000+00:00",
    },
)
_RULE: Final = {"id": "8c1f4a52-5a0e-4b7d-9a0c-6d2f3b1e7f90", "kind": "share", "threshold": "0.2"}
_BALANCE: Final = {
    "notice": "3c9d2c0e-8f5f-4d0a-b1d6-0f5e0b1a7c44",
    "asset": "CREDIT",
    "balance": "19.5",
    "granted": "100",
    "rule": _RULE,
}
BALANCE_LOW: Final = EventType(
    "balance.low",
    "A balance has come to a level, or will have run out within days: a notice was raised. The `threshold` is a share"
    " of what was granted, an amount, or days, as `kind` is `share`, `balance` or `forecast`.",
    _BALANCE,
)
BALANCE_EXHAUSTED: Final = EventType(
    "balance.exhausted",
    "Nothing is left of a balance, or less: a notice was raised.",
    {**_BALANCE, "balance": "0", "rule": {**_RULE, "threshold": "0"}},
)

_GRANT: Final = {
    "id": "01989f64-0f4e-7f0c-9f57-0d3f6f1b2a10",
    "asset": "CREDIT",
    "amount": "100",
    "category": "promotional",
}
GRANT_MADE: Final = EventType(
    "grant.made",
    "Credits of a grant have come in: given, topped up, from an agreement, or scheduled before and due now.",
    {**_GRANT, "priority": 100, "source": "", "reason": "welcome", "expires_at": "2027-01-01T00:00:00+00:00"},
)
GRANT_EXPIRED: Final = EventType(
    "grant.expired",
    "A grant has reached its end. `left` was not used by then, and is taken away as soon as no hold has reserved it.",
    {**_GRANT, "left": "12.5"},
)
GRANT_VOIDED: Final = EventType(
    "grant.voided", "A grant was voided. `left` was not used by then, and is taken back.", {**_GRANT, "left": "12.5"}
)
PRICE_CHANGED: Final = EventType(
    "price.changed",
    "A price was added. It ends the one before it where it starts. One for everybody is told without a subject, for the"
    " region `all`; the subject of another is the customer whose own it is.",
    {
        "id": "01989f64-2b1c-7d0e-8a43-6a1f0c5d7e88",
        "meter": "tokens",
        "kind": "gpt",
        "customer": None,
        "effective_from": "2026-12-01T05:00:00+00:00",
        "asset": "CREDIT",
        "quantum": "0.000001",
        "model": {"type": "per_unit", "amount": "2"},
    },
)
USAGE_UNPRICED: Final = EventType(
    "usage.unpriced",
    "Usage of this meter and kind has no price, for the first time of this customer in this business month. It is kept,"
    " and charged once it has one.",
    {"meter": "tokens", "kind": "gpt", "month": "2026-11"},
)
USAGE_POSTED: Final = EventType(
    "usage.posted",
    "What a month of usage came to has moved in the books of the customer who pays, and is posted monthly."
    " `supplement` is 0 at first, and counts what is posted later.",
    {
        "id": "7b1f9a53-3f5c-5f0b-a4a6-6b0c3c1d2e4f",
        "month": "2026-10",
        "supplement": 0,
        "asset": "CREDIT",
        "amount": "1234.5",
    },
)
READING_FAILED: Final = EventType(
    "reading.failed",
    "A reading has ended, and nothing could be read of its source (`failed`), or not all (`partial`). It is about no"
    " customer: told without a subject, for the region `all`.",
    {
        "id": "2f6c1b0a-9d3e-5a7b-8c4d-1e2f3a4b5c6d",
        "source": "cloud_foundry",
        "state": "failed",
        "interval_start": "2026-11-20T12:00:00+00:00",
        "failures": 1,
        "detail": "the platform cannot be reached",
    },
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
        WEBHOOK_DISABLED,
        BALANCE_LOW,
        BALANCE_EXHAUSTED,
        GRANT_MADE,
        GRANT_EXPIRED,
        GRANT_VOIDED,
        PRICE_CHANGED,
        USAGE_UNPRICED,
        USAGE_POSTED,
        READING_FAILED,
    )
}
