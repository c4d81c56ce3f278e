"""``tally pull``: usage of a period out of Prometheus, through the same intake as everything else."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from tallystick.commands import console
from tallystick.commands.books import open_books
from tallystick.commands.options import DataDir, ExitCode, InvalidUsage, Json, read_settings
from tallystick.kernel.errors import TallyError
from tallystick.metering.model import Rejection
from tallystick.metering.pulls import SETTLED, Plan, Recorded, record_period
from tallystick.metering.sources.prometheus_query import open_prometheus, steps_between
from tallystick.service import pull_plan_of
from tallystick.settings import Settings

MAX_LISTED = 20
"""Rejected samples that are listed. All of them are counted."""

MAX_WARNINGS = 20

ANY = datetime(1970, 1, 1, tzinfo=UTC)

_STEP = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(slots=True)
class Tally:
    """What became of a period. Until ``until`` everything is recorded."""

    until: str
    steps: int = 0
    accepted: int = 0
    duplicates: int = 0
    unpriced: int = 0
    ignored: int = 0
    rejected: int = 0
    listed: list[Rejection] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, recorded: Recorded) -> None:
        pulled = recorded.pulled
        for receipt in recorded.receipts:
            self.accepted += receipt.accepted
            self.duplicates += receipt.duplicates
            self.unpriced += receipt.unpriced
            self.rejected += len(receipt.rejected)
            self.listed += receipt.rejected[: MAX_LISTED - len(self.listed)]
        self.until = pulled.until.isoformat()
        self.steps += pulled.steps
        self.ignored += pulled.ignored
        new = [warning for warning in pulled.warnings if warning not in self.warnings]
        self.warnings += new[: MAX_WARNINGS - len(self.warnings)]


class PullStopped(TallyError):
    """The period was recorded in part; the sentence says until when."""

    def __init__(self, error: TallyError, tally: Tally) -> None:
        recorded = f". Everything before {tally.until} is recorded: go on with --since {tally.until}"
        super().__init__(error.detail + (recorded if tally.steps else ""))
        self.code, self.status = error.code, error.status


def pull_usage(
    since: Annotated[str, typer.Option(help="First instant, for example 2026-11-01T00:00:00Z.")],
    until: Annotated[
        str | None, typer.Option(help="Where to stop; that instant is not included.", show_default="a minute ago")
    ] = None,
    step: Annotated[str, typer.Option(help="Distance of instants that are asked for: 15s, 5m, 1h, 1d.")] = "1h",
    prometheus: Annotated[
        str | None, typer.Option(help="URL of Prometheus.", show_default="TALLY_PROMETHEUS_URL")
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Record usage of a period from Prometheus.

    Asks for the series of TALLY_SERIES_FILE, or those of the OpenStack exporter, at whole multiples of the step. A
    period that is pulled again changes nothing, so repeat what was interrupted. What cannot be charged is kept in
    quarantine; the exit status is then 1. A bearer token is taken from PORTAL_AUTH_TOKEN.
    """
    settings = read_settings(data_dir=data_dir, prometheus_url=prometheus)
    if (plan := pull_plan_of(settings)) is None:
        raise InvalidUsage("say where Prometheus is, with --prometheus or TALLY_PROMETHEUS_URL", field="prometheus")
    first, distance = _instant(since, "since"), _distance(step)
    end = None if until is None else _instant(until, "until")
    tally = asyncio.run(_pull(settings, plan, first, end, distance))
    _show(tally, as_json=json)
    if tally.rejected:
        raise typer.Exit(ExitCode.NO)


def _instant(text: str, field: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidUsage(f"--{field} must be an instant with a zone, as 2026-11-01T00:00:00Z", field=field)
    return instant


def _distance(text: str) -> timedelta:
    match = _STEP.fullmatch(text)
    if match is None:
        raise InvalidUsage("--step must be a number with its unit: 15s, 5m, 1h, 1d", field="step")
    step = timedelta(**{_UNITS[match[2]]: int(match[1])})
    steps_between(ANY, ANY, step)  # before anything is opened
    return step


async def _pull(settings: Settings, plan: Plan, since: datetime, until: datetime | None, step: timedelta) -> Tally:
    async with open_books(settings) as service, open_prometheus(plan.url, plan.token) as client:
        settled = service.clock.now() - SETTLED
        end = settled if until is None else min(until, settled)
        tally = Tally(since.isoformat())
        windows = record_period(service.intake, client, service.prometheus, since, end, step)
        with console.progress_bar("steps") as progress:
            task = progress.add_task("pulling", total=len(steps_between(since, end, step)))
            try:
                async with aclosing(windows):
                    async for recorded in windows:
                        tally.add(recorded)
                        progress.update(task, completed=tally.steps)
            except TallyError as error:
                raise PullStopped(error, tally) from error
        return tally


def _show(tally: Tally, *, as_json: bool) -> None:
    if as_json:
        console.print_json(asdict(tally) | {"listed": [_fields(each) for each in tally.listed]})
        return
    names = ("steps", "accepted", "duplicates", "unpriced", "ignored", "rejected")
    table = console.table("Pulled", "until", *(f"{name}>" for name in names))
    console.add_row(table, (tally.until, *(getattr(tally, name) for name in names)))
    console.out.print(table)
    for each in tally.listed:
        console.warn(f"{each.detail} ({each.code})")
    for warning in tally.warnings:
        console.warn(f"Prometheus warns: {warning}")


def _fields(rejection: Rejection) -> dict[str, str]:
    return {"code": rejection.code, "detail": rejection.detail}
