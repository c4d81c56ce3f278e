from __future__ import annotations

import pytest

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.urls import check_url


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example",
        "https://issuer.example:8443/a/b?c=d",
        "http://localhost:8080/",
        "http://127.0.0.1",
        "http://127.9.9.9/x",
        "http://[::1]:9/",
    ],
)
def test_a_url_that_may_be_trusted_with_secrets_is_left_as_it_is(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "URL"),
        ("issuer.example", "URL"),
        ("ftp://issuer.example", "URL"),
        ("https://", "URL"),
        ("https://issuer example", "URL"),
        ("https://issuer.example/\n", "URL"),
        ("https://é.example", "URL"),
        ("https://[::1", "URL"),
        ("https://issuer.example:port", "URL"),
        ("https://ada@issuer.example", "without a user or a fragment"),
        ("https://issuer.example/#a", "without a user or a fragment"),
        ("http://issuer.example", "https"),
        ("http://localhost.example", "https"),
        ("http://10.0.0.1", "https"),
    ],
)
def test_any_other_is_refused_with_the_rule(url: str, rule: str) -> None:
    with pytest.raises(InvalidInput, match=rule):
        check_url(url)


def test_plain_http_and_queries_can_be_ruled_out() -> None:
    with pytest.raises(InvalidInput, match="https"):
        check_url("http://localhost", plain=False)
    with pytest.raises(InvalidInput, match="a query"):
        check_url("https://issuer.example/?a=b", query=False)
