"""The job ``pull-usage``: asks Prometheus for what came since it was asked last."""

from __future__ import annotations

from tallystick.jobs.kinds import Run
from tallystick.metering.pulls import Pulls

NAME = "pull-usage"

TIMEOUT_SECONDS = 3_600
"""What has been recorded by then stays recorded, and the next attempt goes on from there."""


class PullUsage:
    """Catches up, whichever slot it is for: after a time of being away the last one brings everything."""

    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls

    async def run(self, _: Run) -> None:
        """Goes on wherever an attempt before this one ended."""
        await self._pulls.catch_up()
