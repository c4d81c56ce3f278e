"""Tiers (named grants) and agreements: periods of performance, which grant a tier at the start and expire at the end.

What an agreement grants is fixed when it starts, by its tier as it is then. Its grant's id is derived from its own, so
it is given once, whatever is retried and however many servers run. Periods are half open. Rows of agreements change
only while their transaction holds the ledger's lock, so no row is locked before the ledger is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from psycopg import AsyncConnection

from tallystick.customers.service import Customers
from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound, TallyError
from tallystick.kernel.ids import derived_id
from tallystick.kernel.paging import Page, newest_first, next_cursor, read_cursor, read_newest_first
from tallystick.kernel.text import check_key
from tallystick.ledger.assets import Assets
from tallystick.ledger.contract import Ledger
from tallystick.ledger.desk import Answer, Desk, fingerprint
from tallystick.ledger.grant_model import Category, CreditGrant
from tallystick.ledger.grants import Grants
from tallystick.ledger.orders import Asked, of_customers
from tallystick.ledger.wallets import Payer

_SQL = Queries(Path(__file__).with_suffix(".sql"))

_SOURCE = "agreement "
"""What the source of an agreement's grant begins with; its id follows."""

AgreementState = Literal["planned", "active", "ended"]


@dataclass(frozen=True, slots=True)
class Tier:
    """What an agreement grants: ``credits`` microunits of an asset (its code)."""

    name: str
    asset: str
    credits: int
    category: Category
    priority: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Agreement:
    """A tier for a customer in [``starts_at``, ``ends_at``). Once it has started, its payer has a grant."""

    customer_id: UUID
    id: UUID
    tier: str
    starts_at: datetime
    ends_at: datetime
    payer_id: UUID | None
    grant_id: UUID | None
    created_at: datetime
    due_at: datetime | None = None

    def state(self, now: datetime) -> AgreementState:
        """Where ``now`` lies."""
        if now >= self.ends_at or self.starts_at == self.ends_at:
            return "ended"
        return "planned" if now < self.starts_at else "active"


@dataclass(frozen=True, slots=True)
class MakeAgreement:
    """Order: agree on a tier for a customer (a key), for a period that has not ended."""

    type: ClassVar[Literal["make_agreement"]] = "make_agreement"

    id: UUID
    customer: str
    tier: str
    starts_at: datetime
    ends_at: datetime
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> bytes:
        """What must be the same when a key comes again."""
        return fingerprint(self.type, self.customer, self.tier, self.starts_at, self.ends_at)


@dataclass(frozen=True, slots=True)
class EndAgreement:
    """Order: let an agreement of a customer (a key) end at another time."""

    type: ClassVar[Literal["end_agreement"]] = "end_agreement"

    id: UUID
    customer: str
    agreement_id: UUID
    ends_at: datetime
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> bytes:
        """What must be the same when a key comes again."""
        return fingerprint(self.type, self.customer, self.agreement_id, self.ends_at)


AgreementOrder: TypeAlias = MakeAgreement | EndAgreement
Place = tuple[UUID, UUID]
"""A customer and the id of its agreement."""


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant at which a day of the business zone begins."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def agreed_grant_id(agreement_id: UUID) -> UUID:
    """The id of the grant of an agreement."""
    return derived_id("agreement", agreement_id)


def is_agreed(grant_id: UUID, source: str) -> bool:
    """Whether a grant is that of an agreement, which its source names. Whoever only says so does not have its id."""
    try:
        return grant_id == agreed_grant_id(UUID(source.removeprefix(_SOURCE)))
    except ValueError:
        return False


class Tiers:
    """Named grants. Works in the caller's transaction."""

    def __init__(self, clock: Clock, assets: Assets) -> None:
        self._clock = clock
        self._assets = assets

    async def put(
        self, conn: AsyncConnection, name: str, asset: str, amount: int, category: Category, priority: int
    ) -> Tier:
        """Creates a tier, or changes what agreements that start from now on grant. Raises ``InvalidInput``."""
        tier = await self._wanted(conn, name, asset, amount, category, priority)
        await conn.execute(_SQL.put_tier, asdict(tier))
        return await self.get(conn, name)

    async def create(
        self, conn: AsyncConnection, name: str, asset: str, amount: int, category: Category, priority: int
    ) -> Tier:
        """Creates a tier; one that stands, with the same terms, is left as it is.

        Raises ``InvalidInput``, ``Conflict`` if there is one with this name and other terms.
        """
        tier = await self._wanted(conn, name, asset, amount, category, priority)
        await conn.execute(_SQL.add_tier, asdict(tier))
        standing = await self.get(conn, name)
        if replace(standing, created_at=tier.created_at) != tier:
            raise Conflict(f"there is a tier {name!r} with other terms", field="name")
        return standing

    async def _wanted(
        self, conn: AsyncConnection, name: str, asset: str, amount: int, category: Category, priority: int
    ) -> Tier:
        check_key(name, "name")
        await self._assets.get(conn, asset)
        return Tier(name, asset, amount, category, priority, self._clock.now())

    async def get(self, conn: AsyncConnection, name: str) -> Tier:
        """The tier with this name. Raises ``NotFound``."""
        row = await (await conn.execute(_SQL.tier, {"name": check_key(name, "name")})).fetchone()
        if row is None:
            raise NotFound(f"there is no tier {name!r}", field="name")
        return _tier(row)

    async def page(self, conn: AsyncConnection, cursor: str | None, limit: int) -> Page[Tier]:
        """Tiers in the order of their names."""
        (after,) = read_cursor(cursor, 1) or ("",)
        rows = await (await conn.execute(_SQL.tiers, {"after": after, "limit": limit + 1})).fetchall()
        tiers = [_tier(row) for row in rows[:limit]]
        return Page(tiers, next_cursor(tiers[-1].name) if len(rows) > limit else None)


