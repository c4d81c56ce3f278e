"""Forecasts and unusual spending, looked at by the hour."""

from __future__ import annotations

from datetime import timedelta

from tallystick.jobs.kinds import Run
from tallystick.kernel.clock import TestClock
from tallystick.notices.model import LEVELS, Sending
from tallystick.service import Service
from tests.notices.conftest import NOW, UNIT, define, events, instruct, raised
from tests.notices.test_watch import walks

DAY = timedelta(days=1)


async def look(service: Service) -> None:
    await walks(service).spending(Run(1, 1, {}))


async def spend_daily(service: Service, clock: TestClock, key: str, amount: int, days: int) -> None:
    """Each day the same, beginning today; looked at once a day, before it is spent."""
    for _ in range(days):
        await look(service)
        await instruct(service, "bill", key, amount)
        clock.advance(DAY)


async def told(service: Service, *customers: str) -> list[Sending]:
    """What these looks have raised."""
    found = await raised(service)
    return [
        each for each in found if each.notice.kind not in LEVELS and each.customer in (customers or (each.customer,))
    ]


async def days_kept(service: Service) -> int:
    async with service.pool.connection() as conn:
        ((days,),) = await (await conn.execute("select count(*) from notice_days")).fetchall()
    return int(days)


async def asked(service: Service) -> list[str]:
    """The jobs that wait."""
    await service.due.run_due()
    async with service.pool.connection() as conn:
        return [job.name for job in (await service.jobs.page(conn, "waiting", None, 10)).items]


async def test_nobody_looks_while_nobody_asks(service: Service) -> None:
    await instruct(service, "open", "lab", 1000)
    assert await asked(service) == []
    assert await service.due.next_due(NOW) is None
    await look(service)
    assert await days_kept(service) == 0


async def test_it_is_looked_once_an_hour(service: Service, clock: TestClock) -> None:
    await define(service, "forecast", 7)
    assert await asked(service) == ["watch-spending"]
    async with service.pool.connection() as conn:
        await conn.execute("update procrastinate_jobs set status = 'succeeded'")
    clock.advance(timedelta(minutes=59))
    assert await asked(service) == []
    assert await service.due.next_due(clock.now()) == NOW + timedelta(hours=1)
    clock.advance(timedelta(minutes=1))
    assert await asked(service) == ["watch-spending"]


async def test_a_forecast_is_told_once_before_more_money_comes_in(service: Service, clock: TestClock) -> None:
    await instruct(service, "open", "lab", 1000)
    await define(service, "forecast", 7, customer="lab")
    await spend_daily(service, clock, "lab", 50, 12)  # 400 left, that is eight days
    await look(service)
    assert await told(service) == []
    await spend_daily(service, clock, "lab", 50, 1)
    await look(service)
    clock.advance(timedelta(hours=1))
    await look(service)
    (notice,) = [each.notice for each in await told(service)]
    assert (notice.kind, notice.balance, notice.spent) == ("forecast", 350 * UNIT, 350 * UNIT)
    assert notice.ends_at == NOW + 13 * DAY + 7 * DAY
    kind, _, data = (await events(service))[-1]
    assert (kind, data["rule"]["kind"], data["rule"]["threshold"]) == ("balance.low", "forecast", "7")
    await instruct(service, "bill", "lab", 10)
    await look(service)
    assert len(await told(service)) == 1
    await instruct(service, "top_up", "lab", 1)  # which does not help
    await look(service)
    assert len(await told(service)) == 2


async def test_unusual_spending_is_told_once_a_day(service: Service, clock: TestClock) -> None:
    await instruct(service, "open", "lab", 10_000)
    await instruct(service, "open", "other", 10_000)
    await define(service, "unusual", 3, asset="CREDIT")
    await spend_daily(service, clock, "lab", 10, 5)
    await look(service)
    await instruct(service, "bill", "lab", 30)
    await instruct(service, "bill", "other", 5_000)  # of whom nothing is usual
    await look(service)
    assert await told(service) == []
    await instruct(service, "bill", "lab", 1)
    await look(service)
    await look(service)
    ((notice, customer),) = [
        (each.notice, each.customer) for each in await raised(service) if each.notice.kind == "unusual"
    ]
    assert (customer, notice.spent, notice.usual) == ("lab", 31 * UNIT, 10 * UNIT)
    clock.advance(DAY)
    await look(service)
    await instruct(service, "bill", "lab", 100)
    await look(service)
    assert [each.notice.kind for each in await told(service, "lab")] == ["unusual", "unusual"]


async def test_days_that_are_long_over_are_forgotten(service: Service, clock: TestClock) -> None:
    await instruct(service, "open", "lab", 1000)
    await define(service, "forecast", 1)
    await spend_daily(service, clock, "lab", 1, 20)
    await look(service)
    assert await days_kept(service) == 8
