"""Jobs in the background: what waits, what runs, what is dead and may be tried again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path

from tallystick.jobs.queue import MAX_ID, State
from tallystick.web.native import (
    DEFAULT_LIMIT,
    Cursor,
    Limit,
    Listing,
    Serving,
    Shown,
    refusals,
    routes_of,
    transaction,
)

router = routes_of("/jobs", "Jobs")

JobId = Annotated[int, Path(ge=1, le=MAX_ID)]


class JobShown(Shown):
    """A job. Its times are the machine's, under a test clock too."""

    id: int
    name: str
    state: State
    args: dict[str, Any]
    attempts: int
    deferred_at: datetime
    changed_at: datetime
    next_attempt_at: datetime | None
    error: str | None


@router.get("")
async def list_jobs(
    service: Serving, state: State | None = None, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Listing[JobShown]:
    """Jobs, newest first. Those that have been done are kept for a while, dead ones until they are tried again."""
    async with transaction(service) as conn:
        page = await service.jobs.page(conn, state, cursor, limit)
    return Listing(items=[JobShown.model_validate(job) for job in page.items], next=page.next)


@router.get("/{job_id}", responses=refusals(404))
async def get_job(job_id: JobId, service: Serving) -> JobShown:
    """One job."""
    async with transaction(service) as conn:
        return JobShown.model_validate(await service.jobs.get(conn, job_id))


@router.post("/{job_id}/retry", responses=refusals(404, 409))
async def retry_job(job_id: JobId, service: Serving) -> JobShown:
    """Has a dead job tried again, as often as a new one. A job that is not dead is refused with 409."""
    async with transaction(service) as conn:
        return JobShown.model_validate(await service.jobs.retry(conn, job_id))
