"""``tally demo`` holds, in any month, and its story is what it says it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from tallystick.demo import senders, story
from tallystick.demo.expectation import Expectation
from tallystick.demo.server import running_service
from tallystick.kernel.calendar import parse_month
from tallystick.kernel.errors import TallyError
from tests.cli.conftest import Tally

OCTOBER = parse_month("2026-10")


@pytest.mark.integration
def test_the_demo_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TALLY_DATABASE_URL": "postgresql://127.0.0.1:1/not-ours"}
    command = [sys.executable, "-m", "tallystick.cli", "demo", "--month", "2026-11", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["holds"]
    assert result["verify"]["holds"]
    assert result["expected"] == result["billed"]
    counts, quarantined = result["counts"], len(result["quarantine"])
    assert counts["sent"] == counts["charged"] + counts["unpriced"] + counts["duplicates"] + quarantined
    assert min(counts["unpriced"], counts["duplicates"], quarantined) > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_it_shows_tables_and_can_be_played_again_on_the_same_folder(tally: Tally, tmp_path: Path) -> None:
    first = tally("demo", "--month", "2026-02", "--data-dir", tmp_path)
    assert first.code == 0
    titles = (
        "Customers",
        "Bill of acme-support for 2026-02",
        "One charge, explained",
        "Nothing is lost",
        "The books, proved",
    )
    assert all(title in first.out for title in (*titles, "Everything holds."))
    again = tally("demo", "--month", "2026-03", "--data-dir", tmp_path, "--json")
    assert again.code == 0
    repeated = tally("demo", "--month", "2026-03", "--data-dir", tmp_path, "--json")
    assert repeated.code == 0
    for part in ("customers", "bill", "billed"):
        assert repeated.document[part] == again.document[part]


@pytest.mark.integration
async def test_a_service_that_does_not_start_shows_the_end_of_its_log() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tally.lock").mkdir()
        with pytest.raises(TallyError, match="the service did not start"):
            async with running_service(Path(folder)):
                pass


@pytest.mark.parametrize("month", ["2026-02", "2026-03", "2026-10", "2026-11"])
def test_the_story_covers_its_month_and_is_the_same_each_time(month: str) -> None:
    span = parse_month(month)
    days, again = list(story.tell(span)), list(story.tell(span))
    assert days == again
    usages = [usage for day in days for usage in (*day.counters, *day.tokens, *day.memory)]
    assert all(usage.at in span for usage in usages)
    assert len({(usage.customer, usage.meter, usage.resource, usage.at, usage.id) for usage in usages}) == len(usages)
    hours = (span.end - span.start) // story.HOUR
    assert sum(usage.resource == "catalogue" for usage in usages) == hours
    assert sum(usage.meter == story.VCPU for usage in usages) == hours * 4 * len(story.PROJECTS)


def test_one_total_falls_and_the_others_grow() -> None:
    series: dict[str, list[Decimal]] = {}
    for day in story.tell(OCTOBER):
        for usage in day.counters:
            if usage.meter == story.VCPU:
                series.setdefault(usage.customer, []).append(usage.value)
    falls = {
        customer: sum(later < earlier for earlier, later in pairwise(values)) for customer, values in series.items()
    }
    assert falls == {"genome-atlas": 0, "climate-grid": 0, "protein-fold": 1}


def test_the_expectation_is_arithmetic_that_a_pencil_can_do() -> None:
    expectation = Expectation()
    at = OCTOBER.start

    def use(meter: str, value: str, kind: str = "", customer: str = "a") -> None:
        expectation.add(story.Usage(at, customer, meter, Decimal(value), kind))

    for total in ("100", "104", "104", "90", "92.5"):
        use(story.VCPU, total)
    use(story.MEMORY, "747520")
    use(story.TOKENS, "600000", "gemini-2.5-flash/output", "b")
    use(story.TOKENS, "600000", "gemini-2.5-flash/output", "b")
    use(story.TOKENS, "1", story.UNPRICED_KIND, "b")
    assert expectation.costs() == {
        ("a", "CREDIT"): Fraction("26.5"),  # 4 + 2.5 vCPU hours, 20 for a GB during a month
        ("b", "USD"): Fraction("2.9"),  # a million at 0.0025, 200,000 at 0.002
    }
    assert (expectation.priced, expectation.unpriced) == (8, 1)


def test_the_exporters_line_has_the_labels_of_a_federated_exporter() -> None:
    usage = story.Usage(OCTOBER.start, "genome-atlas", story.VCPU, Decimal("12.5"), resource="8676")
    assert senders.influx_lines([usage]).body.decode() == (
        "project_vcpu_usage,__name__=project_vcpu_usage,domain_id=f3a1b0,domain_name=elixir,instance=usage_exporter:8080,"
        "job=project_usages,location=site-a,location_id=8676,project_id=86768676,project_name=genome-atlas "
        "value=12.5 1790827200000000000\n"
    )
