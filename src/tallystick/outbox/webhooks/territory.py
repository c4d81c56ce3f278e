"""Where webhooks may go: into the public internet, and into networks that are allowed by name.

A customer names the URL, and we are inside: without this, a webhook would be a way to our neighbours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.urls import check_url

MAX_URL_CHARACTERS: Final = 2048

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

_NEIGHBOURS: Final = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Public by their numbers, yet answered by the machine's host: metadata of Azure and Oracle."""
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOW_32_BITS = (1 << 32) - 1


class Forbidden(Exception):
    """A place where webhooks must not go. The text says which rule is broken."""


def read_networks(text: str) -> tuple[Network, ...]:
    """Comma-separated networks, as ``10.0.0.0/8,fd00::/8``. Raises ``InvalidInput``."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidInput(f"it must be networks, as 10.0.0.0/8,fd00::/8: {error}") from None


class Territory:
    """The public internet, and the networks that are allowed beside it."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def check_url(self, url: str) -> str:
        """Returns the URL of an endpoint unchanged, as far as can be judged without asking anybody.

        Raises ``InvalidInput``, which names the field ``url``.
        """
        if len(url) > MAX_URL_CHARACTERS:
            raise InvalidInput(f"url must have at most {MAX_URL_CHARACTERS} characters", field="url")
        try:
            is_plain = url.startswith("http:")
            host = urlsplit(check_url(f"https:{url.removeprefix('http:')}" if is_plain else url)).hostname or ""
            self._check_scheme(is_plain=is_plain)
            if (literal := _literal(host)) is not None:
                self.check(literal, is_plain=is_plain)
        except InvalidInput as error:
            raise InvalidInput(f"url: {error.detail}", field="url") from None
        except Forbidden as error:
            raise InvalidInput(f"url: {error}", field="url") from None
        return url

    def check(self, address: Address, *, is_plain: bool) -> None:
        """Returns if a webhook may go there. Raises ``Forbidden``."""
        judged = _embedded(address)
        if any(judged in network for network in self._allowed):
            return
        if not _is_public(judged):
            raise Forbidden("it leads into a network that webhooks must not reach")
        if is_plain:
            raise Forbidden("plain http goes into networks that are allowed by name only; use https")

    def _check_scheme(self, *, is_plain: bool) -> None:
        if is_plain and not self._allowed:
            raise Forbidden("it must be an https URL")


def _literal(host: str) -> Address | None:
    """The address that stands in a URL instead of a name, however it is written there.

    Resolvers take ``127.1``, ``0x7f000001`` and ``2130706433`` for addresses as well: those are judged when they have
    been resolved.
    """
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _embedded(address: Address) -> Address:
    """The IPv4 address that packets to an IPv6 address end at, if it is one of those."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LOW_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_V6:
        return False
    ordinary = not (address.is_multicast or address.is_reserved or address.is_unspecified)
    return address.is_global and ordinary and not any(address in network for network in _NEIGHBOURS)
