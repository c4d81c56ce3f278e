"""``tally worker``, ``tally jobs``, and ``tally serve`` with a test clock, as an operator starts them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.conftest import STOP_SECONDS, Serve, Server, Tally

pytestmark = pytest.mark.integration

DEFER = """
    select procrastinate_defer_jobs_v1(
        array[row('prune-jobs', 'prune-jobs', 0, null, null, '{}', null)::procrastinate_job_to_defer_v1]
    )
"""


@contextmanager
def worker(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``tally worker`` that has said that it works."""
    command = [sys.executable, "-m", "tallystick.cli", "worker", "--data-dir", str(data_dir), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_SECONDS)
        process.stdout.close()


def defer(server: Server) -> int:
    with psycopg.connect((server.data_dir / "database-url").read_text(), autocommit=True) as connection:
        ((ids,),) = connection.execute(DEFER).fetchall()
        return int(ids[0])


def state(server: Server, job_id: int) -> str:
    return str(json.loads(server.get(f"/api/v1/jobs/{job_id}"))["state"])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def put(server: Server, path: str, body: object) -> Any:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="PUT"
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_serve_runs_jobs_by_itself(server: Server) -> None:
    job_id = defer(server)
    until(lambda: state(server, job_id) == "done")


def test_a_worker_of_its_own_runs_them_and_stops_in_good_order(serve: Serve, tally: Tally, tmp_path: Path) -> None:
    server = serve(tmp_path / "books", "--dev", "--no-worker")
    job_id = defer(server)
    with worker(server.data_dir) as process:
        until(lambda: state(server, job_id) == "done")
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
    waiting = defer(server)
    listed = tally("jobs", "list", "--state", "waiting", "--json", "--data-dir", server.data_dir)
    assert [job["id"] for job in listed.document["items"]] == [waiting]
    assert server.stop() == 0


def test_dead_jobs_are_listed_and_tried_again(books: Tally, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        ((ids,),) = connection.execute(DEFER).fetchall()
        connection.execute("update procrastinate_jobs set status = 'failed'")
        connection.execute("insert into job_failures values (%s, now(), 'RuntimeError: [bold] rain')", (ids[0],))
    assert [job["id"] for job in books("jobs", "list", "--dead", "--json").document["items"]] == ids
    assert "RuntimeError: [bold] rain" in books("jobs", "list", "--dead").out
    again = books("jobs", "retry", str(ids[0]), "--json")
    assert (again.code, again.document["state"]) == (0, "waiting")
    refused = books("jobs", "retry", str(ids[0]))
    assert (refused.code, "only dead jobs" in refused.err) == (1, True)
    assert books("jobs", "retry", "999").code == 1


def test_a_test_clock_survives_a_kill_and_keeps_its_books(serve: Serve, tally: Tally, tmp_path: Path) -> None:
    options = ("--dev", "--clock", "2026-01-01T00:00:00-05:00")
    server = serve(tmp_path / "books", *options)
    assert json.loads(server.get("/api/v1/test-clock"))["now"] == "2026-01-01T05:00:00Z"
    moved = put(server, "/api/v1/test-clock", {"now": "2026-02-01T12:00:00Z"})
    assert moved["now"] == "2026-02-01T12:00:00Z"
    jobs = json.loads(server.get("/api/v1/jobs?limit=1000"))["items"]
    assert len(jobs) == moved["jobs"]
    assert [job["name"] for job in jobs].count("prune-jobs") == 31  # once a day
    server.post("/api/v1/customers", {"key": "ada"})
    refused = tally("worker", "--data-dir", server.data_dir)
    assert (refused.code, "these books live by a test clock" in refused.err) == (1, True)
    created = tally("customers", "create", "bob", "--json", "--data-dir", server.data_dir)
    assert created.document["created_at"].startswith("2026-02-01T12:00:00")
    server.stop(signal.SIGKILL)

    refused = tally("serve", "--dev", "--port", "0", "--data-dir", server.data_dir)
    assert (refused.code, "which stands at 2026-02-01T12:00:00+00:00" in refused.err) == (1, True)
    server = serve(tmp_path / "books", *options)
    assert json.loads(server.get("/api/v1/test-clock"))["now"] == "2026-02-01T12:00:00Z"
    assert json.loads(server.get("/api/v1/customers/ada"))["created_at"].startswith("2026-02-01T12:00:00")
    assert server.stop() == 0


def test_a_test_clock_is_for_new_books_and_for_dev(server: Server, serve: Serve, tally: Tally, tmp_path: Path) -> None:
    for options, code, sentence in (
        (("--clock", "2026-01-01T00:00:00Z"), 2, "needs --dev"),
        (("--dev", "--clock", "2026-01-01T00:00:00"), 2, "with a zone"),
        (("--dev", "--clock", "tomorrow"), 2, "with a zone"),
    ):
        refused = tally("serve", "--port", "0", "--data-dir", tmp_path, *options)
        assert (refused.code, sentence in refused.err) == (code, True), refused.err
    assert not list(tmp_path.iterdir())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("/api/v1/test-clock")
    tally("customers", "create", "ada", "--data-dir", tmp_path / "old")
    refused = tally("serve", "--dev", "--port", "0", "--clock", "2030-01-01T00:00:00Z", "--data-dir", tmp_path / "old")
    assert (refused.code, "these books live by the machine's clock" in refused.err) == (1, True)
