"""Looks at wallets whose balance may have crossed a level, in the transaction that moved the money.

Accounts have alarms: the ledger calls whoever watches when the sum of one has come to its alarm or below it, and
whenever money came in or was taken back. Between those, charging costs nothing. A look compares the wallet with its
rules, raises notices with their events, and sets the alarms for the next time. Looks take turns, as they happen while
the ledger is locked: so a crossing is seen by one transaction, however many there are at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import NIL, derived_id
from tallystick.kernel.money import format_amount, format_quantity
from tallystick.ledger.contract import Account, Ledger
from tallystick.ledger.wallets import AccountCode, account_id
from tallystick.notices.crossing import Looked, look, loudest
from tallystick.notices.model import LEVELS, Kind, Memory, Notice, Rule, Standing, Wallet
from tallystick.outbox.catalogue import BALANCE_EXHAUSTED, BALANCE_LOW
from tallystick.outbox.model import Event, Subject
from tallystick.outbox.service import Outbox

_SQL = Queries(Path(__file__).with_suffix(".sql"))

AT_ONCE: Final = 200
"""Wallets that are looked at in one transaction when all are: nobody else moves money meanwhile, for some 30 ms."""

TRANSFERS_AT_ONCE: Final = 5_000
"""Transfers that are followed in one transaction, where balances are kept elsewhere."""

GRANTS_LOOKED_AT: Final = 100
"""The newest grants of a wallet: more than anybody has that are not used up."""

_CODES: Final = (AccountCode.WALLET, AccountCode.ARREARS, AccountCode.GRANTED, AccountCode.EXCHANGED, AccountCode.USED)
_OWES: Final = -1
"""The alarm of arrears: a wallet that holds less than what is owed may stand above its level all the same."""


class Place(NamedTuple):
    """An account of a wallet: where a walk over all wallets goes on."""

    customer_id: UUID
    id: UUID


BEGINNING: Final = Place(NIL, NIL)


class Rules:
    """Rules by whom they are about: many customers may have some of their own."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._of: dict[UUID | None, list[Rule]] = defaultdict(list)
        for rule in rules:
            self._of[rule.customer_id].append(rule)

    def about(self, wallet: Wallet) -> list[Rule]:
        """Those about a wallet."""
        rules = (*self._of.get(None, ()), *self._of.get(wallet[0], ()))
        return [rule for rule in rules if rule.ledger in (None, wallet[1])]


