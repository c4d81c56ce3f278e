"""``tally usage``: whose it is, which paths, which periods, and the report to the digit."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tallystick.commands.api import Api, ask
from tallystick.commands.options import read_settings
from tallystick.commands.usage import CUSTOMER_VARIABLE, _pattern
from tallystick.service import open_service
from tallystick.settings import Settings
from tests.cli.conftest import Tally

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MONTH = ("-a", "-1", "-b", "0", "-p", "month")


@pytest.mark.parametrize(
    ("pattern", "org", "space", "asked"),
    [
        (None, None, None, "apps.usage.cforg_%.space_%.*{1,}"),
        (None, "my-org", None, "apps.usage.cforg_my_org.space_%.*{1,}"),
        (None, "my%", None, "apps.usage.cforg_my%.space_%.*{1,}"),
        (None, None, "web", "apps.usage.cforg_%.space_web|space_web_%.*{1,}"),
        (None, "x", "web dev", "apps.usage.cforg_x.space_web_dev|space_web_dev_%.*{1,}"),
        (".cforg_x.*", "y", "z", "apps.usage.cforg_x.*"),
        ("*", None, None, "*"),
    ],
)
def test_the_paths_that_are_asked_for(pattern: str | None, org: str | None, space: str | None, asked: str) -> None:
    assert _pattern(pattern, org, space) == asked


# A platform's last month


def event(identity: str, meter: str, resource: str, value: str) -> dict[str, Any]:
    data = {"value": value, "resource": resource}
    return {"id": identity, "subject": "x-guid", "type": meter, "time": "2026-10-31T23:00:00Z", "data": data}


@pytest.fixture
def platform(books: Tally, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tally:
    """The sample of the platform's description, in October; it is November. A credit is shown as 50 US dollars."""
    monkeypatch.delenv(CUSTOMER_VARIABLE, raising=False)
    asyncio.run(_live_by_a_test_clock(database_url))
    assert books("customers", "create", "x-guid", "--name", "Agency X").code == 0
    file = tmp_path / "events.ndjson"
    used = [
        event("1", "cfapps", "a", "1000000"),
        event("2", "cfapps", "b", "2000000"),
        event("3", "cfservices", "s", "500000"),
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in used))
    assert books("import", file).code == 0
    for meter in ("cfapps", "cfservices"):
        price = ("--from", "2020-01-01T00:00:00Z", "--amount", "0.000001")
        assert books("prices", "create", meter, *price).code == 0
    space = "apps.usage.cforg_x.space_web_"
    items = [
        {"meter": "cfapps", "resource": "a", "path": f"{space}dev.app_a"},
        {"meter": "cfapps", "resource": "b", "path": f"{space}prod.app_b"},
        {"meter": "cfservices", "resource": "s", "path": f"{space}prod.svc_rds"},
    ]
    rate = {"in": "USD", "rate": "50", "effective_from": "2020-01-01T00:00:00Z"}

    async def arrange(api: Api) -> None:
        await api.put("customers", "x-guid", "resources", json={"items": items})
        await api.post("assets", "CREDIT", "rates", json=rate)

    ask(read_settings(), None, arrange)
    return books


async def _live_by_a_test_clock(url: str) -> None:
    async with open_service(Settings(dev=True, database_pool_size=4), url, rehearse_from=NOW):
        pass


def test_the_sample_to_the_digit(platform: Tally) -> None:
    shown = platform("usage", "-cid", "x-guid", *MONTH)
    assert shown.code == 0, shown
    title, header, *lines = shown.out.splitlines()
    assert title.strip() == "Usage of Agency X in 2026-10"
    assert header.split() == ["what", "measured", "unpriced", "asset", "microunits", "amount", "USD"]
    assert [(line[: len(line) - len(line.lstrip())], *line.split()) for line in lines] == [
        ("", "cforg_x", "3", "CREDIT", "3500000", "3.500", "175.00"),
        ("  ", "space_web", "3", "CREDIT", "3500000", "3.500", "175.00"),
        ("    ", "space_web_dev", "1", "CREDIT", "1000000", "1.000", "50.00"),
        ("      ", "app_a", "1", "CREDIT", "1000000", "1.000", "50.00"),
        ("    ", "space_web_prod", "2", "CREDIT", "2500000", "2.500", "125.00"),
        ("      ", "app_b", "1", "CREDIT", "2000000", "2.000", "100.00"),
        ("      ", "svc_rds", "1", "CREDIT", "500000", "0.500", "25.00"),
        ("", "total", "3", "CREDIT", "3500000", "3.500", "175.00"),
    ]


