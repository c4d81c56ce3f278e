"""Commands that work on the books: what they print, and how they end."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

import tallystick
from tests.cli.conftest import Tally

PRICE = ("prices", "create", "tokens", "--from", "2026-01-01T00:00:00Z")


def import_events(books: Tally, folder: Path, *events: dict[str, Any]) -> None:
    file = folder / "events.ndjson"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert books("import", file).code == 0


def usage(identity: str, value: str, customer: str = "ada") -> dict[str, Any]:
    return {
        "id": identity,
        "subject": customer,
        "type": "tokens",
        "time": "2026-02-01T12:00:00Z",
        "data": {"value": value},
    }


def test_version(tally: Tally) -> None:
    assert tally("version").out == f"{tallystick.__version__}\n"
    assert tally("version", "--json").document["version"] == tallystick.__version__


def test_help_lists_the_commands_and_what_their_ends_mean(tally: Tally) -> None:
    shown = tally("--help")
    assert shown.code == 0
    names = ("serve", "demo", "import", "customers", "prices", "quarantine", "verify", "explain", "migrate", "psql")
    assert all(name in shown.out for name in (*names, "Exit status"))


def test_customers(books: Tally) -> None:
    created = books("customers", "create", "ada", "--name", "Ada [bold]", "--credit-policy", "prepaid", "--json")
    assert created.code == 0
    assert created.document["name"] == "Ada [bold]"
    granted = books("customers", "grant", "ada", "99.75", "--idempotency-key", "k", "--json").document
    assert granted == books("customers", "grant", "ada", "99.75", "--idempotency-key", "k", "--json").document
    assert granted["balance"] == "99.75"
    (balance,) = books("customers", "show", "ada", "--json").document["balances"]
    assert balance["granted"] == "99.75"
    assert [item["key"] for item in books("customers", "list", "--json").document["items"]] == ["ada"]
    assert "Ada [bold]" in books("customers", "show", "ada").out
    assert "Ada [bold]" in books("customers", "list").out


def test_a_list_goes_on_where_it_ended(books: Tally) -> None:
    for key in ("a", "b", "c"):
        books("customers", "create", key)
    first = books("customers", "list", "--limit", "2", "--json").document
    rest = books("customers", "list", "--cursor", first["next"], "--json").document
    assert [item["key"] for page in (first, rest) for item in page["items"]] == ["a", "b", "c"]
    assert f"--cursor {first['next']}" in books("customers", "list", "--limit", "2").err


def test_a_price_charges_what_has_waited_for_it_and_a_charge_is_explained(books: Tally, tmp_path: Path) -> None:
    import_events(books, tmp_path, usage("1", "1000"), usage("2", "500"))
    priced = books(*PRICE, "--amount", "1", "--per", "730", "--json")
    assert priced.code == 0
    assert priced.document["model"] == {"type": "per_unit", "amount": "1", "per": "730"}
    assert [item["meter"] for item in books("prices", "list", "--meter", "tokens", "--json").document["items"]] == [
        "tokens"
    ]
    (balance,) = books("customers", "show", "ada", "--json").document["balances"]
    assert balance["used"] == "2.054795"  # 1500 / 730
    verdict = books("verify", "--json")
    assert verdict.code == 0
    assert verdict.document["holds"]
    assert books("verify", "--customer", "ada", "--json").document["holds"]
    assert "The books hold" in books("verify").out


def test_a_model_is_read_as_it_was_written(books: Tally, tmp_path: Path) -> None:
    import_events(books, tmp_path, usage("1", "1"))
    tiers = [{"up_to": 100.5, "amount": 0}, {"up_to": None, "amount": 0.07}]
    priced = books(*PRICE, "--model", json.dumps({"type": "graduated", "tiers": tiers}), "--asset", "USD", "--json")
    assert [tier["amount"] for tier in priced.document["model"]["tiers"]] == ["0", "0.07"]
    assert books(*PRICE, "--amount", "1", "--model", "{}").code == 2
    assert books(*PRICE, "--model", "{").code == 2


def test_quarantine_is_listed_mended_and_replayed(
    books: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"id": "1", "subject": "ada", "type": "tokens", "data": {"value": "many\\u001b[31m"}}\n')
    assert books("import", broken).code == 1
    (piece,) = books("quarantine", "list", "--json").document["items"]
    assert books("quarantine", "replay", "--json").code == 1
    shown = books("quarantine", "show", piece["id"])
    assert "many" in shown.out
    assert "\x1b" not in shown.out

    mended = broken.read_bytes().replace(b"many\\u001b[31m", b"7")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(mended)))
    assert books("quarantine", "repair", piece["id"], "--json").document["repaired"] == mended.decode()
    replayed = books("quarantine", "replay", piece["id"], "--json")
    assert replayed.code == 0
    assert replayed.document["recorded"] == 1
    assert books("quarantine", "list", "--json").document["items"] == []
    assert [item["id"] for item in books("quarantine", "list", "--replayed", "--json").document["items"]] == [
        piece["id"]
    ]


def test_migrate_has_nothing_left_to_do(books: Tally) -> None:
    assert books("migrate", "--json").document == {"applied": []}


def test_psql(books: Tally, tmp_path: Path) -> None:
    books("customers", "create", "ada")
    output = tmp_path / "output"
    assert books("psql", "-At", "-o", str(output), "-c", "select key from customers").code == 0
    assert output.read_text() == "ada\n"
    assert books("psql", "-c", "nonsense").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("customers", "show", "nobody"), 1, "not_found"),
        (("customers", "grant", "nobody", "1"), 1, "customer_not_found"),
        (("customers", "grant", "nobody", "1e99"), 2, "invalid_input"),
        (("customers", "create", " "), 2, "invalid_input"),
        (("customers", "create"), 2, "usage"),
        (("customers", "show", "x", "--nonsense"), 2, "usage"),
        (("explain", "nonsense"), 2, "invalid_input"),
        (("verify", "--customer", "nobody"), 1, "not_found"),
        (("quarantine", "show", "00000000-0000-0000-0000-000000000000"), 1, "not_found"),
        (("import", "/dev/null/nothing"), 2, "usage"),
    ],
)
def test_errors(books: Tally, arguments: tuple[str, ...], code: int, error: str) -> None:
    told = books(*arguments)
    assert (told.code, told.out) == (code, "")
    assert told.err
    as_json = books(*arguments, "--json")
    assert (as_json.code, as_json.document["error"]["code"]) == (code, error)


def test_the_variables_of_postgresql_may_say_where_the_database_is(
    tally: Tally, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the platform's system had it. What they say about zone and spelling changes nothing."""
    for name, value in conninfo_to_dict(database_url).items():
        monkeypatch.setenv("PGDATABASE" if name == "dbname" else f"PG{name.upper()}", str(value))
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("TALLY_DATABASE_URL", "postgresql://")
    created = tally("customers", "create", "größe", "--json").document
    assert created["created_at"].endswith("Z")
    monkeypatch.setenv("TALLY_DATABASE_URL", database_url)
    assert tally("customers", "show", "größe", "--json").document == created


def test_a_database_that_cannot_be_reached(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_DATABASE_URL", "postgresql://tally:secret@127.0.0.1:1/tally")  # pragma: allowlist secret
    told = tally("customers", "list", "--json")
    assert (told.code, told.document["error"]["code"]) == (3, "unavailable")
    assert "secret" not in told.out + told.err


def test_a_service_that_cannot_be_reached(tally: Tally) -> None:
    told = tally("customers", "list", "--url", "http://127.0.0.1:1", "--json")
    assert (told.code, told.document["error"]["code"]) == (3, "service_unreachable")


def test_an_unreadable_setting_is_named_without_its_value(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_BUSINESS_ZONE", "Secret/Place")
    monkeypatch.setenv("TALLY_PORT", "12x45")
    told = tally("customers", "list")
    assert told.code == 2
    assert "TALLY_PORT" in told.err
    assert "12x45" not in told.err
