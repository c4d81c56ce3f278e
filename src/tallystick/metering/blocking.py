"""Blocking an agent: whatever carries it from then on is kept and counts as nothing, so that it costs nothing more."""

from __future__ import annotations

from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.agents import Agent, Agents
from tallystick.pricing.service import Pricing

BLOCKED = "its agent is blocked: kept, and not charged"
"""The remark of such a measurement, whose quantity is 0 whatever its value is."""


class Blocking:
    """Blocks and unblocks at once: usage that was on its way is recorded first, what comes after sees the change.

    Works in the caller's transaction, which keeps all usage waiting until it ends.
    """

    def __init__(self, pricing: Pricing, agents: Agents) -> None:
        self._pricing = pricing
        self._agents = agents

    async def block(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """Nothing that the agent uses is charged from now on. Raises ``NotFound``."""
        await self._pricing.change(conn)
        return await self._agents.block(conn, agent_id)

    async def unblock(self, conn: AsyncConnection, agent_id: UUID) -> Agent:
        """What the agent uses is charged from now on, and not what it used meanwhile. Raises ``NotFound``."""
        await self._pricing.change(conn)
        return await self._agents.unblock(conn, agent_id)
