"""``tally token``: a token for the platform surface, from a real provider."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tallystick.access.tokens import expiry_of
from tests.cli.conftest import Serve, Tally
from tests.doubles.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider

POST = {"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"]}


@pytest.fixture
def issuer(provider: Provider, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """The provider, which the environment names as its first users did."""
    monkeypatch.setenv("OIDC_ISSUER", provider.url)
    monkeypatch.setenv("CF_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("CF_CLIENT_SECRET", CLIENT_SECRET)
    return provider


@pytest.mark.parametrize("said", [{}, POST], ids=["basic", "post"])
def test_it_prints_a_token(issuer: Provider, tally: Tally, said: dict[str, list[str]]) -> None:
    issuer.tell("say", **said)
    ran = tally("token")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count(".") == 2
    assert ran.out.count("\n") == 1
    document = tally("token", "--json").document
    assert document.keys() == {"token", "expires_at"}
    expires_at = expiry_of(document["token"])
    assert expires_at is not None
    assert f"{expires_at:%Y-%m-%dT%H:%M:%SZ}" == document["expires_at"]


def test_it_writes_a_file_that_nobody_else_can_read(issuer: Provider, tally: Tally, tmp_path: Path) -> None:
    path = tmp_path / "jwt.txt"
    path.write_text("an old one")
    path.chmod(0o644)
    ran = tally("token", "--output", path)
    assert ran.code == 0
    assert ran.out.startswith(f"Token saved to {path}. It expires at 20")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text()
    assert token.count(".") == 2
    assert token.strip() not in ran.out + ran.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["jwt.txt"]
    document = tally("token", "--output", path, "--json").document
    assert document.keys() == {"file", "expires_at"}


def test_a_wrong_secret_is_a_no_and_leaves_the_file_as_it_was(
    issuer: Provider, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jwt.txt"
    path.write_text("an old one")
    monkeypatch.setenv("CF_CLIENT_SECRET", "guess-of-a-secret")
    ran = tally("token", "--output", path)
    assert ran.code == 1
    assert "invalid_client: Bad credentials" in ran.err
    assert "guess-of-a-secret" not in ran.out + ran.err
    assert path.read_text() == "an old one"


@pytest.mark.parametrize("mode", ["500", "garbage", "redirect", "empty", "null", "huge", "wordless"])
@pytest.mark.parametrize("document", ["discovery", "token"])
def test_an_issuer_that_gives_none_is_unreachable(issuer: Provider, tally: Tally, document: str, mode: str) -> None:
    issuer.tell("behave", document=document, mode=mode)
    ran = tally("token", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (3, "issuer_unreachable")
    assert CLIENT_SECRET not in ran.out + ran.err
    assert issuer.asked("elsewhere") == 0


def test_secrets_are_sent_to_nobody_whom_the_issuer_may_not_name(issuer: Provider, tally: Tally) -> None:
    for endpoint in (None, "http://192.0.2.1/token", "ftp://127.0.0.1/token"):
        issuer.tell("say", token_endpoint=endpoint)
        assert tally("token").code == 3


def test_what_is_missing_is_named(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tally("token")
    assert ran.code == 2
    for name in ("TALLY_OIDC_ISSUER", "TALLY_CF_CLIENT_ID", "TALLY_CF_CLIENT_SECRET"):
        assert name in ran.err
    monkeypatch.setenv("TALLY_CF_CLIENT_ID", "tally")
    assert "TALLY_CF_CLIENT_ID" not in tally("token").err
    monkeypatch.setenv("TALLY_OIDC_ISSUER", "http://issuer.example")
    ran = tally("token")
    assert ran.code == 2
    assert "TALLY_OIDC_ISSUER" in ran.err


def test_a_service_does_not_start_without_knowing_for_whom_tokens_are(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIDC_ISSUER", "https://issuer.example")
    ran = tally("serve", "--dev", "--port", "0")
    assert (ran.code, "TALLY_CF_CLIENT_ID" in ran.err) == (2, True)


@pytest.mark.integration
def test_the_token_opens_the_platform_surface_of_a_service(
    issuer: Provider, tally: Tally, serve: Serve, tmp_path: Path
) -> None:
    """As the first users did: ``make jwt``, and ``curl -H "Authorization: bearer $(cat jwt.txt)"``."""
    server = serve(tmp_path / "books", "--host", "127.0.0.1")
    tally("token", "--output", tmp_path / "jwt.txt")
    request = urllib.request.Request(
        f"{server.url}/admin/tier",
        json.dumps({"name": "bronze", "credits": "1000"}).encode(),
        {"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request):
        pass
    with refused.value as answer:
        assert (answer.code, answer.read()) == (401, b"missing bearer token")
    request.add_header("Authorization", f"bearer {(tmp_path / 'jwt.txt').read_text().strip()}")
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (200, b"bronze")
    assert server.stop() == 0