class Watch:
    """Looks at wallets. Works in the caller's transaction, which has locked the ledger."""

    def __init__(self, clock: Clock, outbox: Outbox, *, mail_is_on: bool) -> None:
        """Without a mail server, what is raised stays where it is, to be seen and told as an event."""
        self._clock = clock
        self.outbox = outbox
        self._state = "waiting" if mail_is_on else "unsent"

    async def look(self, conn: AsyncConnection, ledger: Ledger, wallets: Collection[Wallet]) -> None:
        """Compares these wallets with their rules, and raises what is to be told."""
        now = self._clock.now()
        rules = Rules(await rules_of(conn, {customer_id for customer_id, _ in wallets}, LEVELS))
        memories = await _memories(conn, wallets)
        totals = await self._totals(conn, ledger, wallets, serialised=True)
        standings = await self._shared(conn, totals, memories)
        found = {
            wallet: look(standing, memories.get(wallet), rules.about(wallet)) for wallet, standing in standings.items()
        }
        await _set_alarms(conn, found)
        await _remember(conn, memories, found)
        await self.raise_(
            conn,
            [
                _notice(wallet, rule, standings[wallet], now)
                for wallet, looked in found.items()
                for rule in loudest(looked.crossed)
            ],
        )

    async def standings(
        self, conn: AsyncConnection, ledger: Ledger, wallets: Collection[Wallet]
    ) -> dict[Wallet, Standing]:
        """How those of these wallets stand that have accounts."""
        totals = await self._totals(conn, ledger, wallets, serialised=False)
        return await self._shared(conn, totals, await _memories(conn, wallets))

    async def _totals(
        self, conn: AsyncConnection, ledger: Ledger, wallets: Collection[Wallet], *, serialised: bool
    ) -> dict[Wallet, Standing]:
        """How they stand, whatever of their grants was used up; ``serialised`` as the ledger means it."""
        places = [
            (customer_id, account_id(customer_id, number, code)) for customer_id, number in wallets for code in _CODES
        ]
        accounts = {
            (account.customer_id, account.ledger, account.code): account
            for account in (await ledger.accounts(conn, places, serialised=serialised)).values()
        }
        opened = await _opened(conn, wallets)
        ended = await self._ended(conn, wallets)
        return {
            wallet: _standing([accounts.get((*wallet, code)) for code in _CODES], ended.get(wallet, 0), opened[wallet])
            for wallet in wallets
            if wallet in opened
        }

    async def _shared(
        self, conn: AsyncConnection, totals: Mapping[Wallet, Standing], memories: Mapping[Wallet, Memory]
    ) -> dict[Wallet, Standing]:
        """How they stand, with what shares are shares of.

        That is fixed when money comes in: it, and the newest grants before it that cover what was left of them. It
        shrinks when grants end.
        """
        came = {
            wallet: total.came_in - memories[wallet].came_in for wallet, total in totals.items() if wallet in memories
        }
        needed = {wallet: totals[wallet].balance - amount for wallet, amount in came.items() if amount}
        covered = await self._covering(conn, {wallet: amount for wallet, amount in needed.items() if amount > 0})
        shares = {
            wallet: amount + covered.get(wallet, 0) if amount else memories[wallet].granted
            for wallet, amount in came.items()
        }
        return {
            wallet: total._replace(granted=min(total.granted, shares.get(wallet, total.granted)))
            for wallet, total in totals.items()
        }

    async def _covering(self, conn: AsyncConnection, needed: Mapping[Wallet, int]) -> dict[Wallet, int]:
        if not needed:
            return {}
        columns = {"needed": array(needed.values()), "now": self._clock.now(), "limit": GRANTS_LOOKED_AT}
        rows = await (await conn.execute(_SQL.covering, _wallets(needed) | columns)).fetchall()
        return {(customer_id, number): int(amount) for customer_id, number, amount in rows}

    async def raise_(self, conn: AsyncConnection, notices: Sequence[Notice]) -> None:
        """Writes down those that were not raised before, and tells of them."""
        if not notices:
            return
        rows = await (await conn.execute(_SQL.raise_new, _columns(notices) | {"state": self._state})).fetchall()
        new = {notice_id for (notice_id,) in rows}
        await self._tell(conn, [notice for notice in notices if notice.id in new])

    async def look_at_customer(self, conn: AsyncConnection, ledger: Ledger, customer_id: UUID) -> None:
        """Looks at all wallets of a customer."""
        rows = await (await conn.execute(_SQL.wallets_of, {"customer_id": customer_id})).fetchall()
        if rows:
            await self.look(conn, ledger, [(customer_id, number) for customer_id, number in rows])

    async def look_at_next(self, conn: AsyncConnection, ledger: Ledger, after: Place) -> Place | None:
        """Looks at the next wallets of all after a place; the place of the last one, ``None`` if there were no more."""
        places, last = await next_wallets(conn, after)
        if places:
            await self.look(conn, ledger, places)
        return last

    async def follow(self, conn: AsyncConnection, ledger: Ledger) -> bool:
        """Looks at the wallets that moved since it did so last; whether there may be more.

        For a ledger elsewhere, whose balances nobody here sees while money moves.
        """
        row = await (await conn.execute(_SQL.progress)).fetchone()
        since = row[0] if row else 0
        rows = await (await conn.execute(_SQL.moved, {"since": since, "limit": TRANSFERS_AT_ONCE})).fetchall()
        if not rows:
            return False
        await self.look(conn, ledger, [(customer_id, number) for customer_id, number, _ in rows])
        await conn.execute(_SQL.set_progress, {"sequence": rows[0][2]})
        return bool(rows[0][2] - since >= TRANSFERS_AT_ONCE)

    async def _ended(self, conn: AsyncConnection, wallets: Collection[Wallet]) -> dict[Wallet, int]:
        parameters = _wallets(wallets) | {"now": self._clock.now()}
        rows = await (await conn.execute(_SQL.ended, parameters)).fetchall()
        return {(customer_id, number): int(amount) for customer_id, number, amount in rows}

    async def _tell(self, conn: AsyncConnection, notices: Sequence[Notice]) -> None:
        if not (notices and self.outbox.is_on):
            return
        customers = UuidArray({notice.customer_id for notice in notices})
        subjects = {
            subject.id: subject
            for subject in (
                Subject(*row)
                for row in await (await conn.execute(_SQL.subjects, {"customer_ids": customers})).fetchall()
            )
        }
        ledgers = array({notice.ledger for notice in notices})
        assets: dict[int, str] = dict(await (await conn.execute(_SQL.assets, {"ledgers": ledgers})).fetchall())
        told = [notice for notice in notices if notice.kind != "unusual" and notice.customer_id in subjects]
        await self.outbox.tell(
            conn, [_event(notice, subjects[notice.customer_id], assets[notice.ledger]) for notice in told]
        )


