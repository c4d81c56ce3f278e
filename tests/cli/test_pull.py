"""``tally pull``: a period out of Prometheus into the books, once however often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tallystick.metering.sources import prometheus_query
from tests.cli.conftest import Tally
from tests.doubles.prometheus_api import PrometheusApi

START = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp())
SINCE, UNTIL = "2026-10-01T00:00:00Z", "2026-10-01T04:00:00Z"

LABELS = json.dumps({"__name__": "project_vcpu_usage", "location_id": "8676", "project_name": "p"})
OTHER = json.dumps({"__name__": "project_vcpu_usage", "project_name": "q"})


def counter(query: str, second: int) -> dict[str, str | None]:
    return {LABELS: str((second - START) / 3600)} if query == "project_vcpu_usage" else {}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrometheusApi]:
    monkeypatch.setattr(prometheus_query, "FIRST_PAUSE_SECONDS", 0)
    with PrometheusApi(counter) as started:
        yield started


def options(api: PrometheusApi, *more: str) -> list[str]:
    return ["pull", "--since", SINCE, "--until", UNTIL, "--prometheus", api.url, *more]


def test_pulling_twice_counts_once(books: Tally, api: PrometheusApi) -> None:
    first = books(*options(api), "--json")
    assert (first.code, first.err) == (0, "")
    assert first.document == {
        "until": "2026-10-01T04:00:00+00:00",
        "steps": 4,
        "accepted": 4,
        "duplicates": 0,
        "unpriced": 0,
        "ignored": 0,
        "rejected": 0,
        "listed": [],
        "warnings": [],
    }
    again = books(*options(api), "--json").document
    assert (again["accepted"], again["duplicates"]) == (0, 4)
    (balance,) = books("customers", "show", "p", "--json").document["balances"]
    assert balance["used"] == "3"
    assert books("verify", "--json").document["holds"]
    table = books(*options(api)).out.splitlines()
    assert table[1].split() == ["until", "steps", "accepted", "duplicates", "unpriced", "ignored", "rejected"]
    assert table[2].split() == ["2026-10-01T04:00:00+00:00", "4", "0", "4", "0", "0", "0"]


def test_steps_may_be_chosen(books: Tally, api: PrometheusApi) -> None:
    pulled = books(*options(api, "--step", "30m", "--json")).document
    assert (pulled["steps"], pulled["accepted"]) == (8, 8)


def test_the_future_is_not_pulled(books: Tally, api: PrometheusApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that has not come yet would be taken for complete."""
    ahead = ["--since", "9990-01-01T00:00:00Z", "--prometheus", api.url, "--json"]
    pulled = books("pull", *ahead, "--until", "9990-01-02T00:00:00Z").document
    assert (pulled["steps"], pulled["until"], api.asked) == (0, "9990-01-01T00:00:00+00:00", [])
    assert books("pull", *ahead).document["steps"] == 0


def test_where_prometheus_is_may_come_from_the_environment(
    books: Tally, api: PrometheusApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = "portal-secret"  # pragma: allowlist secret
    monkeypatch.setenv("TALLY_PROMETHEUS_URL", api.url)
    monkeypatch.setenv("PORTAL_AUTH_TOKEN", "portal-secret")
    assert books("pull", "--since", SINCE, "--until", UNTIL, "--json").document["accepted"] == 4
    monkeypatch.setenv("PORTAL_AUTH_TOKEN", "wrong")
    refused = books("pull", "--since", SINCE, "--until", UNTIL, "--json")
    assert (refused.code, refused.document["error"]["code"]) == (3, "prometheus_refuses")


def test_the_file_of_series_is_used(
    books: Tally, api: PrometheusApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "series.toml"
    path.write_text("[[series]]\nselect = 'project_vcpu_usage'\ncustomer = 'location_id'\nscale = 2\n")
    monkeypatch.setenv("TALLY_SERIES_FILE", str(path))
    books(*options(api))
    (balance,) = books("customers", "show", "8676", "--json").document["balances"]
    assert balance["used"] == "6"
    path.write_text("[[series]]\nselect = 'project_vcpu_usage{'\n")
    refused = books(*options(api), "--json")
    assert (refused.code, refused.document["error"]["field"]) == (2, "series[1].select")
    assert refused.document["error"]["detail"].startswith(f"the file of series {path}: rule 1 (project_vcpu_usage{{):")


def test_what_cannot_be_charged_is_listed_and_kept(books: Tally, api: PrometheusApi) -> None:
    api.value = lambda query, second: {LABELS: "1", OTHER: "1"} if "vcpu" in query else {}
    pulled = books(*options(api))
    assert pulled.code == 1
    assert "label location_id is required (missing_label)" in pulled.err
    assert len(books("quarantine", "list", "--json").document["items"]) == 1


def test_a_failure_says_until_when_all_is_recorded(
    books: Tally, api: PrometheusApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_query, "WINDOW_POINTS", 2)

    def failing(query: str, second: int) -> dict[str, str | None]:
        if second == START:
            api.faults = []
        if second >= START + 3600 and query == "project_mb_usage":
            api.faults = [(503, {}, b"")] * 100
        return counter(query, second)

    api.value = failing
    stopped = books(*options(api), "--json")
    assert stopped.code == 3
    assert stopped.document["error"]["code"] == "prometheus_unavailable"
    assert stopped.document["error"]["detail"].endswith("go on with --since 2026-10-01T02:00:00+00:00")
    api.faults, api.value = [], counter
    assert books(*options(api), "--json").document["duplicates"] == 2


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--since", "yesterday"], "since"),
        (["--since", "2026-10-01T00:00:00"], "since"),
        (["--since", SINCE, "--until", "soon"], "until"),
        (["--since", SINCE, "--step", "1"], "step"),
        (["--since", SINCE, "--step", "0s"], "step"),
        (["--since", SINCE, "--step", "999999d"], "step"),
    ],
)
def test_options_that_cannot_be_read_are_named(
    books: Tally, api: PrometheusApi, arguments: list[str], field: str
) -> None:
    refused = books("pull", *arguments, "--prometheus", api.url, "--json")
    assert (refused.code, refused.document["error"]["field"]) == (2, field)


def test_one_must_say_where_prometheus_is(books: Tally) -> None:
    refused = books("pull", "--since", SINCE, "--json")
    assert (refused.code, refused.document["error"]["field"]) == (2, "prometheus")
