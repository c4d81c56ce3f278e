"""The schedule, and nothing else: which job is done when.

How a job is done is said in the room that owns it, and wired in ``service.py``. What has a time of its own, as a hold
that expires, is not here: see ``due.py``. How cron expressions meet the changes of the clock: see ``cron.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the schedule."""

    job: str
    """The kind of job."""
    cron: str
    """Minute, hour, day of the month, month, day of the week."""
    zone: Literal["UTC", "business"]
    """Whose clocks are read; ``business`` is the zone whose months are billed."""
    missed: Literal["every", "last"]
    """What is done about slots at which nothing ran: all of them, in their order, or only the last one."""


SCHEDULE = (
    Entry("measure-usage", "1 * * * *", "UTC", missed="last"),  # what was not read in its hour cannot be read later
    Entry("pull-usage", "5 * * * *", "UTC", missed="last"),  # asks for whatever was missed
    Entry("post-usage", "1 6 1 * *", "business", missed="last"),  # posts every month that is not posted
    Entry("watch-balances", "* * * * *", "UTC", missed="last"),  # follows whatever moved
    Entry("prune-jobs", "30 3 * * *", "UTC", missed="last"),
    Entry("prune-webhooks", "40 3 * * *", "UTC", missed="last"),
)


def schedule_of(*, follows_ledger: bool, pulls_usage: bool) -> list[Entry]:
    """The schedule without what there is nothing to do for: nobody is woken to ask no Prometheus."""
    idle = {"watch-balances": not follows_ledger, "pull-usage": not pulls_usage}
    return [entry for entry in SCHEDULE if not idle.get(entry.job)]
