"""Notices: their rules, what was raised, how it looks, and sending it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray
from tallystick.kernel.clock import Clock
from tallystick.kernel.errors import Conflict, NotFound
from tallystick.kernel.ids import NIL, new_id
from tallystick.kernel.money import MICROUNITS
from tallystick.kernel.paging import Page, foreign_cursor, newest_first, next_cursor, read_cursor, read_newest_first
from tallystick.kernel.text import check_key
from tallystick.ledger.assets import Asset, Assets
from tallystick.ledger.contract import Ledger
from tallystick.notices.definitions import check_rule
from tallystick.notices.model import Addressee, Letter, NewRule, Notice, Rule, Sending, Standing, State
from tallystick.notices.office import Office
from tallystick.notices.watch import Watch, read_rule

_SQL = Queries(Path(__file__).with_name("queries.sql"))

MAX_RULES: Final = 100
"""For all customers; and as many for each of them."""

FIRST_PAUSE: Final = timedelta(minutes=1)
"""After the first attempt at sending that failed; each further pause is twice as long."""

LONGEST_PAUSE: Final = timedelta(hours=1)
MAX_ATTEMPTS: Final = 78
"""Three days of them. Who has not heard by then is better called."""


class Notices:
    """Rules and notices. Works in the caller's transaction."""

    def __init__(
        self, clock: Clock, assets: Assets, ledger: Ledger, watch: Watch, office: Office, *, mail_is_on: bool
    ) -> None:
        self._clock = clock
        self._assets = assets
        self._ledger = ledger
        self._watch = watch
        self._office = office
        self._mail_is_on = mail_is_on

    # Rules

    async def define(self, conn: AsyncConnection, new: NewRule) -> Rule:
        """Keeps a rule. One for a customer is in force at once; one for all, for each wallet once it is looked at.

        Locks the ledger, so that rules and looks at wallets have one order. Raises ``InvalidInput``, ``Conflict`` for a
        rule that there is already, or one too many.
        """
        check_rule(new)
        customer_id = None if new.customer is None else await self._customer_id(conn, new.customer, "customer")
        asset = None if new.asset is None else await self._assets.get(conn, new.asset)
        await self._ledger.serialise(conn)
        ((rules,),) = await (await conn.execute(_SQL.count_rules, {"customer_id": customer_id})).fetchall()
        if rules >= MAX_RULES:
            whom = "for all customers" if customer_id is None else f"for {new.customer!r}"
            raise Conflict(f"there are {MAX_RULES} rules {whom} already, the most there may be")
        now = self._clock.now()
        parameters = {
            "id": new_id(now),
            "customer_id": customer_id,
            "kind": new.kind,
            "ledger": asset.ledger if asset else None,
            "threshold": new.threshold,
            "recipients": list(new.recipients),
            "copies": list(new.copies),
            "subject": new.subject,
            "body": new.body,
            "placeholders": json.dumps(dict(new.placeholders)),
            "now": now,
        }
        row = await (await conn.execute(_SQL.define, parameters)).fetchone()
        if row is None:
            raise Conflict("there is a rule of this kind with this threshold, asset and customer", field="threshold")
        if customer_id is not None:
            await self._watch.look_at_customer(conn, self._ledger, customer_id)
        return await self.rule(conn, row[0])

    async def rule(self, conn: AsyncConnection, rule_id: UUID) -> Rule:
        """One rule. Raises ``NotFound``."""
        if (rule := await _rule(conn, rule_id)) is None:
            raise _no_rule(rule_id)
        return rule

    async def rules(self, conn: AsyncConnection, customer: str | None, cursor: str | None, limit: int) -> Page[Rule]:
        """Rules in the order of definition: all, or those for one customer alone. Raises ``NotFound``."""
        (after,) = read_cursor(cursor, 1) or ("0",)
        if not (after.isascii() and after.isdecimal() and len(after) < 19):
            raise foreign_cursor()
        customer_id = None if customer is None else await self._customer_id(conn, customer, "customer")
        parameters = {"after": int(after), "customer_id": customer_id, "limit": limit + 1}
        rules = [read_rule(row) for row in await (await conn.execute(_SQL.rules, parameters)).fetchall()]
        shown = rules[:limit]
        return Page(shown, next_cursor(str(shown[-1].number)) if len(rules) > limit else None)

    async def remove(self, conn: AsyncConnection, rule_id: UUID) -> None:
        """Forgets a rule; what it raised stays. Raises ``NotFound``."""
        if await (await conn.execute(_SQL.remove, {"id": rule_id})).fetchone() is None:
            raise _no_rule(rule_id)

    # What was raised

    async def page(
        self, conn: AsyncConnection, state: State | None, customer: str | None, cursor: str | None, limit: int
    ) -> Page[Sending]:
        """Notices, newest first: all, or those in one state or about one customer. Raises ``NotFound``."""
        before_at, before_id = read_newest_first(cursor)
        parameters = {
            "state": state,
            "customer_id": None if customer is None else await self._customer_id(conn, customer, "customer"),
            "before_at": before_at,
            "before_id": before_id,
            "limit": limit + 1,
        }
        found = [_sending(row) for row in await (await conn.execute(_SQL.page, parameters)).fetchall()]
        return newest_first(found, limit, lambda sending: (sending.notice.raised_at, sending.notice.id))

    async def get(self, conn: AsyncConnection, notice_id: UUID) -> Sending:
        """One notice. Raises ``NotFound``."""
        row = await (await conn.execute(_SQL.get, {"id": notice_id})).fetchone()
        if row is None:
            raise NotFound(f"there is no notice {notice_id}", field="id")
        return _sending(row)

    async def retry(self, conn: AsyncConnection, notice_id: UUID) -> Sending:
        """Has a notice sent that is not waiting to be, with as many attempts as a new one; sent ones are sent again.

        Raises ``NotFound``, ``Conflict`` if it waits already, or if there is no mail server.
        """
        if not self._mail_is_on:
            raise Conflict("no mail server is named: set MAIL_SMTP_SERVER")
        parameters = {"id": notice_id, "now": self._clock.now()}
        waiting = await (await conn.execute(_SQL.again, parameters)).fetchone()
        sending = await self.get(conn, notice_id)
        if waiting is None:
            raise Conflict(f"the notice {notice_id} is waiting to be sent already", field="id")
        return sending

    async def claim(self, conn: AsyncConnection, until: datetime, limit: int) -> list[Sending]:
        """At most so many that are due; nobody else gets them before ``until``."""
        await conn.execute(_SQL.take_turns)
        parameters = {"now": self._clock.now(), "until": until, "limit": limit}
        return [_sending(row) for row in await (await conn.execute(_SQL.claim, parameters)).fetchall()]

    async def finish(self, conn: AsyncConnection, notice: Notice, state: State, error: str | None = None) -> None:
        """Notes what became of a notice for good: it was sent, or never will be."""
        parameters = {"customer_id": notice.customer_id, "id": notice.id, "state": state, "error": error}
        await conn.execute(_SQL.finish, parameters | {"now": self._clock.now()})

    async def delay(self, conn: AsyncConnection, notices: Sequence[Notice], error: str) -> None:
        """Notes that these could not be sent now: they are due again after a pause, unless they are given up."""
        places = {
            "customer_ids": UuidArray(notice.customer_id for notice in notices),
            "ids": UuidArray(notice.id for notice in notices),
        }
        await conn.execute(_SQL.delay, places | self._pauses(error))

    async def delay_due(self, conn: AsyncConnection, error: str) -> None:
        """As ``delay``, for all that are due."""
        await conn.execute(_SQL.delay_due, self._pauses(error))

    async def any_due(self, conn: AsyncConnection, now: datetime) -> bool:
        """Whether there is anything to send."""
        ((due,),) = await (await conn.execute(_SQL.any_due, {"now": now})).fetchall()
        return bool(due)

    async def next_due(self, conn: AsyncConnection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which there is something to send, as things stand."""
        row = await (await conn.execute(_SQL.next_due, {"after": after})).fetchone()
        return row[0] if row else None

    def _pauses(self, error: str) -> dict[str, object]:
        return {
            "now": self._clock.now(),
            "error": error,
            "first_pause": FIRST_PAUSE,
            "longest_pause": LONGEST_PAUSE,
            "max_attempts": MAX_ATTEMPTS,
        }

    async def letter(self, conn: AsyncConnection, sending: Sending) -> Letter:
        """What a notice says, and to whom, by what is known now."""
        rule = await _rule(conn, sending.notice.rule_id)
        addressee = await _addressee(conn, sending.notice.customer_id)
        return self._write(sending.notice, rule, addressee, sending.asset)

    async def preview(self, conn: AsyncConnection, rule_id: UUID, customer: str, asset: str | None) -> Letter:
        """The letter that a rule would send about a customer's wallet as it stands. Raises ``NotFound``."""
        rule = await self.rule(conn, rule_id)
        customer_id = await self._customer_id(conn, customer, "customer")
        unit = await self._assets.get(conn, asset or rule.asset or "CREDIT")
        notice = await self._imagined(conn, rule, customer_id, unit)
        return self._write(notice, rule, await _addressee(conn, customer_id), unit.code)

    def _write(self, notice: Notice, rule: Rule | None, addressee: Addressee, asset: str) -> Letter:
        # It loads an engine of templates, which those can do without who only move money.
        from tallystick.notices.letters import write

        return write(notice, rule, addressee, asset, self._office)

    async def _imagined(self, conn: AsyncConnection, rule: Rule, customer_id: UUID, asset: Asset) -> Notice:
        """A notice as it might be raised now; figures of spending that nobody knows yet are made up."""
        wallet, now = (customer_id, asset.ledger), self._clock.now()
        standings = await self._watch.standings(conn, self._ledger, [wallet])
        standing = standings.get(wallet, Standing(0, 0, 0, 0, now))
        notice = Notice(
            customer_id, NIL, rule.id, rule.kind, asset.ledger, rule.threshold, standing.balance, standing.granted, now
        )
        if rule.kind == "forecast":
            return replace(notice, spent=100 * MICROUNITS, ends_at=now + timedelta(days=int(rule.threshold)))
        if rule.kind == "unusual":
            return replace(notice, spent=int(100 * MICROUNITS * rule.threshold), usual=100 * MICROUNITS)
        return notice

    async def _customer_id(self, conn: AsyncConnection, key: str, field: str) -> UUID:
        row = await (await conn.execute(_SQL.customer_id, {"key": check_key(key, field)})).fetchone()
        if row is None:
            raise NotFound(f"there is no customer {key!r}", field=field)
        customer_id: UUID = row[0]
        return customer_id


def _no_rule(rule_id: UUID) -> NotFound:
    return NotFound(f"there is no rule {rule_id}", field="id")


async def _rule(conn: AsyncConnection, rule_id: UUID) -> Rule | None:
    row = await (await conn.execute(_SQL.rule, {"id": rule_id})).fetchone()
    return read_rule(row) if row else None


async def _addressee(conn: AsyncConnection, customer_id: UUID) -> Addressee:
    ((key, name, maintainers),) = await (await conn.execute(_SQL.addressee, {"id": customer_id})).fetchall()
    return Addressee(key, name, tuple(maintainers))


def _sending(row: Sequence[Any]) -> Sending:
    customer_id, id_, rule_id, kind, ledger, threshold, balance, granted, raised_at, spent, usual, ends_at, *rest = row
    notice = Notice(
        customer_id,
        id_,
        rule_id,
        kind,
        ledger,
        threshold,
        int(balance),
        int(granted),
        raised_at,
        None if spent is None else int(spent),
        None if usual is None else int(usual),
        ends_at,
    )
    return Sending(notice, *rest)


async def count_of(conn: AsyncConnection, states: Sequence[State]) -> dict[State, int]:
    """How many notices are in each of these states."""
    rows = await (await conn.execute(_SQL.counts, {"states": list(states)})).fetchall()
    return dict.fromkeys(states, 0) | dict(rows)
