"""``tally sweep``: what a source would say now, without recording it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from tallystick.commands import console
from tallystick.commands.options import ExitCode, InvalidUsage, Json, Limit, read_settings
from tallystick.metering.sources import cloud_foundry
from tallystick.metering.sources.sweep import Sweep
from tallystick.service import cloud_foundry_of

_FIELDS = ("meter", "resource", "kind", "customer", "value", "path", "fault")


class SourceKey(StrEnum):
    """Sources that can be swept."""

    CLOUD_FOUNDRY = cloud_foundry.KEY


def sweep(
    source: Annotated[SourceKey, typer.Argument(help="Which source.")],
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show what a source says now. Nothing is recorded: it is for trying its settings.

    Prints the first `--limit` items, or with `--json` all of them. The exit status is 1 if a part of the source could
    not be read.
    """
    platform = cloud_foundry_of(read_settings())
    if platform is None:
        raise InvalidUsage(f"set TALLY_CF_API_URL: there is no source {source.value} without it")
    swept = asyncio.run(platform.sweep())
    if json:
        console.print_json(msgspec.to_builtins(swept))
    else:
        _show(swept, source.value, limit)
    if swept.failures:
        raise typer.Exit(ExitCode.NO)


def _show(swept: Sweep, title: str, limit: int) -> None:
    listing = console.table(title, *(f"{name}>" if name == "value" else name for name in _FIELDS))
    for item in swept.items[:limit]:
        console.add_row(listing, (getattr(item, name) for name in _FIELDS))
    console.out.print(listing)
    if len(swept.items) > limit:
        console.warn(f"There are {len(swept.items)}: --json shows them all.")
    for failure in swept.failures:
        console.warn(f"{failure.part}: {failure.detail}")
