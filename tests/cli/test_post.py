"""``tally post``: months posted by hand, on the books themselves or by a running service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Server, Tally
from tests.cli.test_worker import until

EVENT = {"id": "1", "subject": "org", "type": "tokens", "time": "2026-02-01T12:00:00Z", "data": {"value": "3"}}
PRICE = ("prices", "create", "tokens", "--from", "2026-01-01T00:00:00Z", "--amount", "2")


def used(tally: Tally, *books: str) -> str:
    (balance,) = tally("customers", "show", "org", "--json", *books).document["balances"] or [{"used": "0"}]
    return str(balance["used"])


def test_what_is_not_posted_of_a_month_and_before_it_is_posted_once(books: Tally, tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_text(json.dumps(EVENT))
    assert books("customers", "create", "org", "--posting-policy", "monthly").code == 0
    assert books("import", tmp_path / "events.ndjson").code == 0
    assert books(*PRICE).code == 0
    assert books("post", "2026-01", "--json").document == {"month": "2026-01", "customers": 0}
    assert used(books) == "0"
    assert books("post", "2026-03").out == "Usage of 1 customers' months up to 2026-03 has been posted.\n"
    assert used(books) == "6"
    again = books("post", "--json")
    assert (again.code, again.document["customers"], used(books)) == (0, 0, "6")
    assert books("verify").code == 0


@pytest.mark.parametrize("month", ["9000-01", "2026", "last"])
def test_a_month_that_cannot_be_posted_is_said(books: Tally, month: str) -> None:
    refused = books("post", month, "--json")
    assert (refused.code, refused.document["error"]["field"]) == (2, "month")


@pytest.mark.integration
def test_a_running_service_posts_by_a_job(server: Server, tally: Tally) -> None:
    service = ("--url", server.url)
    assert tally("customers", "create", "org", "--posting-policy", "monthly", *service).code == 0
    server.post("/api/v1/events", EVENT)
    assert tally(*PRICE, *service).code == 0
    asked = tally("post", "2026-02", "--json", *service).document
    assert (asked["duplicate"], asked["waiting"]) == (False, 1)
    until(lambda: json.loads(server.get(f"/api/v1/jobs/{asked['job']}"))["state"] == "done")
    assert used(tally, *service) == "6"
