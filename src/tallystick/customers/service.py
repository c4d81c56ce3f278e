"""Creating and finding customers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from psycopg import AsyncConnection
from psycopg.errors import InvalidRegularExpression, QueryCanceled, UniqueViolation

from tallystick.customers.hierarchy import check_room_below
from tallystick.customers.model import Customer, CustomerChange, NewCustomer, Region
from tallystick.database.queries import Queries
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.ids import new_id
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key, check_text
from tallystick.ledger.wallets import CreditPolicy, Payer, PostingPolicy

_SQL = Queries(Path(__file__).with_name("queries.sql"))

SEARCH_MILLISECONDS = 2000
"""How long customers are looked for by an expression."""


class EmailTaken(Conflict):
    """Another one has this e-mail."""

    code = "email_taken"


class Deleted(NamedTuple):
    """Who a customer was, as far as it may still be known."""

    id: UUID
    region: Region
    vip: bool


class Listener(Protocol):
    """Who hears of new customers, in the transaction that creates them."""

    async def customers_came(self, conn: AsyncConnection, customers: Sequence[Customer]) -> None: ...


class Customers:
    """Whoever is metered or pays. Works in the caller's transaction."""

    def __init__(self, clock: Clock, listener: Listener | None = None) -> None:
        self._clock = clock
        self._listener = listener

    async def create(self, conn: AsyncConnection, new: NewCustomer, customer_id: UUID | None = None) -> Customer:
        """Creates a customer, under an id of its own if none is given.

        Raises ``InvalidInput`` for a field that breaks its rule or names an unknown parent or payer, ``Conflict`` if
        the key or the e-mail is taken.
        """
        check_new(new)
        parent_id = await self._id_of(conn, new.parent, "parent")
        if parent_id is not None:
            await check_room_below(conn, parent_id)
        payer_id = await self._payer_id(conn, new.payer)
        now = self._clock.now()
        created = await self._insert(conn, {customer_id or new_id(now): new}, now, parent_id, payer_id)
        if not created:
            raise await self._collision(conn, new)
        return created[0]

    async def admit(self, conn: AsyncConnection, new: Mapping[UUID, NewCustomer]) -> dict[UUID, Customer | Conflict]:
        """Creates many customers under these ids, or says why not. They have neither parent nor payer, and were checked
        (``check_new``). Repeating it answers the same.
        """
        created = {customer.id: customer for customer in await self._insert(conn, new, self._clock.now())}
        if left := [customer_id for customer_id in new if customer_id not in created]:
            rows = await (await conn.execute(_SQL.by_ids, {"ids": left})).fetchall()
            created |= {customer.id: customer for customer in (Customer(*row) for row in rows)}
        return {id_: created.get(id_) or await self._collision(conn, each) for id_, each in new.items()}

    async def get(self, conn: AsyncConnection, key: str) -> Customer:
        """The customer with this key. Raises ``NotFound``."""
        check_key(key, "key")
        cursor = await conn.execute(_SQL.by_key, {"key": key})
        if (row := await cursor.fetchone()) is None:
            raise NotFound(f"there is no customer {key!r}", field="key")
        return Customer(*row)

    async def of_id(self, conn: AsyncConnection, customer_id: UUID) -> Customer:
        """The customer with this id. Raises ``NotFound``."""
        row = await (await conn.execute(_SQL.by_id, {"id": customer_id})).fetchone()
        if row is None:
            raise NotFound(f"there is no customer {customer_id}", field="id")
        return Customer(*row)

    async def change(self, conn: AsyncConnection, key: str, change: CustomerChange) -> tuple[Customer, Customer]:
        """Changes what people know of a customer; answers with it as it was and as it is.

        Changes of one customer take turns, so none takes back another. Raises ``NotFound``, ``InvalidInput``,
        ``EmailTaken``.
        """
        if change.name is not None:
            check_text(change.name, "name")
        if change.email is not None:
            check_email(change.email)
        await conn.execute(_SQL.lock, {"key": check_key(key, "key")})
        before = await self.get(conn, key)
        try:
            async with conn.transaction():
                await conn.execute(_SQL.change, {"id": before.id, **asdict(change)})
        except UniqueViolation:
            raise _email_taken() from None
        return before, await self.get(conn, key)

    async def delete(self, conn: AsyncConnection, customer_ids: list[UUID] | None) -> list[Deleted]:
        """Forgets what is personal of these customers, or of all; what they used and paid stays in the books.

        Usage that still comes for an account, whose key is its id, is charged as before; another key is free again.
        Answers with those that were there.
        """
        parameters = {"ids": customer_ids, "now": self._clock.now()}
        return [Deleted(*row) for row in await (await conn.execute(_SQL.delete, parameters)).fetchall()]

    async def page(
        self,
        conn: AsyncConnection,
        cursor: str | None,
        limit: int,
        *,
        name: str | None = None,
        customer_id: UUID | None = None,
    ) -> Page[Customer]:
        """Customers in the order of their keys; all of them, or whose id it is, or whose name fits an expression.

        ``name`` is a regular expression of PostgreSQL that is looked for in any case, in the key of a customer without
        a name. Raises ``InvalidInput`` if it is none, or takes longer than ``SEARCH_MILLISECONDS``.
        """
        (after,) = read_cursor(cursor, 1) or ("",)
        parameters = {"after": after, "limit": limit + 1, "name": name, "id": customer_id}
        if name is None:
            rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        else:
            rows = await self._search(conn, parameters)
        customers = [Customer(*row) for row in rows[:limit]]
        return Page(customers, next_cursor(customers[-1].key) if len(rows) > limit else None)

    async def _search(self, conn: AsyncConnection, parameters: dict[str, Any]) -> list[Any]:
        """A page of those whose name fits, within the time that one expression may take."""
        check_key(parameters["name"], "name")
        try:
            async with conn.transaction(force_rollback=True):  # takes the limit of time back as well
                limit = {"milliseconds": str(SEARCH_MILLISECONDS), "name": parameters["name"]}
                await conn.execute(_SQL.begin_search, limit)
                return await (await conn.execute(_SQL.page, parameters)).fetchall()
        except InvalidRegularExpression as error:
            raise InvalidInput(
                f"name must be a regular expression: {error.diag.message_primary}", field="name"
            ) from None
        except QueryCanceled:
            raise InvalidInput(
                "name must not take too long to be looked for: say it more simply", field="name"
            ) from None

    async def by_name(self, conn: AsyncConnection, skip: int, limit: int) -> tuple[list[Customer], int]:
        """Customers in the order of their names, without the first ``skip``; and how many there are."""
        (total,) = await (await conn.execute(_SQL.count)).fetchone() or (0,)
        cursor = await conn.execute(_SQL.by_name, {"skip": min(skip, total), "limit": limit})
        return [Customer(*row) for row in await cursor.fetchall()], total

    async def newest(self, conn: AsyncConnection, skip: int, limit: int) -> tuple[list[Customer], int]:
        """Customers without the ``skip`` newest, newest first; and how many there are."""
        (total,) = await (await conn.execute(_SQL.count)).fetchone() or (0,)
        cursor = await conn.execute(_SQL.newest, {"skip": min(skip, total), "limit": limit})
        return [Customer(*row) for row in await cursor.fetchall()], total

    async def ensure(
        self,
        conn: AsyncConnection,
        keys: Iterable[str],
        credit_policy: CreditPolicy,
        posting_policy: PostingPolicy = "immediate",
    ) -> dict[str, tuple[UUID, Payer]]:
        """Ids and payers of these keys; customers that do not exist yet are created, with the given policies."""
        wanted = sorted(set(keys))
        found = await self.find(conn, wanted)
        if missing := [key for key in wanted if key not in found]:
            now = self._clock.now()
            named = {
                new_id(now): NewCustomer(key, credit_policy=credit_policy, posting_policy=posting_policy)
                for key in missing
            }
            await self._insert(conn, named, now)
            found |= await self.find(conn, missing)
        return found

    async def name_nameless(self, conn: AsyncConnection, names: Mapping[str, str]) -> int:
        """Gives customers, by key, these names if they have none; how many. Names must have been checked."""
        parameters = {"keys": list(names), "names": list(names.values())}
        return (await conn.execute(_SQL.name_nameless, parameters)).rowcount

    async def open(self, conn: AsyncConnection, new: list[tuple[UUID, str, CreditPolicy]]) -> dict[UUID, Payer]:
        """Creates customers under given ids, keys and policies; the answer lacks those whose key belongs to another id.

        Repeating it answers the same. Keys must have been checked.
        """
        if not new:
            return {}
        opened = {customer_id: NewCustomer(key, credit_policy=policy) for customer_id, key, policy in new}
        await self._insert(conn, opened, self._clock.now())
        stand = {payer.id for _, payer in (await self.find(conn, [key for _, key, _ in new])).values()}
        return {customer_id: Payer(customer_id, policy) for customer_id, _, policy in new if customer_id in stand}

    async def find(self, conn: AsyncConnection, keys: list[str]) -> dict[str, tuple[UUID, Payer]]:
        """Ids and payers of those keys that exist."""
        cursor = await conn.execute(_SQL.identify, {"keys": keys})
        return {key: (customer_id, Payer(*payer)) for key, customer_id, *payer in await cursor.fetchall()}

    async def _insert(
        self,
        conn: AsyncConnection,
        new: Mapping[UUID, NewCustomer],
        now: datetime,
        parent_id: UUID | None = None,
        payer_id: UUID | None = None,
    ) -> list[Customer]:
        """Creates those customers, by id, whose keys and e-mails are not taken."""
        parameters = {
            "ids": list(new),
            "keys": [each.key for each in new.values()],
            "names": [each.name for each in new.values()],
            "emails": [each.email for each in new.values()],
            "credit_policies": [each.credit_policy for each in new.values()],
            "posting_policies": [each.posting_policy for each in new.values()],
            "regions": [each.region for each in new.values()],
            "vips": [each.vip for each in new.values()],
            "parent_id": parent_id,
            "payer_id": payer_id,
            "now": now,
        }
        ids = await (await conn.execute(_SQL.insert, parameters)).fetchall()
        customers = [Customer(id=id_, created_at=now, **asdict(new[id_])) for (id_,) in ids]
        if customers and self._listener is not None:
            await self._listener.customers_came(conn, customers)
        return customers

    async def _id_of(self, conn: AsyncConnection, key: str | None, field: str) -> UUID | None:
        if key is None:
            return None
        check_key(key, field)
        if found := await self.find(conn, [key]):
            return found[key][0]
        raise InvalidInput(f"{field} names no customer: {key!r}", field=field)

    async def _payer_id(self, conn: AsyncConnection, key: str | None) -> UUID | None:
        payer_id = await self._id_of(conn, key, "payer")
        if key is not None and (await self.find(conn, [key]))[key][1].id != payer_id:
            raise InvalidInput(f"payer must pay for itself, which {key!r} does not", field="payer")
        return payer_id

    async def _collision(self, conn: AsyncConnection, new: NewCustomer) -> Conflict:
        if new.email and await (await conn.execute(_SQL.email_taken, {"email": new.email})).fetchone():
            return _email_taken()
        return Conflict(f"there is a customer {new.key!r} already", field="key")


def _email_taken() -> EmailTaken:
    return EmailTaken("email is already used by another customer", field="email")


def check_new(new: NewCustomer) -> None:
    """Raises ``InvalidInput`` for a field that breaks its rule, whoever else there is."""
    check_key(new.key, "key")
    if new.name is not None:
        check_text(new.name, "name")
    if new.email is not None:
        check_email(new.email)
    check_policies(new.credit_policy, new.posting_policy)


def check_policies(credit: CreditPolicy, posting: PostingPolicy) -> None:
    """Raises ``InvalidInput`` for policies that do not go together: what is not posted yet limits no wallet."""
    if credit == "prepaid" and posting == "monthly":
        raise InvalidInput("posting_policy must be immediate for a prepaid customer", field="posting_policy")


def check_email(email: str) -> str:
    """Returns an e-mail address unchanged. Raises ``InvalidInput`` if it cannot be one."""
    check_key(email, "email")
    try:
        validate_email(email, check_deliverability=False)
    except EmailNotValidError as error:
        raise InvalidInput(f"email must be an e-mail address: {error}", field="email") from None
    return email
