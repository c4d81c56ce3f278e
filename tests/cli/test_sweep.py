"""``tally sweep``: what a Cloud Foundry platform says now, which nobody records."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Tally
from tests.doubles.capi import CLIENT_ID, CLIENT_SECRET, Capi
from tests.metering.sources.platforms import put_platform


@pytest.fixture
def platform(capi: Capi, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> Capi:
    """A platform with two apps and a service, which the environment names as its first users did."""
    put_platform(capi, apps=2)
    monkeypatch.setenv("CF_API_URL", capi.url)
    monkeypatch.setenv("CF_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("CF_CLIENT_SECRET", CLIENT_SECRET)
    return capi


def test_it_shows_what_is_there(platform: Capi, tally: Tally) -> None:
    ran = tally("sweep", "cloud-foundry")
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["cloud-foundry"]
    assert lines[2] == ["cfapps", "app-1", "org-1", "1024", "apps.usage.cforg_agency.space_web_dev.app_shop_1"]
    assert [line[:2] for line in lines[2:]] == [["cfapps", "app-1"], ["cfapps", "app-2"], ["cfservices", "svc-1"]]


def test_json_holds_all_of_it_with_exact_values(platform: Capi, tally: Tally) -> None:
    ran = tally("sweep", "cloud-foundry", "--json", "--limit", "1")
    assert (ran.code, ran.err) == (0, "")
    assert ran.document["failures"] == []
    assert [item["resource"] for item in ran.document["items"]] == ["app-1", "app-2", "svc-1"]
    assert ran.document["items"][0] == {
        "meter": "cfapps",
        "resource": "app-1",
        "value": "1024",
        "customer": "org-1",
        "kind": "",
        "path": "apps.usage.cforg_agency.space_web_dev.app_shop_1",
        "name": "shop 1",
        "fault": None,
    }


def test_a_long_list_is_cut_and_says_so(platform: Capi, tally: Tally) -> None:
    ran = tally("sweep", "cloud-foundry", "--limit", "2")
    assert (ran.code, ran.err) == (0, "There are 3: --json shows them all.\n")
    assert "svc-1" not in ran.out


def test_a_part_that_cannot_be_read_is_a_no_and_the_other_is_shown(platform: Capi, tally: Tally) -> None:
    platform.tell("when", path="/v3/apps", status=404)
    ran = tally("sweep", "cloud-foundry")
    assert (ran.code, ran.err) == (1, "cfapps: apps: the platform answered 404\n")
    assert "svc-1" in ran.out
    ran = tally("sweep", "cloud-foundry", "--json")
    assert (ran.code, ran.document["failures"]) == (
        1,
        [{"part": "cfapps", "detail": "apps: the platform answered 404"}],
    )


def test_names_of_customers_command_no_terminal(platform: Capi, tally: Tally) -> None:
    platform.tell("patch", of="svc-1", guid="[red]\x1b[31m", name="x")
    assert "[red]\\x1b[31m" in tally("sweep", "cloud-foundry").out


def test_a_wrong_secret_is_told_without_it(platform: Capi, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CF_CLIENT_SECRET", "swordfish")
    ran = tally("sweep", "cloud-foundry", "--json")
    detail = "the platform gives CF_CLIENT_ID no token: invalid_client"
    assert (ran.code, ran.document) == (3, {"error": {"code": "platform_refuses", "detail": detail}})


@pytest.mark.parametrize(
    ("unset", "detail"),
    [
        ("CF_API_URL", "set TALLY_CF_API_URL: there is no source cloud-foundry without it"),
        ("CF_CLIENT_ID", "TALLY_CF_API_URL needs TALLY_CF_CLIENT_ID too"),
        ("CF_CLIENT_SECRET", "TALLY_CF_API_URL needs TALLY_CF_CLIENT_SECRET too"),
    ],
)
def test_a_setting_that_is_missing_is_named(
    platform: Capi, tally: Tally, monkeypatch: pytest.MonkeyPatch, unset: str, detail: str
) -> None:
    monkeypatch.delenv(unset)
    ran = tally("sweep", "cloud-foundry")
    assert (ran.code, ran.out, ran.err) == (2, "", f"Error: {detail}\n")
    assert platform.asked() == []


def test_a_source_that_is_not_there_is_wrong_usage(platform: Capi, tally: Tally) -> None:
    assert tally("sweep", "openstack").code == 2


def test_no_service_starts_with_half_an_account(platform: Capi, books: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CF_CLIENT_SECRET")
    ran = books("verify")
    assert (ran.code, ran.err) == (2, "Error: TALLY_CF_API_URL needs TALLY_CF_CLIENT_SECRET too\n")
