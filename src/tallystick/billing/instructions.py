"""Money that somebody moves by instruction: opening a wallet, topping it up, granting, billing.

Instructions are orders, handed in at ``ledger.desk``: those that arrive together are carried out in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.queries import Queries
from tallystick.kernel.errors import TallyError
from tallystick.kernel.money import format_amount
from tallystick.ledger.contract import Ledger, LedgerRefusal, Result, Status
from tallystick.ledger.desk import Answer, Desk, fingerprint
from tallystick.ledger.grant_model import DEFAULT_PRIORITY
from tallystick.ledger.wallets import (
    CreditPolicy,
    InsufficientCredits,
    Left,
    Movement,
    Payer,
    TransferCode,
    Wallets,
)

_SQL = Queries(Path(__file__).with_name("instructions.sql"))


class UnknownCustomer(TallyError):
    """The instruction names a customer that does not exist."""

    code = "customer_not_found"
    status = 404


class CustomerExists(TallyError):
    """A customer with this key exists already."""

    code = "customer_exists"
    status = 409


@dataclass(frozen=True, slots=True)
class Instruction:
    """What is to be done for ``customer`` (a key).

    ``amount`` is in microunits of the asset whose ledger number is ``ledger``. ``id`` names the instruction: a fresh
    UUIDv7, or derived from ``idempotency_key`` if the caller gave one.
    """

    id: UUID
    type: Literal["open", "top_up", "grant", "bill"]
    customer: str
    ledger: int
    amount: int
    description: str | None = None
    idempotency_key: str | None = None
    credit_policy: CreditPolicy = "prepaid"

    @property
    def fingerprint(self) -> bytes:
        """What must be the same when a key comes again."""
        return fingerprint(self.type, self.customer, self.ledger, self.amount, self.description, self.credit_policy)


class Instructions:
    """Opens wallets, tops them up, grants and bills."""

    def __init__(self, desk: Desk, customers: Customers, ledger: Ledger, wallets: Wallets) -> None:
        self._desk = desk
        self._customers = customers
        self._ledger = ledger
        self._wallets = wallets
        self._moves = (
            (("open", "top_up"), partial(wallets.grant, code=TransferCode.TOP_UP)),
            (("grant",), partial(wallets.grant, code=TransferCode.GRANT)),
            (("bill",), wallets.bill),
        )
        desk.register(("open", "top_up", "grant", "bill"), self._handle)

    async def carry_out(self, instruction: Instruction) -> int:
        """Carries out one instruction and returns the balance after it, in microunits.

        Raises ``UnknownCustomer``, ``CustomerExists`` (when opening), ``InsufficientCredits`` (when billing a prepaid
        wallet), and what ``Desk.carry_out`` raises.
        """
        return int((await self._desk.carry_out(instruction))["balance"])

    async def _handle(self, conn: AsyncConnection, instructions: Sequence[Instruction]) -> list[Answer]:
        answers = await self._carry_out(conn, instructions)
        await self._describe(conn, [i for i in instructions if not isinstance(answers[i.id], TallyError)])
        return [answers[i.id] for i in instructions]

    async def _describe(self, conn: AsyncConnection, instructions: list[Instruction]) -> None:
        if instructions:
            await conn.execute(_SQL.describe, _columns(instructions))
        if incomes := [i for i in instructions if i.type != "bill"]:
            await conn.execute(_SQL.note_grants, _columns(incomes) | {"priority": DEFAULT_PRIORITY})

    async def _carry_out(self, conn: AsyncConnection, instructions: Sequence[Instruction]) -> dict[UUID, Answer]:
        """Opens first, then money in, then bills: instructions that arrive together have no order of their own.

        Customers are created before the ledger is locked, as intake does it, so that neither waits for the other in a
        circle.
        """
        payers = await self._payers(conn, instructions)
        movements = {i.id: Movement(i.id, payers[i.id], i.ledger, i.amount) for i in instructions if i.id in payers}
        async with conn.pipeline():
            await self._ledger.serialise(conn)
            left = await self._left(conn, list(movements.values()))
        results: dict[UUID, Result] = {}
        for types, move in self._moves:
            alike = [movements[i.id] for i in instructions if i.type in types and i.amount and i.id in movements]
            results |= zip((movement.id for movement in alike), await move(conn, alike), strict=True)
        answers = {i.id: _missing(i) for i in instructions if i.id not in movements}
        for instruction in sorted((i for i in instructions if i.id in movements), key=lambda i: i.type == "bill"):
            movement = movements[instruction.id]
            answers[instruction.id] = _settle(
                instruction, results.get(instruction.id), left, (movement.payer.id, movement.ledger)
            )
        return answers

    async def _payers(self, conn: AsyncConnection, instructions: Sequence[Instruction]) -> dict[UUID, Payer]:
        """Who is meant, by instruction; without those whose customer is missing, or is to be opened and exists."""
        opened = await self._customers.open(
            conn, [(i.id, i.customer, i.credit_policy) for i in instructions if i.type == "open"]
        )
        found = await self._customers.find(conn, sorted({i.customer for i in instructions if i.type != "open"}))
        named = {i.id: found[i.customer][1] for i in instructions if i.type != "open" and i.customer in found}
        return opened | named

    async def _left(self, conn: AsyncConnection, movements: list[Movement]) -> dict[tuple[UUID, int], Left]:
        left: dict[tuple[UUID, int], Left] = {}
        for ledger in {movement.ledger for movement in movements}:
            payers = {movement.payer.id for movement in movements if movement.ledger == ledger}
            standing = await self._wallets.left(conn, payers, ledger, serialised=True)
            left |= {(payer_id, ledger): each for payer_id, each in standing.items()}
        return left


def _columns(instructions: Sequence[Instruction]) -> dict[str, object]:
    return {
        "customers": [i.customer for i in instructions],
        "transfer_ids": [i.id for i in instructions],
        "types": [i.type for i in instructions],
        "descriptions": [i.description for i in instructions],
    }


def _settle(
    instruction: Instruction, result: Result | None, left: dict[tuple[UUID, int], Left], place: tuple[UUID, int]
) -> Answer:
    """The answer to one instruction, given what was ``left`` before it; its effect is noted there for the next ones."""
    balance, held = left[place]
    if result is not None and result.status is Status.CREATED:
        balance += -result.amount if instruction.type == "bill" else result.amount
        left[place] = Left(balance, held)
    if result is None or result.stands:
        return {"balance": str(balance)}
    wanted, available = format_amount(instruction.amount, places=2), format_amount(balance - held, places=2)
    if result.status is Status.EXCEEDS_CREDITS:
        return InsufficientCredits(f"Insufficient balance: {wanted} is needed, {available} is available")
    if result.status is Status.ID_ALREADY_FAILED:  # refused before, for the one reason there is; the answer was lost
        return InsufficientCredits(f"Insufficient balance: {wanted} was needed")
    return LedgerRefusal(f"the ledger refused the instruction: {result.status.value}")


def _missing(instruction: Instruction) -> Answer:
    if instruction.type == "open":
        return CustomerExists(f"there is a customer {instruction.customer!r} already", field="key")
    return UnknownCustomer(f"there is no customer {instruction.customer!r}", field="key")
