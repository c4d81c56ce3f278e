"""Where webhooks must not go, however it is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.kernel.errors import InvalidInput
from tallystick.outbox.webhooks.territory import LOOPBACK, MAX_URL_CHARACTERS, Forbidden, Territory, read_networks

INSIDE = (
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
)
OUTSIDE = (
    "1.1.1.1",
    "93.184.215.14",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2002:101:101::",
)


def check(territory: Territory, address: str, *, is_plain: bool = False) -> None:
    territory.check(ipaddress.ip_address(address), is_plain=is_plain)


@pytest.mark.parametrize("address", INSIDE)
def test_what_lies_inside_is_refused(address: str) -> None:
    with pytest.raises(Forbidden, match=r"^it leads into a network that webhooks must not reach$"):
        check(Territory(), address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_the_public_internet_is_open_but_not_for_all_to_read(address: str) -> None:
    check(Territory(), address)
    with pytest.raises(Forbidden, match=r"^plain http goes into networks that are allowed by name only; use https$"):
        check(Territory(), address, is_plain=True)


def test_allowed_networks_are_open_and_their_neighbours_not() -> None:
    territory = Territory(read_networks("10.1.0.0/16, fd00:1::/32"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5"):
        check(territory, address)
        check(territory, address, is_plain=True)
    for address in ("10.2.0.1", "127.0.0.1", "fd00:2::5", "169.254.169.254"):
        with pytest.raises(Forbidden):
            check(territory, address)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_all_its_disguises(address: ipaddress.IPv4Address) -> None:
    def verdict(text: str) -> bool:
        try:
            check(Territory(), text)
        except Forbidden:
            return False
        return True

    number = int(address)
    mapped = f"::ffff:{address}"
    translated = str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number))
    tunnelled = str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("2002::")) | number << 80))
    assert len({verdict(each) for each in (str(address), mapped, translated, tunnelled)}) == 1


@pytest.mark.parametrize("text", ["10.0.0.1/8", "private", "10.0.0.0/33", "10.0.0.0/8;fd00::/8"])
def test_what_is_no_list_of_networks(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^it must be networks, as 10\.0\.0\.0/8,fd00::/8: "):
        read_networks(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/in?token=1",
        "https://hooks.example:8443",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
    ],
)
def test_urls_of_the_public_internet_are_taken(url: str) -> None:
    assert Territory().check_url(url) == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("hooks.example", "a URL"),
        ("ftp://hooks.example", "a URL"),
        ("https://", "a URL"),
        ("https://user:word@hooks.example", "a user or a fragment"),  # pragma: allowlist secret
        ("https://hooks.example/#top", "a user or a fragment"),
        ("https://hooks.example:port", "a URL"),
        ("https://größe.example", "a URL"),
        ("https://hooks.example/a b", "a URL"),
        ("http://hooks.example", "it must be an https URL"),
        ("https://127.0.0.1/", "webhooks must not reach"),
        ("https://[::1]/", "webhooks must not reach"),
        ("https://[::ffff:10.0.0.1]/", "webhooks must not reach"),
        ("https://169.254.169.254/latest/meta-data/", "webhooks must not reach"),
        ("https://h.example/" + "x" * MAX_URL_CHARACTERS, "at most 2048 characters"),
    ],
)
def test_urls_that_are_refused_at_once(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        Territory().check_url(url)
    assert refused.value.field == "url"


def test_plain_http_needs_a_network_that_is_allowed() -> None:
    territory = Territory(LOOPBACK)
    assert territory.check_url("http://127.0.0.1:9000/in")
    assert territory.check_url("http://localhost:9000/in")  # judged when it is resolved
    with pytest.raises(InvalidInput, match="plain http"):
        territory.check_url("http://1.1.1.1/")
