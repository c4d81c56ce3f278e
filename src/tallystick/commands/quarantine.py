"""``tally quarantine``: input that nobody could read, to be looked at, mended and sent through the same door again."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from tallystick.commands import console
from tallystick.commands.api import Api, ask
from tallystick.commands.options import Cursor, DataDir, ExitCode, Json, Limit, Url, read_settings

app = typer.Typer(help="List, show, repair and replay input that could not be read.", no_args_is_help=True)

PieceId = Annotated[UUID, typer.Argument(help="The piece, as the list shows it.")]


@app.command("list")
def list_pieces(
    replayed: Annotated[bool, typer.Option("--replayed", help="Those that have been recorded since.")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List what waits, in the order in which it came."""
    page = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.get("quarantine", limit=limit, cursor=cursor, replayed=str(replayed).lower()),
    )
    console.show_page(page, "Quarantine", ("id", "source", "received_at", "code", "detail"), as_json=json)


@app.command("show")
def show_piece(piece: PieceId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show one piece with its bytes."""
    _show(ask(read_settings(data_dir=data_dir), url, lambda api: api.get("quarantine", str(piece))), as_json=json)


@app.command("repair")
def repair_piece(
    piece: PieceId,
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="The mended piece.", show_default="standard input"),
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Keep a mended version of a piece beside what came; then replay it."""
    mended = file.read_bytes() if file is not None else sys.stdin.buffer.read()
    path = f"/api/v1/quarantine/{piece}"
    shown = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.send(path, mended, "application/octet-stream", method="PUT"),
    )
    _show(shown, as_json=json)


@app.command("replay")
def replay_pieces(
    pieces: Annotated[
        list[UUID] | None, typer.Argument(help="Which pieces.", show_default="everything that waits")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Read pieces again, mended or not; what is recorded leaves the list. Ends with 1 if some of them still wait."""
    ids = [str(piece) for piece in pieces] if pieces else None
    outcomes = ask(read_settings(data_dir=data_dir), url, lambda api: _replay(api, ids))
    recorded = sum(outcome["recorded"] for outcome in outcomes)
    if json:
        console.print_json({"recorded": recorded, "pieces": outcomes})
    else:
        title = f"Replayed: {recorded} of {len(outcomes)} recorded"
        table = console.table(title, "id", "recorded", "accepted>", "duplicates>", "detail")
        for outcome in outcomes:
            verdict = "yes" if outcome["recorded"] else "no"
            counts = (outcome["accepted"], outcome["duplicates"])
            console.add_row(table, (outcome["id"], verdict, *counts, outcome["detail"]))
        console.out.print(table)
    if recorded < len(outcomes):
        raise typer.Exit(ExitCode.NO)


async def _replay(api: Api, ids: list[str] | None) -> list[dict[str, Any]]:
    """What became of these pieces, or page by page of all."""
    outcomes: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await api.post("quarantine", "replay", json={"ids": ids, "cursor": cursor})
        outcomes += page["pieces"]
        if (cursor := page["next"]) is None:
            return outcomes


def _show(piece: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.print_json(piece)
        return
    names = ("id", "source", "code", "detail", "received_at", "replayed_at")
    console.show_facts({name: piece[name] for name in names})
    for title, name in (("What came", "raw"), ("Repaired", "repaired")):
        if encoded := piece[f"{name}_base64"]:
            text = piece[name] if piece[name] is not None else repr(base64.b64decode(encoded))
            console.say(f"\n{title}:\n{text}")