async def rules_of(conn: AsyncConnection, customers: Collection[UUID], kinds: Iterable[Kind]) -> list[Rule]:
    """The rules of these kinds that may be about these customers, in the order of definition."""
    parameters = {"customer_ids": UuidArray(customers), "kinds": list(kinds)}
    return [read_rule(row) for row in await (await conn.execute(_SQL.rules, parameters)).fetchall()]


def read_rule(row: Any) -> Rule:
    """A rule from its row: the columns of ``rules``."""
    columns = (*row[:8], tuple(row[8]), tuple(row[9]), *row[10:])
    return Rule(*columns)


async def next_wallets(conn: AsyncConnection, after: Place) -> tuple[list[Wallet], Place | None]:
    """At most ``AT_ONCE`` wallets after a place, and the place of the last; ``None`` if there are no more."""
    parameters = {"after_customer": after.customer_id, "after_id": after.id, "limit": AT_ONCE}
    rows = await (await conn.execute(_SQL.wallets, parameters)).fetchall()
    last = Place(*rows[-1][:2]) if len(rows) == AT_ONCE else None
    return [(customer_id, number) for customer_id, _, number in rows], last


async def _memories(conn: AsyncConnection, wallets: Collection[Wallet]) -> dict[Wallet, Memory]:
    rows = await (await conn.execute(_SQL.remembered, _wallets(wallets))).fetchall()
    return {
        (customer_id, number): Memory(frozenset(told), seen, int(came_in), int(granted))
        for customer_id, number, told, seen, came_in, granted in rows
    }


async def _opened(conn: AsyncConnection, wallets: Collection[Wallet]) -> dict[Wallet, datetime]:
    parameters = {
        "customer_ids": UuidArray(customer_id for customer_id, _ in wallets),
        "ids": UuidArray(account_id(customer_id, number, AccountCode.WALLET) for customer_id, number in wallets),
    }
    rows = await (await conn.execute(_SQL.opened, parameters)).fetchall()
    return {(customer_id, number): created_at for customer_id, number, created_at in rows}


async def _remember(conn: AsyncConnection, before: Mapping[Wallet, Memory], found: Mapping[Wallet, Looked]) -> None:
    changed = {
        wallet: looked.memory
        for wallet, looked in found.items()
        if looked.memory is not None and looked.memory != before.get(wallet)
    }
    if changed:
        columns = {
            "told": [",".join(map(str, sorted(memory.told))) for memory in changed.values()],
            "seen": array(memory.seen for memory in changed.values()),
            "came_in": array(memory.came_in for memory in changed.values()),
            "granted": array(memory.granted for memory in changed.values()),
        }
        await conn.execute(_SQL.remember, _wallets(changed) | columns)


