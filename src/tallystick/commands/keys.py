"""``tally key``: who may call."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import typer

from tallystick.access.callers import Scope
from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.options import Cursor, DataDir, InvalidUsage, Json, Limit, Url, read_settings

app = typer.Typer(help="Make, list, revoke and rotate keys.", no_args_is_help=True)

KeyId = Annotated[UUID, typer.Argument(help="The key's id, as the list shows it.")]

_SPAN = re.compile(r"([0-9]{1,8})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    scope: Annotated[list[Scope], typer.Option(help="What it is for; may be given several times.")],
    customer: Annotated[
        str | None, typer.Option(help="Key of the customer whose it is.", show_default="an operator's")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="E-mail or id of the agent whose it is.")] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long it works: 12h, 90d.", show_default="until revoked")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most requests.", show_default="TALLY_KEY_REQUESTS_PER_MINUTE")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a key and print it: this once, for it is kept nowhere."""
    wanted = {
        "name": name,
        "scopes": list(dict.fromkeys(scope)),
        "customer": customer,
        "agent": agent,
        "expires_in": None if expires_in is None else _seconds(expires_in, "expires_in"),
        "requests_per_minute": requests_per_minute,
    }
    _show_made(ask(read_settings(data_dir=data_dir), url, lambda api: api.post("keys", json=wanted)), as_json=json)


@app.command("list")
def list_keys(
    customer: Annotated[str | None, typer.Option(help="Only keys of this customer and its agents.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List keys, newest first, with those that have ended."""
    settings = read_settings(data_dir=data_dir)
    page = ask(settings, url, lambda api: api.get("keys", customer=customer, limit=limit, cursor=cursor))
    fields = ("id", "prefix", "name", "customer", "agent_id", "scopes", "expires_at", "revoked_at", "last_used_at")
    console.show_page(page, "Keys", fields, as_json=json)


@app.command("revoke")
def revoke_key(key: KeyId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """End a key for good. Running services learn of it at once."""
    revoked = ask(read_settings(data_dir=data_dir), url, lambda api: api.delete("keys", str(key)))
    if json:
        console.print_json(revoked)
    else:
        console.say(f"Key {revoked['prefix']} ({revoked['name']}) has ended.")


@app.command("rotate")
def rotate_key(
    key: KeyId,
    overlap: Annotated[str, typer.Option(metavar="SPAN", help="How long the old key still works: 0s, 12h, 7d.")] = "7d",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make a key with the same rights and print it; the old one ends after a while."""
    wanted = {"overlap": _seconds(overlap, "overlap")}
    settings = read_settings(data_dir=data_dir)
    _show_made(ask(settings, url, lambda api: api.post("keys", str(key), "rotate", json=wanted)), as_json=json)


def _seconds(text: str, field: str) -> int:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise InvalidUsage(f"--{field.replace('_', '-')} must be a number with its unit: 90s, 5m, 12h, 7d", field=field)
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) // timedelta(seconds=1)


def _show_made(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.print_json(made)
        return
    console.show_facts({name: made[name] for name in ("id", "name", "customer", "agent_id", "scopes", "expires_at")})
    console.say(f"\n{made['key']}\n")
    console.warn("This is the only time that the key is shown.")
