"""``tally key``: made and ended in the books, whether a service runs on them or not; and who may start one open."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import STOP_SECONDS, Serve, Server, Tally


def make(books: Tally, *options: str | Path) -> dict[str, Any]:
    made = books("key", "create", "shop", "--json", *options)
    assert made.code == 0, made.out
    document: dict[str, Any] = made.document
    return document


def test_a_key_is_made_listed_rotated_and_revoked(books: Tally) -> None:
    assert books("customers", "create", "ada").code == 0
    scopes = ("--scope", "usage:write", "--scope", "billing:read")
    made = make(books, *scopes, "--customer", "ada", "--expires-in", "90d", "--requests-per-minute", "60")
    assert (made["customer"], made["scopes"], made["requests_per_minute"]) == (
        "ada",
        ["billing:read", "usage:write"],
        60,
    )
    new = books("key", "rotate", made["id"], "--overlap", "0s", "--json").document
    assert (new["customer"], new["scopes"]) == (made["customer"], made["scopes"])
    assert books("key", "rotate", made["id"], "--json").document["error"]["code"] == "key_ended"
    assert books("key", "revoke", new["id"], "--json").document["revoked_at"] is not None
    listed = books("key", "list", "--customer", "ada", "--json")
    assert [key["id"] for key in listed.document["items"]] == [new["id"], made["id"]]
    shown = books("key", "list")
    for text in (listed.out, shown.out):
        assert made["prefix"] in text
        assert made["key"] not in text
        assert new["key"] not in text


def test_people_are_shown_the_key_once_and_told_so(books: Tally) -> None:
    made = books("key", "create", "office", "--scope", "admin")
    assert made.code == 0
    assert made.out.count("tally_") == 1
    assert "only time" in made.err
    revoked = books("key", "revoke", make(books, "--scope", "admin")["id"])
    assert "has ended" in revoked.out


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("create", "a"), 2, "scope"),
        (("create", "a", "--scope", "everything"), 2, "everything"),
        (("create", "a", "--scope", "admin", "--customer", "ada"), 2, "scopes of a customer's"),
        (("create", "a", "--scope", "admin", "--expires-in", "soon"), 2, "--expires-in must be a number with its unit"),
        (("create", "a", "--scope", "admin", "--expires-in", "99999d"), 2, "expires_in"),
        (("rotate", "00000000-0000-4000-8000-000000000000"), 1, "there is no key"),
        (("revoke", "00000000-0000-4000-8000-000000000000"), 1, "there is no key"),
        (("revoke", "shop"), 2, "valid UUID"),
    ],
)
def test_what_is_wrong_is_said(books: Tally, options: tuple[str, ...], code: int, sentence: str) -> None:
    refused = books("key", *options)
    assert (refused.code, sentence in refused.err) == (code, True), refused.err


def test_a_running_service_learns_of_keys_at_once(tally: Tally, serve: Serve, tmp_path: Path) -> None:
    folder = ("--data-dir", tmp_path / "books")
    office = make(tally, "--scope", "admin", *folder)
    server = serve(tmp_path / "books", "--no-worker")
    assert _status(server, office["key"]) == 200
    shop = make(tally, "--scope", "billing:read", *folder)
    assert _status(server, shop["key"]) == 200
    assert tally("key", "revoke", shop["id"], *folder).code == 0
    deadline = time.monotonic() + STOP_SECONDS
    while _status(server, shop["key"]) == 200:
        assert time.monotonic() < deadline
    assert _status(server, shop["key"]) == 403
    assert _status(server, None) == 401
    assert server.stop() == 0

    assert tally("key", "revoke", office["id"], *folder).code == 0
    refused = tally("serve", "--port", "0", *folder)
    assert refused.code == 2
    assert "tally key create" in refused.err


def _status(server: Server, key: str | None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}/api/v1/meters", headers=headers)) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("name", ["API_KEYS", "ADMIN_API_KEYS", "AUTH_TOKEN"])
def test_a_configured_key_is_enough_to_start(
    tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It goes on to the next thing that is wrong."""
    monkeypatch.setenv(name, "word")
    refused = tally("serve", "--host", "host.invalid", "--data-dir", tmp_path)
    assert (refused.code, "cannot listen at host.invalid" in refused.err) == (3, True)
