"""Looks, by the hour, at how fast wallets are used up: forecasts, and spending that is unusual."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection

from tallystick.database.queries import Queries, UuidArray, array
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import derived_id
from tallystick.ledger.contract import Ledger
from tallystick.notices.burning import DAYS, Burn, Days, forecast, unusual
from tallystick.notices.model import Kind, Notice, Rule, Standing, Wallet
from tallystick.notices.watch import Place, Rules, Watch, next_wallets, rules_of

_SQL = Queries(Path(__file__).with_suffix(".sql"))

HOUR: Final = timedelta(hours=1)

KINDS: Final[tuple[Kind, ...]] = ("forecast", "unusual")


class Spending:
    """Works in the caller's transaction, and locks nothing."""

    def __init__(self, clock: Clock, zone: ZoneInfo, watch: Watch) -> None:
        self._clock = clock
        self._zone = zone
        self._watch = watch

    async def begins(self, conn: AsyncConnection, now: datetime) -> bool:
        """Whether it is time to look: somebody asks for it, and nobody has begun to look in this hour."""
        if not await _is_asked_for(conn):
            return False
        return await (await conn.execute(_SQL.begin_hour, {"hour": _hour(now)})).fetchone() is not None

    async def next_begin(self, conn: AsyncConnection, after: datetime) -> datetime | None:
        """The first instant later than ``after`` at which it is time; ``None`` if nobody asks for it."""
        return _hour(after) + HOUR if await _is_asked_for(conn) else None

    async def look_at_next(self, conn: AsyncConnection, ledger: Ledger, after: Place) -> Place | None:
        """Looks at the next wallets of all after a place; the place of the last one, ``None`` if there were no more."""
        wallets, last = await next_wallets(conn, after)
        rules = Rules(await rules_of(conn, {customer_id for customer_id, _ in wallets}, KINDS))
        watched = [wallet for wallet in wallets if rules.about(wallet)]
        if watched:
            now = self._clock.now()
            standings = await self._watch.standings(conn, ledger, watched)
            days = await self._days(conn, standings, now)
            notices = [
                notice
                for wallet, known in days.items()
                for notice in _found(wallet, rules.about(wallet), standings[wallet], known, now)
            ]
            await self._watch.raise_(conn, notices)
        return last

    async def _days(
        self, conn: AsyncConnection, standings: Mapping[Wallet, Standing], now: datetime
    ) -> dict[Wallet, Days]:
        """What is known of the days of these wallets, today included."""
        today = now.astimezone(self._zone).date()
        columns = _wallets(standings) | {"day": today, "first_day": today - timedelta(days=DAYS), "now": now}
        await conn.execute(_SQL.begin_day, columns | {"used": array(each.used for each in standings.values())})
        await conn.execute(_SQL.forget_days, columns)
        rows = await (await conn.execute(_SQL.days, columns)).fetchall()
        return {
            (customer_id, number): Days(first, first_at, int(first_used), today, int(today_used))
            for customer_id, number, first, first_at, first_used, today_used in rows
        }


async def _is_asked_for(conn: AsyncConnection) -> bool:
    ((asked,),) = await (await conn.execute(_SQL.any_rule)).fetchall()
    return bool(asked)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _found(wallet: Wallet, rules: Iterable[Rule], standing: Standing, days: Days, now: datetime) -> Iterator[Notice]:
    """Once before more money comes in for a forecast, once a day for unusual spending: their ids say so."""
    for rule in rules:
        if rule.kind == "forecast" and (burn := forecast(rule, standing, days, now)):
            yield _notice(wallet, rule, standing, burn, now, str(standing.came_in))
        if rule.kind == "unusual" and (burn := unusual(rule, standing, days)):
            yield _notice(wallet, rule, standing, burn, now, days.today.isoformat())


def _notice(wallet: Wallet, rule: Rule, standing: Standing, burn: Burn, now: datetime, once: str) -> Notice:
    customer_id, number = wallet
    return Notice(
        customer_id,
        derived_id("notice", rule.id, customer_id, str(number), once),
        rule.id,
        rule.kind,
        number,
        rule.threshold,
        standing.balance,
        standing.granted,
        now,
        burn.spent,
        burn.usual,
        burn.ends_at,
    )


def _wallets(wallets: Collection[Wallet]) -> dict[str, object]:
    return {
        "customer_ids": UuidArray(customer_id for customer_id, _ in wallets),
        "ledgers": array(number for _, number in wallets),
    }
