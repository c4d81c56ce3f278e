"""Puts the jobs of the schedule into the queue, each slot once, however many workers there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog

from tallystick.database.pool import Connection
from tallystick.database.queries import Queries
from tallystick.jobs.cron import Cron
from tallystick.jobs.schedule import Entry

MAX_SLOTS_AT_ONCE = 500
"""Of one entry; whoever was down for long catches up in portions."""

_UTC = ZoneInfo("UTC")
_END = datetime.max.replace(tzinfo=UTC)
_SQL = Queries(Path(__file__).with_name("queries.sql"))
_log = structlog.get_logger()


class Timetable:
    """One process's view of the schedule: up to when each entry is carried out, and what comes next.

    The database has the last word: a slot is a row that only one can insert. The view only saves asking it.
    """

    def __init__(self, entries: Iterable[Entry], zone: ZoneInfo) -> None:
        self._lines = {entry.job: _Line(entry, zone) for entry in entries}
        self._open = False

    @property
    def jobs(self) -> set[str]:
        """The kinds of jobs that it names."""
        return set(self._lines)

    async def open(self, conn: Connection, now: datetime) -> None:
        """Reads up to when each entry has been carried out. New entries begin now."""
        names = list(self._lines)
        await conn.execute(_SQL.begin, {"names": names, "now": now})
        for name, until in await (await conn.execute(_SQL.carried_out, {"names": names})).fetchall():
            self._lines[name].begin(until)
        self._open = True

    @property
    def next_slot(self) -> datetime | None:
        """The earliest slot that is not carried out yet; ``None`` if there is none in all time."""
        soonest = min((line.next_slot for line in self._lines.values()), default=_END)
        return None if soonest == _END else soonest

    def is_due(self, now: datetime) -> bool:
        """Whether ``carry_out`` would find anything, as far as this process knows."""
        return not self._open or any(line.next_slot <= now for line in self._lines.values())

    async def carry_out(self, conn: Connection, now: datetime) -> int:
        """Enters all slots up to ``now`` that are not in the table yet, and a job for each; how many were found.

        A single statement: on a connection that is not in a transaction, it has been done when this returns. Afterwards
        slots may be left, if there were very many: ``next_slot`` is not later than ``now`` then.
        """
        if not self._open:
            await self.open(conn, now)
        found = {name: line.due(now) for name, line in self._lines.items() if line.next_slot <= now}
        slots = [(name, slot) for name, (due, _) in found.items() for slot in due]
        parameters = {
            "now": now,
            "names": list(found),
            "until": [until for _, until in found.values()],
            "slot_names": [name for name, _ in slots],
            "slots": [slot for _, slot in slots],
        }
        await conn.execute(_SQL.enter, parameters)
        for name, (due, until) in found.items():
            self._lines[name].carried_out(until)
            _log.debug("schedule.entered", job=name, slots=len(due), until=until.isoformat())
        return len(slots)


class _Line:
    """An entry, with the slots that come next."""

    def __init__(self, entry: Entry, zone: ZoneInfo) -> None:
        self._cron = Cron(entry.cron, zone if entry.zone == "business" else _UTC)
        self._every = entry.missed == "every"
        self._until = _END
        self._slots: Iterator[datetime] = iter(())
        self._ahead = deque([_END])
        """The slots that come next, as far as they have been looked at; at least one."""

    @property
    def next_slot(self) -> datetime:
        """The end of all time if there is none."""
        return self._ahead[0]

    def begin(self, until: datetime) -> None:
        """The entry is carried out up to ``until``."""
        self._until = until
        self._slots = self._cron.after(until)
        self._ahead = deque([next(self._slots, _END)])

    def due(self, now: datetime) -> tuple[list[datetime], datetime]:
        """The slots to enter, and up to when the entry is carried out with them."""
        limit = MAX_SLOTS_AT_ONCE if self._every else 1
        while self._ahead[-1] <= now and len(self._ahead) <= limit:
            self._ahead.append(next(self._slots, _END))
        due = [slot for slot in self._ahead if slot <= now][:limit]
        if self._ahead[-1] > now or not due:
            return due, now
        if self._every:
            return due, due[-1]
        last = self._cron.last(self._until, now)
        return [last] if last else [], now

    def carried_out(self, until: datetime) -> None:
        """Slots up to ``until`` are done with."""
        if self._ahead[-1] <= until:
            self.begin(until)
            return
        self._until = until
        while self._ahead[0] <= until:
            self._ahead.popleft()
