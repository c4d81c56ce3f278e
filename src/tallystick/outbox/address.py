"""Where the broker is. Settings know it; only who speaks to the broker loads a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tallystick.kernel.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Address:
    """Where RabbitMQ is, and how long to wait before it is tried again.

    The pause is ``timeout_seconds`` after the first failure and grows by as much with each further one, to ``retries``
    times that at most. Nothing is ever given up.
    """

    url: str = field(repr=False)  # it has a password in it
    retries: int
    timeout_seconds: int

    def pause_seconds(self, failures: int) -> int:
        """How long to wait after so many failures without a success between them, at least one."""
        return self.timeout_seconds * min(failures, self.retries)


def check_broker_url(url: str) -> str:
    """Returns the URL unchanged. Raises ``InvalidInput``, which does not quote it, without a field."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InvalidInput("it must be a URL") from None
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise InvalidInput("it must be a URL of RabbitMQ: amqp://HOST:PORT/VHOST, or amqps://")
    return url