class Agreements:
    """Makes, starts and ends agreements. Orders go through the desk; their grants expire by themselves."""

    def __init__(self, clock: Clock, desk: Desk, customers: Customers, ledger: Ledger, grants: Grants) -> None:
        self._clock = clock
        self._desk = desk
        self._ledger = ledger
        self._grants = grants
        desk.register((MakeAgreement.type, EndAgreement.type), of_customers(customers.find, self._handle))

    async def carry_out(self, order: AgreementOrder) -> tuple[Agreement, datetime]:
        """Carries out one order and returns the agreement as it stands then, and when that was.

        Raises ``NotFound`` without such a customer or agreement, ``InvalidInput`` for an unknown tier or a period that
        has passed, ``Conflict`` if it has ended, and what ``Desk.carry_out`` raises.
        """
        answer = await self._desk.carry_out(order)
        return msgspec.convert(answer["agreement"], Agreement), datetime.fromisoformat(answer["at"])

    async def get(self, conn: AsyncConnection, customer_id: UUID, agreement_id: UUID) -> Agreement:
        """One agreement of a customer. Raises ``NotFound``."""
        if found := await self._named(conn, [(customer_id, agreement_id)]):
            return found[customer_id, agreement_id]
        raise _unknown(agreement_id)

    async def page(self, conn: AsyncConnection, customer_id: UUID, cursor: str | None, limit: int) -> Page[Agreement]:
        """Agreements of a customer, newest first."""
        before_at, before_id = read_newest_first(cursor)
        parameters = {
            "customer_id": customer_id,
            "before_at": before_at,
            "before_id": before_id,
            "limit": limit + 1,
        }
        rows = await (await conn.execute(_SQL.page, parameters)).fetchall()
        return newest_first([Agreement(*row) for row in rows], limit, lambda one: (one.created_at, one.id))

    async def run_due(self, conn: AsyncConnection, now: datetime, limit: int) -> int:
        """Starts agreements whose time has come, at most ``limit``; returns how many.

        The ledger is locked only if there are some; whoever waited for it meanwhile finds nothing left to do.
        """
        places = await (await conn.execute(_SQL.due, {"now": now, "limit": limit})).fetchall()
        if not places:
            return 0
        await self._ledger.serialise(conn)
        return len(await self._start(conn, (await self._named(conn, places)).values(), now))

    async def next_due(self, conn: AsyncConnection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which an agreement starts, as things stand."""
        row = await (await conn.execute(_SQL.next_due, {"after": after})).fetchone()
        return row[0] if row else None

    async def _handle(self, conn: AsyncConnection, asked: Sequence[Asked[AgreementOrder]]) -> dict[UUID, Answer]:
        """Makes first, and then ends: orders that arrive together have no order of their own."""
        await self._ledger.serialise(conn)
        now = self._clock.now()
        outcomes = await self._make(conn, [(o, id_) for o, id_, _ in asked if isinstance(o, MakeAgreement)], now)
        outcomes |= await self._end(conn, [(o, id_) for o, id_, _ in asked if isinstance(o, EndAgreement)], now)
        return {order_id: _answer(outcome, now) for order_id, outcome in outcomes.items()}

    async def _make(
        self, conn: AsyncConnection, orders: Sequence[tuple[MakeAgreement, UUID]], now: datetime
    ) -> dict[UUID, Agreement | TallyError]:
        """Whatever stands already was made before, and the answer was lost."""
        if not orders:
            return {}
        names = await conn.execute(_SQL.known_tiers, {"names": [order.tier for order, _ in orders]})
        tiers = {name for (name,) in await names.fetchall()}
        places = [(customer_id, order.id) for order, customer_id in orders]
        outcomes: dict[UUID, Agreement | TallyError] = {
            agreement_id: agreement for (_, agreement_id), agreement in (await self._named(conn, places)).items()
        }
        fresh = [(order, customer_id) for order, customer_id in orders if order.id not in outcomes]
        outcomes |= {order.id: error for order, _ in fresh if (error := _refusal(order, tiers, now))}
        made = [(order, customer_id) for order, customer_id in fresh if order.id not in outcomes]
        columns = {
            **_places((customer_id, order.id) for order, customer_id in made),
            "tiers": [order.tier for order, _ in made],
            "starts": [order.starts_at for order, _ in made],
            "ends": [order.ends_at for order, _ in made],
            "now": now,
        }
        await conn.execute(_SQL.make, columns)
        stand = [(customer_id, order.id) for order, customer_id in made]
        await self._start(conn, (await self._named(conn, stand)).values(), now)
        return outcomes | {place[1]: agreement for place, agreement in (await self._named(conn, stand)).items()}

    async def _end(
        self, conn: AsyncConnection, orders: Sequence[tuple[EndAgreement, UUID]], now: datetime
    ) -> dict[UUID, Agreement | TallyError]:
        if not orders:
            return {}
        standing = await self._named(conn, {(customer_id, order.agreement_id) for order, customer_id in orders})
        outcomes: dict[UUID, Agreement | TallyError] = {}
        moved: set[Place] = set()
        for order, customer_id in orders:
            place = customer_id, order.agreement_id
            outcome = _moved(standing.get(place), order, now)
            outcomes[order.id] = outcome
            if isinstance(outcome, Agreement):
                standing[place] = outcome
                moved.add(place)
        columns = {**_places(moved), "ends": [standing[place].ends_at for place in moved]}
        await conn.execute(_SQL.end, columns)
        ends = [
            ((agreement.payer_id, agreement.grant_id), agreement.ends_at)
            for agreement in (standing[place] for place in moved)
            if agreement.payer_id is not None and agreement.grant_id is not None
        ]
        await self._grants.end(conn, ends)
        return outcomes

    async def _start(self, conn: AsyncConnection, agreements: Iterable[Agreement], now: datetime) -> Collection[Place]:
        """Gives the grants of those that are due. The caller holds the ledger's lock."""
        due = {(a.customer_id, a.id): a for a in agreements if a.due_at is not None and a.due_at <= now}
        if not due:
            return ()
        rows = await (await conn.execute(_SQL.terms, _places(due))).fetchall()
        grants = {(row[0], row[1]): _grant(due[row[0], row[1]], row, now) for row in rows}
        await self._grants.begin(conn, list(grants.values()), now)
        columns = {
            **_places(grants),
            "payer_ids": UuidArray(grant.payer.id for grant in grants.values()),
            "grant_ids": UuidArray(grant.id for grant in grants.values()),
        }
        await conn.execute(_SQL.started, columns)
        return grants.keys()

    async def _named(self, conn: AsyncConnection, places: Collection[Place]) -> dict[Place, Agreement]:
        rows = await (await conn.execute(_SQL.named, _places(places))).fetchall()
        return {(row[0], row[1]): Agreement(*row) for row in rows}


def _refusal(order: MakeAgreement, tiers: Collection[str], now: datetime) -> TallyError | None:
    if order.tier not in tiers:
        return InvalidInput(f"tier names no tier: {order.tier!r}", field="tier")
    if order.ends_at <= order.starts_at:
        return InvalidInput("end must be later than start", field="end")
    if order.ends_at <= now:
        return InvalidInput("end must not have passed", field="end")
    return None


def _moved(agreement: Agreement | None, order: EndAgreement, now: datetime) -> Agreement | TallyError:
    """The agreement with the end that is asked for. To ask for the end that it has changes nothing, whenever."""
    if agreement is None:
        return _unknown(order.agreement_id)
    if order.ends_at == agreement.ends_at:
        return agreement
    if agreement.state(now) == "ended":
        return Conflict(f"the agreement {agreement.id} has ended", field="id")
    if order.ends_at < now:
        return InvalidInput("end must not have passed", field="end")
    if order.ends_at < agreement.starts_at:
        return InvalidInput("end must not be earlier than start", field="end")
    return replace(agreement, ends_at=order.ends_at)


def _grant(agreement: Agreement, terms: Sequence[Any], now: datetime) -> CreditGrant:
    _, agreement_id, payer_id, policy, ledger, credits_, category, priority = terms
    return CreditGrant(
        Payer(payer_id, policy),
        agreed_grant_id(agreement_id),
        ledger,
        int(credits_),
        category,
        priority,
        agreement.starts_at,
        agreement.ends_at,
        f"{_SOURCE}{agreement_id}",
        f"tier {agreement.tier}",
        "scheduled",
        now,
    )


def _answer(outcome: Agreement | TallyError, now: datetime) -> Answer:
    if isinstance(outcome, TallyError):
        return outcome
    return {"agreement": msgspec.to_builtins(outcome), "at": now.isoformat()}


def _unknown(agreement_id: UUID) -> NotFound:
    return NotFound(f"there is no agreement {agreement_id} of this customer", field="id")


def _tier(row: Sequence[Any]) -> Tier:
    name, asset, credits_, *rest = row
    return Tier(name, asset, int(credits_), *rest)


def _places(places: Iterable[Place]) -> dict[str, object]:
    listed = list(places)
    return {
        "customer_ids": UuidArray(customer_id for customer_id, _ in listed),
        "ids": UuidArray(item_id for _, item_id in listed),
    }
