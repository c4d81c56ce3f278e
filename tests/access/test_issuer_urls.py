"""Which issuers may be asked at all."""

from __future__ import annotations

import pytest

from tallystick.access.oidc import check_issuer
from tallystick.kernel.errors import InvalidInput


@pytest.mark.parametrize(
    "url",
    [
        "https://uaa.example.gov/oauth/token",
        "https://issuer.example/",
        "https://issuer.example:8443",
        "https://192.0.2.1",
        "http://127.0.0.1:8080",
        "http://127.8.8.8",
        "http://[::1]:8080/realm",
        "http://localhost:8080/uaa",
    ],
)
def test_an_issuer_is_asked_over_https_or_on_this_machine(url: str) -> None:
    assert check_issuer(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.example",
        "//issuer.example",
        "http://issuer.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://127.0.0.1@issuer.example",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@issuer.example",
        "https://user:word@issuer.example",  # pragma: allowlist secret
        "https://issuer.example?a=b",
        "https://issuer.example#part",
        "https://issuer.example/a b",
        "https://issuer.example/\n",
        "https://issuer.example:port",
        "https://issuer.example:99999",
        "https://[::1",
        "https://issuér.example",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_issuer(url)
