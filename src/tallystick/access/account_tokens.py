"""The two headers of the account management: ``X-Token`` for every call, ``TWO-FA`` besides for those that erase.

A header that is missing breaks the schema of the request (422); one that is wrong is a bad request (400), as the
callers of that surface know it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from tallystick.access.keys import NoKeysConfigured
from tallystick.kernel.errors import TallyError

TOKEN_HEADER = "x-token"  # noqa: S105  # the name of a header
SECOND_FACTOR_HEADER = "two-fa"
INVALID_TOKEN = "Invalid X-Token header"  # noqa: S105  # a sentence


class HeaderMissing(TallyError):
    """A header that the call needs is not there; ``field`` is its name."""

    code = "header_missing"
    status = 422


class HeaderRefused(TallyError):
    """A header has another value than it must have."""

    code = "header_refused"
    status = 400


@dataclass(frozen=True, slots=True)
class AccountTokens:
    """What the headers must say; what the settings leave out, ``None``, is not asked for if the service ``is_open``."""

    token: str | None
    second_factor: str | None
    is_open: bool

    def check_token(self, given: str | None) -> None:
        """Raises ``HeaderMissing``, ``HeaderRefused`` or ``NoKeysConfigured``."""
        self._compare(self.token, given, TOKEN_HEADER, INVALID_TOKEN)

    def check_second_factor(self, given: str | None) -> None:
        """Raises ``HeaderMissing``, ``HeaderRefused`` or ``NoKeysConfigured``."""
        self._compare(self.second_factor, given, SECOND_FACTOR_HEADER, "Invalid 2FA header")

    def _compare(self, wanted: str | None, given: str | None, header: str, refusal: str) -> None:
        if wanted is None:
            if self.is_open:
                return
            raise NoKeysConfigured("Service not configured: set AUTH_TOKEN and TWO_FA")
        if given is None:
            raise HeaderMissing("Field required", field=header)
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode()):
            raise HeaderRefused(refusal, field=header)
