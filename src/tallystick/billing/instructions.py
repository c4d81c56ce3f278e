"""Money that somebody moves by instruction: opening a wallet, topping it up, granting, billing.

Instructions are orders, handed in at ``ledger.desk``: those that arrive together are carried out in one transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.errors import TallyError
from tallystick.kernel.money import format_amount
from tallystick.ledger.contract import Ledger, LedgerRefusal, Result, Status
from tallystick.ledger.desk import Answer, Desk, fingerprint
from tallystick.ledger.grant_model import DEFAULT_PRIORITY
from tallystick.ledger.grants import Listener
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


class _Due(NamedTuple):
    """An instruction whose customer is known, with its place among those handed in, and what it moves."""

    place: int
    instruction: Instruction
    movement: Movement


_Move = Callable[[AsyncConnection, Sequence[Movement]], Awaitable[list[Result]]]


class Instructions:
    """Opens wallets, tops them up, grants and bills."""

    def __init__(
        self, desk: Desk, customers: Customers, ledger: Ledger, wallets: Wallets, listener: Listener | None = None
    ) -> None:
        self._desk = desk
        self._listener = listener
        self._customers = customers
        self._ledger = ledger
        self._wallets = wallets
        self._moves: dict[str, _Move] = {
            "open": partial(wallets.grant, code=TransferCode.TOP_UP),
            "top_up": partial(wallets.grant, code=TransferCode.TOP_UP),
            "grant": partial(wallets.grant, code=TransferCode.GRANT),
            "bill": wallets.bill,
        }
        desk.register(self._moves, self._handle)

    async def carry_out(self, instruction: Instruction) -> int:
        """Carries out one instruction and returns the balance after it, in microunits.

        Raises ``UnknownCustomer``, ``CustomerExists`` (when opening), ``InsufficientCredits`` (when billing a prepaid
        wallet), and what ``Desk.carry_out`` raises.
        """
        return int((await self._desk.carry_out(instruction))["balance"])

    async def _handle(self, conn: AsyncConnection, instructions: Sequence[Instruction]) -> list[Answer]:
        """Money in first, then bills: instructions that arrive together have no order of their own.

        Customers are created before the ledger is locked, as intake does it, so that neither waits for the other in a
        circle.
        """
        payers = await self._payers(conn, instructions)
        due = [
            _Due(place, instruction, Movement(instruction.id, payer, instruction.ledger, instruction.amount))
            for place, (instruction, payer) in enumerate(zip(instructions, payers, strict=True))
            if payer is not None
        ]
        answers = await self._move(conn, due)
        await self._note(conn, [each for each in due if not isinstance(answers[each.place], TallyError)])
        return [answers.get(place) or _missing(instruction) for place, instruction in enumerate(instructions)]

    async def _payers(self, conn: AsyncConnection, instructions: Sequence[Instruction]) -> list[Payer | None]:
        """Who is meant by each; nobody if the customer is missing, or is to be opened and exists."""
        opened = await self._customers.open(
            conn, [(i.id, i.customer, i.credit_policy) for i in instructions if i.type == "open"]
        )
        found = await self._customers.find(conn, list({i.customer for i in instructions if i.type != "open"}))
        payers = {key: payer for key, (_, payer) in found.items()}
        return [opened.get(i.id) if i.type == "open" else payers.get(i.customer) for i in instructions]

    async def _move(self, conn: AsyncConnection, due: list[_Due]) -> dict[int, Answer]:
        """What comes of each, by its place."""
        async with conn.pipeline():
            await self._ledger.serialise(conn)
            left = await self._left(conn, due)
        results: dict[int, Result] = {}
        for type_, move in self._moves.items():
            moving = [each for each in due if each.instruction.type == type_ and each.movement.amount]
            moved = await move(conn, [each.movement for each in moving])
            results |= zip([each.place for each in moving], moved, strict=True)
        due.sort(key=lambda each: each.instruction.type == "bill")
        return {each.place: _settle(each, results.get(each.place), left) for each in due}

    async def _left(self, conn: AsyncConnection, due: list[_Due]) -> _Standing:
        left: _Standing = {}
        for ledger in {each.movement.ledger for each in due}:
            payers = {each.movement.payer.id for each in due if each.movement.ledger == ledger}
            left[ledger] = await self._wallets.left(conn, payers, ledger, serialised=True)
        return left

    async def _note(self, conn: AsyncConnection, done: list[_Due]) -> None:
        """Writes down what the transfers do not say themselves."""
        if told := [each for each in done if _tells(each)]:
            await conn.execute(_SQL.describe, _columns(told))
        if incomes := [each for each in done if each.instruction.type != "bill"]:
            noted = await conn.execute(_SQL.note_grants, _columns(incomes) | {"priority": DEFAULT_PRIORITY})
            if self._listener is not None:
                await self._listener.grants_made(conn, await noted.fetchall())


def _tells(due: _Due) -> bool:
    """Whether there is something to remember: that a wallet was opened, be it empty, or why money moved."""
    opens, described = due.instruction.type == "open", due.instruction.description is not None
    return opens or (described and due.movement.amount != 0)


_Standing = dict[int, dict[UUID, Left]]
"""What is left, by ledger number and payer."""


def _columns(done: list[_Due]) -> dict[str, object]:
    return {
        "payers": UuidArray([each.movement.payer.id for each in done]),
        "transfer_ids": UuidArray([each.movement.id for each in done]),
        "types": array([each.instruction.type for each in done]),
        "descriptions": [each.instruction.description for each in done],
    }


def _settle(due: _Due, result: Result | None, left: _Standing) -> Answer:
    """The answer to one instruction, given what was ``left`` before it; its effect is noted there for the next ones."""
    payer_id, amount = due.movement.payer.id, due.movement.amount
    balance, held = left[due.movement.ledger][payer_id]
    if result is not None and result.status is Status.CREATED:
        balance += -amount if due.instruction.type == "bill" else amount
        left[due.movement.ledger][payer_id] = Left(balance, held)
    if result is None or result.stands:
        return {"balance": str(balance)}
    wanted, available = format_amount(amount, places=2), format_amount(balance - held, places=2)
    if result.status is Status.EXCEEDS_CREDITS:
        return InsufficientCredits(f"Insufficient balance: {wanted} is needed, {available} is available")
    if result.status is Status.ID_ALREADY_FAILED:  # refused before, for the one reason there is; the answer was lost
        return InsufficientCredits(f"Insufficient balance: {wanted} was needed")
    return LedgerRefusal(f"the ledger refused the instruction: {result.status.value}")


def _missing(instruction: Instruction) -> Answer:
    if instruction.type == "open":
        return CustomerExists(f"there is a customer {instruction.customer!r} already", field="key")
    return UnknownCustomer(f"there is no customer {instruction.customer!r}", field="key")
