"""The job ``post-usage``: posts the months that are over."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from tallystick.billing.posting import Postings
from tallystick.jobs.kinds import SLOT, Run
from tallystick.kernel.calendar import month_before, parse_month

NAME = "post-usage"

MONTH = "month"
"""The argument in which a job that was asked for by hand finds the last month to be posted."""

TIMEOUT_SECONDS = 3_600
"""What has been posted by then stays posted, and the next attempt goes on from there."""


class PostUsage:
    """Posts for the schedule whatever is not posted of the months before its slot; by hand, up to a given month."""

    def __init__(self, postings: Postings, zone: ZoneInfo) -> None:
        self._postings = postings
        self._zone = zone

    async def run(self, run: Run) -> None:
        """Goes on wherever an attempt before this one ended."""
        by_schedule = SLOT in run.args
        last = month_before(run.slot, self._zone) if by_schedule else parse_month(run.args[MONTH], self._zone)
        await self._postings.post(last)
