"""The test clock of `tally serve --dev --clock INSTANT`: where it stands, and on it goes."""

from __future__ import annotations

from datetime import datetime

from tallystick.jobs.rehearsal import Rehearsal
from tallystick.kernel.errors import NotFound
from tallystick.service import Service
from tallystick.web.native import Asked, Serving, Shown, refusals, routes_of
from tallystick.web.values import Instant

router = routes_of("/test-clock", "Operations", refused=(404,))


class ClockShown(Shown):
    now: datetime
    moving_to: datetime | None
    """Where it is going, while it moves."""


class ClockAsked(Asked):
    now: Instant


class MovedShown(Shown):
    """What happened on the way: things that fell due, by their names, and attempts at jobs."""

    since: datetime
    now: datetime
    instants: int
    due: dict[str, int]
    jobs: int


@router.get("")
async def get_clock(service: Serving) -> ClockShown:
    """Where the clock stands. 404 if the service runs by the machine's clock."""
    return ClockShown.model_validate(_rehearsal(service))


@router.put("", responses=refusals(409, body=True))
async def move_clock(body: ClockAsked, service: Serving) -> MovedShown:
    """Moves the clock forward, and answers when all that is due in between is done, in the order of time.

    A year with a job every hour takes some 20 seconds, and what the jobs do. It goes on if the caller leaves.
    """
    return MovedShown.model_validate(await _rehearsal(service).move(body.now))


def _rehearsal(service: Service) -> Rehearsal:
    if service.rehearsal is None:
        raise NotFound("this service runs by the machine's clock: a test clock needs tally serve --dev --clock INSTANT")
    return service.rehearsal
