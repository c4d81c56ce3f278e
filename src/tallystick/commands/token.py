"""``tally token``: a token for the platform surface, from the issuer that the settings name."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tallystick.access.client_credentials import request_token
from tallystick.access.oidc import Issuer, IssuerFault, IssuerUnreachable
from tallystick.access.tokens import expiry_of
from tallystick.commands import console
from tallystick.commands.options import InvalidUsage, Json, read_settings
from tallystick.settings import Settings


def token(
    output: Annotated[
        Path | None,
        typer.Option(help="Write it to this file, for you alone to read, instead of stdout.", dir_okay=False),
    ] = None,
    json: Json = False,
) -> None:
    """Get a token from the OIDC issuer, for `OIDC_ISSUER`, `CF_CLIENT_ID` and `CF_CLIENT_SECRET`.

    Show it to the platform surface: `curl -H "Authorization: bearer $(tally token)" ...`
    """
    given = asyncio.run(_request(read_settings()))
    expires_at = expiry_of(given)
    expiry = None if expires_at is None else f"{expires_at:%Y-%m-%dT%H:%M:%SZ}"
    if output is not None:
        _write(output, given)
    if json:
        kept: dict[str, str] = {"token": given} if output is None else {"file": str(output)}
        console.print_json({**kept, "expires_at": expiry})
    elif output is None:
        console.say(given)
    else:
        console.say(f"Token saved to {output}." + ("" if expiry is None else f" It expires at {expiry}."))


async def _request(settings: Settings) -> str:
    issuer, client, secret = settings.oidc_issuer, settings.cf_client_id, settings.cf_client_secret
    if issuer is None or client is None or secret is None:
        names = {"TALLY_OIDC_ISSUER": issuer, "TALLY_CF_CLIENT_ID": client, "TALLY_CF_CLIENT_SECRET": secret}
        raise InvalidUsage(f"set {', '.join(name for name, value in names.items() if value is None)}")
    try:
        return await request_token(Issuer(issuer), client, secret.get_secret_value())
    except IssuerFault as fault:
        raise IssuerUnreachable(f"no token from {issuer}: {fault}") from None


def _write(path: Path, text: str) -> None:
    """Puts the text into the file as a whole or not at all; nobody else can read it at any moment."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{text}\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
