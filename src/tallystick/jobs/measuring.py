"""The job ``measure-usage``: reads every source."""

from __future__ import annotations

from tallystick.jobs.kinds import SLOT, Run
from tallystick.kernel.errors import TallyError, Unavailable
from tallystick.kernel.ids import derived_id
from tallystick.metering.readings import Readings
from tallystick.metering.sources.sweep import Source

NAME = "measure-usage"


class Measuring:
    """Takes the periodic readings for the schedule; for anybody else readings by hand, which stand beside them."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    async def run(self, run: Run) -> None:
        """One source that cannot be read keeps no other from being read.

        Raises ``Unavailable`` in the end if nothing could be read of one of them: the job is tried again, and whatever
        is complete by then is left alone.
        """
        unread = [source.key for source in self._readings.sources if not await self._is_read(source, run)]
        if unread:
            raise Unavailable(f"nothing could be read of {', '.join(unread)}")

    async def _is_read(self, source: Source, run: Run) -> bool:
        periodic = SLOT in run.args
        # A job that is tried again must not add to what it read by hand before.
        reading_id = None if periodic else derived_id("manual reading", source.key, f"job {run.job_id}")
        try:
            reading = await self._readings.take(source, periodic=periodic, reading_id=reading_id)
        except TallyError:
            return False
        return reading.state != "failed"
