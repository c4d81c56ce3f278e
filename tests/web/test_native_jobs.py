"""Jobs as administrators see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from tallystick.jobs.schedule import SCHEDULE
from tallystick.service import Service
from tests.web.conftest import asking


async def put_job(service: Service, status: str, args: Mapping[str, Any] | None = None) -> int:
    async with service.pool.connection() as conn:
        job_id = await service.jobs.defer(conn, "prune-jobs", args)
        assert job_id is not None
        await conn.execute(
            "update procrastinate_jobs set status = %s::procrastinate_job_status where id = %s", (status, job_id)
        )
    return job_id


async def test_jobs_are_listed_page_by_page_and_shown(client: httpx.AsyncClient, service: Service) -> None:
    ids = [await put_job(service, status) for status in ("succeeded", "failed", "todo", "failed")]
    first = (await client.get("/api/v1/jobs", params={"state": "dead", "limit": 1})).json()
    assert [job["id"] for job in first["items"]] == [ids[3]]
    second = (await client.get("/api/v1/jobs", params={"state": "dead", "cursor": first["next"]})).json()
    assert ([job["id"] for job in second["items"]], second["next"]) == ([ids[1]], None)
    everything = (await client.get("/api/v1/jobs")).json()["items"]
    assert [job["state"] for job in everything] == ["dead", "waiting", "dead", "done"]
    shown = (await client.get(f"/api/v1/jobs/{ids[2]}")).json()
    assert shown == everything[1]
    assert (shown["name"], shown["args"], shown["attempts"], shown["error"]) == ("prune-jobs", {}, 0, None)


async def test_a_dead_job_is_tried_again_and_others_are_not(client: httpx.AsyncClient, service: Service) -> None:
    job_id = await put_job(service, "failed", {"slot": "2026-11-20T03:30:00+00:00"})
    again = await client.post(f"/api/v1/jobs/{job_id}/retry")
    assert (again.status_code, again.json()["state"]) == (200, "waiting")
    refused = await client.post(f"/api/v1/jobs/{job_id}/retry")
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (409, "conflict", "id")
    assert refused.json()["detail"] == f"the job {job_id} is waiting: only dead jobs are tried again"


async def test_what_does_not_exist_or_cannot_be(client: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/api/v1/jobs/7"), ("POST", "/api/v1/jobs/7/retry")):
        missing = await client.request(method, path)
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    for query in ("state=buried", "cursor=x", "limit=0"):
        assert (await client.get(f"/api/v1/jobs?{query}")).status_code == 422
    for odd in ("0", "-1", "x", str(2**63)):
        assert (await client.get(f"/api/v1/jobs/{odd}")).status_code == 422


async def test_jobs_are_for_administrators(service: Service) -> None:
    async with asking(service, dev=False, api_keys="shop", admin_api_keys="boss") as client:  # pragma: allowlist secret
        for key, status in (("shop", 403), ("boss", 200)):
            answer = await client.get("/api/v1/jobs", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status


def test_every_job_of_the_schedule_has_somebody_who_does_it(service: Service) -> None:
    """[B] The platform's system had its posting of usage in the schedule, and nobody was told to do it."""
    assert {entry.job for entry in SCHEDULE} <= set(service.jobs.names)
