"""Money that somebody moves by instruction: opening a wallet, topping it up, granting, billing.

Instructions that arrive together are carried out in one transaction, one after the other. Each has an id from which its
transfers get theirs, so running it again after a crash moves nothing twice; an ``Idempotency-Key`` extends that to the
caller: the same key gives the same answer for good.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from tallystick.customers.service import Customers
from tallystick.database.group_commit import GroupCommit
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, TallyError
from tallystick.kernel.ids import derived_id
from tallystick.kernel.money import format_amount
from tallystick.ledger.contract import Ledger, Result, Status
from tallystick.ledger.wallets import (
    CreditPolicy,
    InsufficientCredits,
    LedgerRefusal,
    Movement,
    Payer,
    TransferCode,
    Wallets,
)

_SQL = Queries(Path(__file__).with_name("instructions.sql"))

MAX_GROUP = 500
MAX_QUEUED = 5_000


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
        fields = (self.type, self.customer, self.ledger, self.amount, self.description, self.credit_policy)
        return hashlib.sha256(json.dumps(fields).encode()).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """The balance after an instruction was carried out, in microunits; or why it was not."""

    balance: int = 0
    error: TallyError | None = None

    def as_json(self) -> dict[str, str]:
        """As it is kept under an idempotency key."""
        if self.error is None:
            return {"balance": str(self.balance)}
        return {"error": self.error.code, "detail": self.error.detail}

    @classmethod
    def from_json(cls, kept: dict[str, str]) -> Answer:
        """What ``as_json`` wrote."""
        if "balance" in kept:
            return cls(int(kept["balance"]))
        return cls(error=_ERRORS[kept["error"]](kept["detail"]))


_ERRORS: dict[str, type[TallyError]] = {
    error.code: error for error in (InsufficientCredits, UnknownCustomer, CustomerExists, LedgerRefusal)
}


class Instructions:
    """The queue of instructions."""

    def __init__(
        self, pool: AsyncConnectionPool, clock: Clock, customers: Customers, ledger: Ledger, wallets: Wallets
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._customers = customers
        self._ledger = ledger
        self._wallets = wallets
        self.group = GroupCommit(
            "instructions", self._execute, lanes=1, max_group_weight=MAX_GROUP, max_queued_weight=MAX_QUEUED
        )
        self._moves = (
            (("open", "top_up"), partial(wallets.grant, code=TransferCode.TOP_UP)),
            (("grant",), partial(wallets.grant, code=TransferCode.GRANT)),
            (("bill",), wallets.bill),
        )

    async def carry_out(self, instruction: Instruction) -> int:
        """Carries out one instruction and returns the balance after it, in microunits.

        Raises ``UnknownCustomer``, ``CustomerExists`` (when opening), ``InsufficientCredits`` (when billing a prepaid
        wallet), ``Conflict`` if the idempotency key was used for something else, ``Overloaded``, ``Unavailable``.
        """
        if instruction.idempotency_key is not None:
            instruction = replace(instruction, id=derived_id("idempotency", instruction.idempotency_key))
        answer = await self.group.submit(instruction)
        if answer.error is not None:
            raise answer.error
        return answer.balance

    async def _execute(self, instructions: list[Instruction]) -> list[Answer]:
        async with self._pool.connection() as conn, conn.transaction():
            answers = await self._answered(conn, instructions)
            fresh = list({i.id: i for i in reversed(instructions) if i.id not in answers}.values())[::-1]
            new = await self._carry_out(conn, fresh)
            await self._keep(conn, fresh, new)
        answers |= {i.id: (i.fingerprint, new[i.id]) for i in fresh}
        return [_answer_for(instruction, *answers[instruction.id]) for instruction in instructions]

    async def _answered(
        self, conn: AsyncConnection, instructions: list[Instruction]
    ) -> dict[UUID, tuple[bytes, Answer]]:
        keys = [i.idempotency_key for i in instructions if i.idempotency_key is not None]
        if not keys:
            return {}
        rows = await (await conn.execute(_SQL.answered, {"keys": keys})).fetchall()
        return {
            derived_id("idempotency", key): (fingerprint, Answer.from_json(answer)) for key, fingerprint, answer in rows
        }

    async def _keep(self, conn: AsyncConnection, instructions: list[Instruction], answers: dict[UUID, Answer]) -> None:
        keyed = [i for i in instructions if i.idempotency_key is not None]
        if keyed:
            await conn.execute(
                _SQL.keep_answers,
                {
                    "keys": [i.idempotency_key for i in keyed],
                    "fingerprints": [i.fingerprint for i in keyed],
                    "answers": [json.dumps(answers[i.id].as_json()) for i in keyed],
                    "now": self._clock.now(),
                },
            )
        described = [i for i in instructions if answers[i.id].error is None]
        if described:
            await conn.execute(
                _SQL.describe,
                {
                    "customers": [i.customer for i in described],
                    "transfer_ids": [i.id for i in described],
                    "types": [i.type for i in described],
                    "descriptions": [i.description for i in described],
                },
            )

    async def _carry_out(self, conn: AsyncConnection, instructions: list[Instruction]) -> dict[UUID, Answer]:
        """Opens first, then money in, then bills: instructions that arrive together have no order of their own.

        Customers are created before the ledger is locked, as intake does it, so that neither waits for the other in a
        circle. Whoever carries out the same idempotency key meanwhile is met when the answer is kept: this transaction
        then fails and runs again.
        """
        if not instructions:
            return {}
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

    async def _payers(self, conn: AsyncConnection, instructions: list[Instruction]) -> dict[UUID, Payer]:
        """Who is meant, by instruction; without those whose customer is missing, or is to be opened and exists."""
        opened = await self._customers.open(
            conn, [(i.id, i.customer, i.credit_policy) for i in instructions if i.type == "open"]
        )
        found = await self._customers.find(conn, sorted({i.customer for i in instructions if i.type != "open"}))
        named = {i.id: found[i.customer][1] for i in instructions if i.type != "open" and i.customer in found}
        return opened | named

    async def _left(self, conn: AsyncConnection, movements: list[Movement]) -> dict[tuple[UUID, int], int]:
        left: dict[tuple[UUID, int], int] = {}
        for ledger in {movement.ledger for movement in movements}:
            payers = {movement.payer.id for movement in movements if movement.ledger == ledger}
            spendable = await self._wallets.spendable(conn, payers, ledger)
            left |= {(payer_id, ledger): balance for payer_id, balance in spendable.items()}
        return left


def _settle(
    instruction: Instruction, result: Result | None, left: dict[tuple[UUID, int], int], place: tuple[UUID, int]
) -> Answer:
    """The answer to one instruction, given what was ``left`` before it; its effect is noted there for the next ones."""
    if result is not None and result.status is Status.CREATED:
        left[place] += -result.amount if instruction.type == "bill" else result.amount
    if result is None or result.stands:
        return Answer(left[place])
    if result.status is Status.EXCEEDS_CREDITS:
        wanted, available = format_amount(instruction.amount, places=2), format_amount(left[place], places=2)
        return Answer(error=InsufficientCredits(f"Insufficient balance: {wanted} is needed, {available} is available"))
    return Answer(error=LedgerRefusal(f"the ledger refused the instruction: {result.status.value}"))


def _missing(instruction: Instruction) -> Answer:
    if instruction.type == "open":
        return Answer(error=CustomerExists(f"there is a customer {instruction.customer!r} already", field="key"))
    return Answer(error=UnknownCustomer(f"there is no customer {instruction.customer!r}", field="key"))


def _answer_for(instruction: Instruction, fingerprint: bytes, answer: Answer) -> Answer:
    if fingerprint == instruction.fingerprint:
        return answer
    return Answer(error=Conflict("Idempotency-Key was used for another request before", field="Idempotency-Key"))
