"""Pulls: how far sources that are asked for periods have been asked."""

from __future__ import annotations

from datetime import datetime

from tallystick.web.native import Serving, Shown, routes_of, transaction

router = routes_of("/pulls", "Readings")


class PullShown(Shown):
    """Everything from `since` to before `until` is recorded; `moved_at` is when that was reached.

    It is asked for every instant that is a multiple of `step_seconds`. Until the next one has come, `until` is ahead.
    """

    source: str
    since: datetime
    until: datetime
    step_seconds: int
    moved_at: datetime


class PullsShown(Shown):
    items: list[PullShown]


@router.get("")
async def list_pulls(service: Serving) -> PullsShown:
    """How far each source has been pulled: none before the first time, and none without `TALLY_PROMETHEUS_URL`."""
    async with transaction(service) as conn:
        return PullsShown(items=[PullShown.model_validate(pull) for pull in await service.pulls.all(conn)])
