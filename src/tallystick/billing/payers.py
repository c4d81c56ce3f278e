"""Changing who pays for a customer, and when its usage is posted. Both hold from now on; the past stays as it was.

What was charged until now stays in the books of whoever paid for it, and what was not posted yet is posted there first.
Only what a customer owes that had paid for itself goes along, to whoever pays from now on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.billing.posting import Postings
from tallystick.customers.model import Customer
from tallystick.customers.service import Customers, check_policies
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput
from tallystick.kernel.ids import derived_id
from tallystick.kernel.text import check_key
from tallystick.ledger.assets import Assets
from tallystick.ledger.contract import Ledger
from tallystick.ledger.wallets import Movement, Payer, PostingPolicy, TransferCode, Wallets
from tallystick.pricing.service import Pricing

_SQL = Queries(Path(__file__).with_suffix(".sql"))


class Payers:
    """Works in the caller's transaction, which keeps all usage waiting until it ends."""

    def __init__(
        self,
        clock: Clock,
        customers: Customers,
        pricing: Pricing,
        assets: Assets,
        ledger: Ledger,
        wallets: Wallets,
        postings: Postings,
    ) -> None:
        self._clock = clock
        self._customers = customers
        self._pricing = pricing
        self._assets = assets
        self._ledger = ledger
        self._wallets = wallets
        self._postings = postings

    async def change(self, conn: AsyncConnection, key: str, payer: str | None) -> Customer:
        """Has ``payer`` (a key) pay for a customer from now on; ``None``, or its own key: the customer itself.

        What it owes goes to the new payer. Asking again changes nothing. Raises ``NotFound`` without such a customer,
        ``InvalidInput`` if the payer does not exist or does not pay for itself, ``Conflict`` if the customer pays for
        others.
        """
        wanted = None if payer == key else payer
        if (await self._customers.get(conn, key)).payer == wanted:
            return await self._customers.get(conn, key)
        change = await self._pricing.change(conn)
        customer = await self._customers.get(conn, key)
        if customer.payer != wanted:
            before = (await self._customers.find(conn, [key]))[key][1]
            after = await self._wanted(conn, customer, wanted)
            await self._hand_over(conn, customer, before, after, change)
        return await self._customers.get(conn, key)

    async def set_posting_policy(self, conn: AsyncConnection, key: str, policy: PostingPolicy) -> Customer:
        """Has usage that a customer pays for posted at once, or monthly, from now on. Asking again changes nothing.

        Raises ``NotFound`` without such a customer, ``InvalidInput`` for ``monthly`` if it is prepaid.
        """
        check_policies((await self._customers.get(conn, key)).credit_policy, policy)
        await self._pricing.change(conn)
        customer = await self._customers.get(conn, key)
        if customer.posting_policy != policy:
            rows = await conn.execute(_SQL.paid_for, {"id": customer.id})
            paid_for = [customer_id for (customer_id,) in await rows.fetchall()]
            if policy == "monthly":
                await self._postings.begin(conn, paid_for)
            else:
                await self._postings.settle(conn, paid_for)
            await conn.execute(_SQL.set_posting_policy, {"id": customer.id, "posting_policy": policy})
        return await self._customers.get(conn, key)

    async def _wanted(self, conn: AsyncConnection, customer: Customer, key: str | None) -> Payer:
        if key is None:
            return _itself(customer)
        if await (await conn.execute(_SQL.pays_for_others, {"id": customer.id})).fetchone():
            raise Conflict(f"{customer.key!r} pays for others, so nobody else can pay for it", field="payer")
        check_key(key, "payer")
        found = (await self._customers.find(conn, [key])).get(key)
        if found is None:
            raise InvalidInput(f"payer names no customer: {key!r}", field="payer")
        payer_id, payer = found
        if payer.id != payer_id:
            raise InvalidInput(f"payer must pay for itself, which {key!r} does not", field="payer")
        return payer

    async def _hand_over(
        self, conn: AsyncConnection, customer: Customer, before: Payer, after: Payer, change: int
    ) -> None:
        balances = await self._balances(conn, customer.id)
        for ledger, amount in (await self._postings.settle(conn, [customer.id])).items():
            balances[ledger] = balances.get(ledger, 0) - amount
        if before.id == customer.id:
            debts = {ledger: -balance for ledger, balance in balances.items() if balance < 0}
            await self._take_over(conn, customer, after, debts, change)
        if before.posting_policy == "immediate" and after.posting_policy == "monthly":
            await self._postings.begin(conn, [customer.id])
        own = after.id == customer.id
        await conn.execute(_SQL.set_payer, {"id": customer.id, "payer_id": None if own else after.id})
        await conn.execute(_SQL.note_former, {"id": customer.id, "payer_id": before.id, "now": self._clock.now()})

    async def _balances(self, conn: AsyncConnection, customer_id: UUID) -> dict[int, int]:
        """What a customer's own wallets hold less what it owes, by ledger; nobody moves any of it until the end."""
        await self._ledger.serialise(conn)
        return {
            ledger: (await self._wallets.left(conn, [customer_id], ledger, serialised=True))[customer_id].balance
            for ledger in await self._assets.held(conn, customer_id)
        }

    async def _take_over(
        self, conn: AsyncConnection, customer: Customer, payer: Payer, debts: dict[int, int], change: int
    ) -> None:
        """Moves what the customer owes to its payer: it has used that much less, the payer that much more."""
        movements: list[Movement] = []
        for ledger, debt in debts.items():
            cause = derived_id("takeover", customer.id, str(change), str(ledger))
            movements += [
                Movement(cause, _itself(customer), ledger, -debt),
                Movement(derived_id("taken over", cause), payer, ledger, debt, cause),
            ]
        await self._describe(conn, movements, f"What {customer.key} owed")
        await self._wallets.charge(conn, movements, TransferCode.TAKEOVER)

    async def _describe(self, conn: AsyncConnection, movements: Sequence[Movement], description: str) -> None:
        parameters = {
            "owner_ids": UuidArray(movement.payer.id for movement in movements),
            "transfer_ids": UuidArray(movement.id for movement in movements),
            "descriptions": [description] * len(movements),
        }
        await conn.execute(_SQL.describe, parameters)


def _itself(customer: Customer) -> Payer:
    return Payer(customer.id, customer.credit_policy, customer.posting_policy)
