"""URLs that secrets are sent to, or whose answers say who is let in."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from tallystick.kernel.errors import InvalidInput

_URL = re.compile(r"https?://[!-~]+")


def check_url(url: str, *, plain: bool = True, query: bool = True) -> str:
    """Returns the URL unchanged.

    ``plain``: whether ``http`` will do, which nobody can listen to or answer in between on the loopback only.
    ``query``: whether it may have one. Raises ``InvalidInput`` without a field: whoever asks knows whose URL it is.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput("it must be a URL") from None
    unwanted = "a user or a fragment" if query else "a user, a query or a fragment"
    if not _URL.fullmatch(url) or not host or "@" in parts.netloc or "#" in url or ("?" in url and not query):
        raise InvalidInput(f"it must be a URL, without {unwanted}")
    if parts.scheme == "http" and not (plain and _is_loopback(host)):
        raise InvalidInput("it must be an https URL; http will do on the loopback only")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
