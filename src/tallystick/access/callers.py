"""Who calls, and what that one may do: the same for every way in.

Pure. A key, a token or a header is turned into a ``Caller`` once, at the gate; whatever comes after asks that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from tallystick.kernel.errors import TallyError
from tallystick.metering.model import Sender


class Scope(StrEnum):
    """What a key may be used for."""

    USAGE_WRITE = "usage:write"
    BILLING_READ = "billing:read"
    BILLING_CHARGE = "billing:charge"
    CUSTOMERS_WRITE = "customers:write"
    COMPLIANCE = "compliance"
    ADMIN = "admin"
    WIPE = "wipe"


OF_CUSTOMERS: Final = frozenset({Scope.USAGE_WRITE, Scope.BILLING_READ, Scope.BILLING_CHARGE, Scope.CUSTOMERS_WRITE})
"""What a key of a customer or of its agent may have. The others are about everybody."""


class ScopeRequired(TallyError):
    """The caller is known, and may not do this. ``scope`` is what it lacks."""

    code = "scope_required"
    status = 403

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"this needs the scope {scope}")
        self.scope = scope


class OperatorsOnly(TallyError):
    """It concerns more than one customer, so keys of customers do not open it, whatever their scopes."""

    code = "operators_only"
    status = 403

    def __init__(self) -> None:
        super().__init__("this concerns more than one customer: it needs a key of an operator")


class OtherCustomer(TallyError):
    """A caller that stands for one customer asks for something of another. It is not told whether that one is there."""

    code = "other_customer"
    status = 403

    def __init__(self, field: str | None = None) -> None:
        super().__init__("this key stands for another customer", field=field)


class OtherAgent(TallyError):
    """A caller that stands for one agent names another."""

    code = "other_agent"
    status = 403

    def __init__(self, field: str | None = None) -> None:
        super().__init__("this key stands for another agent", field=field)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Without a ``sender`` it is an operator; else it stands for a customer, and perhaps for its agent.

    ``id`` names whatever it has shown, for counting its requests; ``requests_per_minute`` is its own limit, if any.
    """

    scopes: frozenset[Scope]
    sender: Sender | None = None
    id: UUID | None = None
    requests_per_minute: int | None = None
    every_scope: frozenset[Scope] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        everything = frozenset(Scope) - {Scope.WIPE} if Scope.ADMIN in self.scopes else frozenset()
        object.__setattr__(self, "every_scope", self.scopes | everything)

    def need(self, scope: Scope) -> None:
        """Raises ``ScopeRequired`` if the caller lacks it; ``admin`` stands for all but ``wipe``."""
        if scope not in self.every_scope:
            raise ScopeRequired(scope)

    def need_customer(self, key: str, field: str) -> None:
        """Raises ``OtherCustomer`` if the caller stands for another customer than this one."""
        if self.sender is not None and self.sender.customer != key:
            raise OtherCustomer(field)

    def need_customer_of_id(self, customer_id: UUID | None) -> None:
        """As ``need_customer``, by id; ``None`` is the id of nobody."""
        if self.sender is not None and self.sender.customer_id != customer_id:
            raise OtherCustomer

    def agent(self, named: str | None) -> str | None:
        """For which agent something is asked: the one that is named, or whom the caller stands for.

        Raises ``OtherAgent`` if these are not the same.
        """
        if self.sender is None or self.sender.agent_id is None:
            return named
        if named is not None and not self.sender.is_agent(named):
            raise OtherAgent("agent")
        return named or str(self.sender.agent_id)


NOBODY: Final = Caller(frozenset())
"""Where nobody is asked who calls."""

EVERYTHING: Final = Caller(frozenset(Scope))
"""Where nobody is asked, and everybody may do everything: ``tally serve --dev``."""
