"""``tally webhook``: endpoints made, tested, replayed and deleted by hand."""

from __future__ import annotations

from tests.cli.conftest import Tally

URL = "https://hooks.example/in"


def test_the_life_of_a_webhook(books: Tally) -> None:
    made = books("webhook", "create", URL, "--type", "account.*", "--type", "agent.blocked", "--json").document
    assert made["types"] == ["account.*", "agent.blocked"]
    assert made["secret"].startswith("whsec_")
    (listed,) = books("webhook", "list", "--json").document["items"]
    assert (listed["url"], listed["state"], "secret" in listed) == (URL, "enabled", False)
    rotated = books("webhook", "rotate", made["id"], "--overlap-hours", "1", "--json").document
    assert rotated["secret"] != made["secret"]
    assert rotated["former_until"] is not None
    event = books("webhook", "test", made["id"], "--json").document["event_id"]
    (delivery,) = books("webhook", "deliveries", made["id"], "--json").document["items"]
    assert (delivery["event_id"], delivery["type"], delivery["state"]) == (event, "webhook.test", "waiting")
    assert event in books("webhook", "deliveries", made["id"], "--state", "waiting").out
    assert books("webhook", "deliveries", made["id"], "--state", "failed", "--json").document["items"] == []
    assert books("webhook", "disable", made["id"], "--json").document["disabled_because"] == "by request"
    assert books("webhook", "test", made["id"]).code == 1
    assert books("webhook", "enable", made["id"], "--json").document["state"] == "enabled"
    assert books("webhook", "delete", made["id"]).code == 0
    assert books("webhook", "list", "--json").document["items"] == []


def test_a_customers_webhook_hears_what_happens_to_it(books: Tally) -> None:
    books("customers", "create", "ada")
    made = books("webhook", "create", URL, "--customer", "ada", "--json").document
    assert made["customer"] == "ada"
    for key in ("bob", "cy"):
        books("customers", "create", key)
    assert books("webhook", "deliveries", made["id"], "--json").document["items"] == []


def test_what_was_told_is_sent_once_more(books: Tally) -> None:
    made = books("webhook", "create", URL, "--json").document["id"]
    books("customers", "create", "ada")
    (delivery,) = books("webhook", "deliveries", made, "--json").document["items"]
    assert delivery["type"] == "account.created"
    assert books("webhook", "replay", made, "--event", delivery["event_id"], "--json").document["replayed"] == 1
    since = books("webhook", "replay", made, "--since", "2026-01-01T00:00:00Z", "--failed", "--json").document
    assert since["replayed"] == 0  # it waits still


def test_what_is_refused(books: Tally) -> None:
    made = books("webhook", "create", URL, "--json").document["id"]
    inside = books("webhook", "create", "https://10.0.0.1/", "--json")
    assert (inside.code, inside.document["error"]["field"]) == (2, "url")
    assert books("webhook", "create", URL, "--type", "acount.*").code == 2
    assert books("webhook", "replay", made).code == 2
    unknown = books("webhook", "test", "01a20059-f98c-71b1-9d90-add41651dd00", "--json")
    assert (unknown.code, unknown.document["error"]["code"]) == (1, "not_found")