def test_fixed_the_report_is_printed_and_is_json_if_asked(platform: Tally) -> None:
    """[B] theirs was only logged."""
    document = platform("usage", "-cid", "x-guid", "--json").document
    (period,) = document["periods"]
    assert (period["period"], period["total"]["amounts"][0]["rounded"]) == ("2026-10", "3.500")
    assert period["total"]["amounts"][0]["display"]["amount"] == "175.00"


def test_who_is_meant(platform: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    platform("customers", "create", "other", "--name", "Agency Y")
    identity = platform("customers", "show", "x-guid", "--json").document["id"]
    for options in (("-cid", identity), ("-cid", "x-guid"), ("-cid=x-guid",), ("-cname", "agency x"), ("--name", "X$")):
        assert platform("usage", *options, "--json").document["customer"] == "x-guid", options
    monkeypatch.setenv(CUSTOMER_VARIABLE, identity)
    assert platform("usage", "--json").document["customer"] == "x-guid"
    assert platform("usage", "-cname", "Y$", "--json").document["customer"] == "other", "what is said counts first"
    monkeypatch.delenv(CUSTOMER_VARIABLE)
    unsaid = platform("usage", "--json")
    assert (unsaid.code, unsaid.document["error"]["field"]) == (2, "customer")


def test_a_name_that_means_none_or_several_says_so(platform: Tally) -> None:
    other = platform("customers", "create", "other", "--name", "Agency Y", "--json").document["id"]
    nobody = platform("usage", "-cname", "nobody")
    assert (nobody.code, nobody.out) == (1, "")
    assert nobody.err == "Error: found 0 customers for 'nobody', need 1\n"
    both = platform("usage", "-cname", "agency")
    assert both.code == 1
    first, *listed = both.err.splitlines()
    assert first == "Error: found 2 customers for 'agency', need 1"
    assert any("Agency Y" in line and other in line for line in listed)
    assert any("Agency X" in line for line in listed)
    error = platform("usage", "-cname", "agency", "--json").document["error"]
    assert (error["code"], error["field"]) == ("customers_found", "name")
    missing = platform("usage", "-cid", "nobody")
    assert (missing.code, missing.err) == (1, "Error: there is no customer 'nobody'\n")
    broken = platform("usage", "-cname", "(", "--json")
    assert (broken.code, broken.document["error"]["field"]) == (2, "name")


def test_which_periods(platform: Tally) -> None:
    def periods(*options: str) -> list[str]:
        document = platform("usage", "-cid", "x-guid", *options, "--json").document
        return [f"{one['period']} {len(one['tree'])}" for one in document["periods"]]

    assert periods() == periods(*MONTH) == periods("-a=-1", "-b=0", "-p=month") == ["2026-10 1"]
    assert periods("-a", "-2", "-b", "1") == ["2026-09 0", "2026-10 1", "2026-11 0"]
    assert periods("--after", "-20", "--before", "-19", "--period", "day") == ["2026-10-31 1"]
    assert periods("-a", "0", "-b", "1", "-p", "year") == ["2026 1"]
    for wrong in (("-a", "x"), ("-b", "1.5"), ("-p", "decade"), ("-a", "0")):
        assert platform("usage", "-cid", "x-guid", *wrong).code == 2, wrong


def test_which_paths(platform: Tally) -> None:
    def leaves(*options: str) -> list[str]:
        (period,) = platform("usage", "-cid", "x-guid", *options, "--json").document["periods"]
        found, nodes = [], list(period["tree"])
        while nodes:
            node = nodes.pop(0)
            nodes = node["children"] + nodes
            found += [node["name"]] if node["level"] == "leaf" else []
        return found

    assert (
        leaves()
        == leaves("-org", "x")
        == leaves("-space", "web")
        == leaves("-lq", "*")
        == ["app_a", "app_b", "svc_rds"]
    )
    assert leaves("-space", "web-dev") == ["app_a"]
    assert leaves("-org", "y") == leaves("-space", "we") == []
    assert leaves("-lq", ".cforg_x.%.svc_%") == ["svc_rds"]
    assert leaves("-org", "y", "-lq", ".cforg_x.*.app_a") == ["app_a"], "a pattern counts more"
    assert leaves("--depth", "2") == []
    shown = platform("usage", "-cid", "x-guid", "-org", "y").out
    assert re.search(r"^other paths +3 +CREDIT +3500000 +3\.500 +175\.00$", shown, re.MULTILINE), "nothing is lost"


def test_what_lacks_a_rate_has_no_cost(platform: Tally) -> None:
    shown = platform("usage", "-cid", "x-guid", "--display", "EUR")
    assert shown.code == 0
    assert "There is no rate to show CREDIT in EUR" in shown.err
    assert shown.out.splitlines()[-1].split() == ["total", "3", "CREDIT", "3500000", "3.500"]
