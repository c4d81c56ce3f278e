"""Getting a token for a service account: the grant of client credentials (RFC 6749, 4.4)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote_plus

import msgspec

from tallystick.access.oidc import Discovery, Issuer, IssuerFault, read_as
from tallystick.access.tokens import ADMIN_SCOPE
from tallystick.kernel.errors import TallyError

MAX_REASON_CHARACTERS = 200

_TOKEN = re.compile(r"[!-~]+")


class TokenDenied(TallyError):
    """The issuer knows the client not, or does not give it this scope."""

    code = "token_denied"
    status = 403


class _Answer(msgspec.Struct):
    access_token: str | None = None
    error: str | None = None
    error_description: str | None = None


async def request_token(issuer: Issuer, client_id: str, client_secret: str, scope: str = ADMIN_SCOPE) -> str:
    """A fresh access token with this scope. Raises ``TokenDenied``, ``IssuerFault``."""
    found = await issuer.discover()
    if found.token_endpoint is None:
        raise IssuerFault("its discovery document names no token endpoint")
    asked = {"grant_type": "client_credentials", "scope": scope}
    request = _request(found, client_id, client_secret, asked)
    answer = read_as(await issuer.ask("POST", found.token_endpoint, (200, 400, 401), **request), _Answer)
    if answer.error is not None:  # RFC 6749, 5.2
        reason = ": ".join(part for part in (answer.error, answer.error_description) if part)
        raise TokenDenied(f"the issuer gives no token: {reason[:MAX_REASON_CHARACTERS]}")
    if answer.access_token is None or not _TOKEN.fullmatch(answer.access_token):
        raise IssuerFault("its answer holds no token")
    return answer.access_token


def _request(found: Discovery, client_id: str, client_secret: str, asked: dict[str, str]) -> dict[str, Any]:
    """Secrets go into the form where that is offered: issuers disagree about how Basic encodes odd characters.

    The rest get Basic, as every issuer must know it (RFC 6749, 2.3.1).
    """
    if "client_secret_post" in (found.token_endpoint_auth_methods_supported or ()):
        return {"data": {**asked, "client_id": client_id, "client_secret": client_secret}}
    return {"data": asked, "auth": (quote_plus(client_id), quote_plus(client_secret))}