async def _set_alarms(conn: AsyncConnection, found: Mapping[Wallet, Looked]) -> None:
    alarms: list[tuple[UUID, UUID, int | None]] = []
    for (customer_id, number), looked in found.items():
        at = looked.alarm_at
        owing = None if at is None else _OWES
        alarms.append((customer_id, account_id(customer_id, number, AccountCode.WALLET), at))
        alarms.append((customer_id, account_id(customer_id, number, AccountCode.ARREARS), owing))
    parameters = {
        "customer_ids": UuidArray(customer_id for customer_id, _, _ in alarms),
        "ids": UuidArray(id_ for _, id_, _ in alarms),
        "alarms": [at for _, _, at in alarms],
    }
    await conn.execute(_SQL.set_alarms, parameters)


def _standing(accounts: list[Account | None], ended: int, opened_at: datetime) -> Standing:
    wallet, arrears, granted, exchanged, used = accounts
    balance = sum(account.credit_balance for account in (wallet, arrears) if account is not None)
    given = granted.debits_posted - granted.credits_posted if granted else 0
    came_in = sum(account.debits_posted for account in (granted, exchanged) if account is not None)
    return Standing(balance, max(0, given - ended), came_in, used.credit_balance if used else 0, opened_at)


def _notice(wallet: Wallet, rule: Rule, standing: Standing, now: datetime) -> Notice:
    """Of a crossing. Its id is that of the rule and of all that has come in: it is told once before more does."""
    customer_id, number = wallet
    notice_id = derived_id("notice", rule.id, customer_id, str(number), str(standing.came_in))
    return Notice(
        customer_id,
        notice_id,
        rule.id,
        rule.kind,
        number,
        rule.threshold,
        standing.balance,
        standing.granted,
        now,
    )


def _event(notice: Notice, subject: Subject, asset: str) -> Event:
    kind = BALANCE_EXHAUSTED if notice.exhausted else BALANCE_LOW
    data = {
        "notice": str(notice.id),
        "asset": asset,
        "balance": format_amount(notice.balance),
        "granted": format_amount(notice.granted),
        "rule": {"id": str(notice.rule_id), "kind": notice.kind, "threshold": threshold_text(notice)},
    }
    return Event(derived_id("event", kind.name, notice.id), kind.name, notice.raised_at, subject, data)


def threshold_text(notice: Notice | Rule) -> str:
    """A threshold as people write it: a share, an amount, days or a factor."""
    if notice.kind == "balance":
        return format_amount(int(notice.threshold))
    return format_quantity(notice.threshold)


def _columns(notices: Sequence[Notice]) -> dict[str, object]:
    return {
        "customer_ids": UuidArray(notice.customer_id for notice in notices),
        "ids": UuidArray(notice.id for notice in notices),
        "rule_ids": UuidArray(notice.rule_id for notice in notices),
        "kinds": [notice.kind for notice in notices],
        "ledgers": array(notice.ledger for notice in notices),
        "thresholds": [notice.threshold for notice in notices],
        "balances": array(notice.balance for notice in notices),
        "granted": array(notice.granted for notice in notices),
        "spent": [notice.spent for notice in notices],
        "usual": [notice.usual for notice in notices],
        "ends_at": [notice.ends_at for notice in notices],
        "raised_at": [notice.raised_at for notice in notices],
    }


def _wallets(wallets: Iterable[Wallet]) -> dict[str, object]:
    listed = list(wallets)
    return {
        "customer_ids": UuidArray(customer_id for customer_id, _ in listed),
        "ledgers": array(number for _, number in listed),
    }
