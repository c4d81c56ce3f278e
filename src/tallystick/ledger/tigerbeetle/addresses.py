"""Where a TigerBeetle cluster is. Apart from its client, since whoever reads settings need not load that."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from tallystick.kernel.errors import InvalidInput
from tallystick.ledger.contract import LedgerUnavailable

ADDRESSES_MAX = 6
"""The most replicas that a cluster has."""

DEFAULT_PORT = 3000
CLUSTER_ID_MAX = 2**128 - 1

_SCHEME = "tigerbeetle://"
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:/@?#,\s]+)(:(?P<port>[0-9]{1,5}))?")


class Cluster(NamedTuple):
    """A cluster's number, and ``HOST:PORT`` of each of its replicas in their order, separated by commas."""

    id: int
    addresses: str


def parse_cluster(text: str) -> Cluster:
    """Reads ``tigerbeetle://CLUSTER@HOST:PORT,HOST:PORT``. Raises ``InvalidInput``."""
    number, at, addresses = text.removeprefix(_SCHEME).partition("@")
    if not text.startswith(_SCHEME) or not at:
        raise InvalidInput("the ledger must be postgres or tigerbeetle://CLUSTER@HOST:PORT,HOST:PORT")
    if not re.fullmatch("[0-9]{1,39}", number) or int(number) > CLUSTER_ID_MAX:
        raise InvalidInput(
            f"the number of a TigerBeetle cluster must be an integer from 0 to 2^128 - 1, not {number!r}"
        )
    parse_addresses(addresses)
    return Cluster(int(number), addresses)


def parse_addresses(addresses: str) -> list[tuple[str, int]]:
    """Hosts and ports of ``HOST:PORT,...``; the port is 3000 if missing. Raises ``InvalidInput``."""
    parts = [part.strip() for part in addresses.split(",")]
    if len(parts) > ADDRESSES_MAX:
        raise InvalidInput(f"a TigerBeetle cluster has at most {ADDRESSES_MAX} addresses", field="addresses")
    return [_parse_address(part) for part in parts]


def _parse_address(text: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise InvalidInput(f"a TigerBeetle address must be HOST:PORT, not {text!r}", field="addresses")
    return match["host"].strip("[]"), port


async def resolve(hosts: Sequence[tuple[str, int]]) -> str:
    """The addresses with names replaced by IP addresses, as TigerBeetle wants them. Raises ``LedgerUnavailable``."""
    return ",".join([await _resolve(host, port) for host, port in hosts])


async def _resolve(host: str, port: int) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LedgerUnavailable(f"the TigerBeetle host {host!r} has no address: {error.strerror}") from None
    found.sort(key=lambda one: one[0] != socket.AF_INET)  # localhost is 127.0.0.1, where TigerBeetle listens
    family, _, _, _, address = found[0]
    return f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}"
