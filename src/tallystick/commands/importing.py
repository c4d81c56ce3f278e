"""``tally import``: usage from files, through the same intake as everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import Progress

from tallystick.commands import console
from tallystick.commands.api import Api, Refusal, open_api
from tallystick.commands.books import open_books
from tallystick.commands.files import Chunk, Format, read_chunks
from tallystick.commands.options import DataDir, ExitCode, Json, Url, read_settings
from tallystick.metering.model import Batch, Measurement, Receipt, Rejection, Unreadable
from tallystick.metering.sources import cloud_events, line_protocol
from tallystick.metering.sources.values import EARLIEST
from tallystick.service import Service
from tallystick.settings import Settings

NDJSON = "application/x-ndjson"

MAX_LISTED = 20
"""Rejected lines of a file that are listed. All of them are counted."""

MAX_ATTEMPTS = 20
"""How often a chunk is sent to a service that answers that it has too much to do."""

NO_TIME = EARLIEST
"""Stands for a timestamp that a line does not have. Nothing was metered in the year 2."""


@dataclass(slots=True)
class Tally:
    """What became of a file. ``taken`` counts lines that a service took without saying whether it knew them."""

    file: str
    accepted: int = 0
    duplicates: int = 0
    unpriced: int = 0
    taken: int = 0
    rejected: int = 0
    listed: list[Rejection] = field(default_factory=list)

    def add(self, receipt: Receipt) -> None:
        self.accepted += receipt.accepted
        self.duplicates += receipt.duplicates
        self.unpriced += receipt.unpriced
        self.reject(receipt.rejected)

    def reject(self, rejections: list[Rejection]) -> None:
        self.rejected += len(rejections)
        self.listed += rejections[: MAX_LISTED - len(self.listed)]

    def as_json(self) -> dict[str, Any]:
        names = ("file", "accepted", "duplicates", "unpriced", "taken", "rejected")
        lines = [{"line": line.index, "code": line.code, "detail": line.detail} for line in self.listed]
        return {**{name: getattr(self, name) for name in names}, "rejected_lines": lines}


Record = Callable[[Format, Chunk, Tally], Awaitable[None]]
"""Records a chunk, and adds to the tally what became of it."""


def import_files(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True)],
    format: Annotated[Format | None, typer.Option(help="What they hold.", show_default="by the name")] = None,  # noqa: A002
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Record usage from files.

    NDJSON: an event per line, as POST /api/v1/events takes it. CSV: a header with the columns customer, meter, value,
    and as you like id, time, kind, resource, agent, unit_price, source. Line protocol: InfluxDB's, with timestamps.

    Importing a file again changes nothing, so repeat an import that was interrupted. Lines without an id are told
    apart by the file's name, their number and their content. Rejected lines are listed and, unless they go to another
    service, kept in quarantine; the exit status is then 1.
    """
    formats = [(path, format or Format.of(path)) for path in files]
    tallies = asyncio.run(_import(read_settings(data_dir=data_dir), url, formats))
    if json:
        console.print_json({"files": [tally.as_json() for tally in tallies]})
    else:
        _show(tallies)
    if any(tally.rejected for tally in tallies):
        raise typer.Exit(ExitCode.NO)


async def _import(settings: Settings, url: str | None, files: list[tuple[Path, Format]]) -> list[Tally]:
    async with _recorder(settings, url) as record:
        with console.progress_bar("bytes") as progress:
            return [await _import_file(record, path, file_format, progress) for path, file_format in files]


async def _import_file(record: Record, path: Path, file_format: Format, progress: Progress) -> Tally:
    """One chunk after the other: counters must see their values in order, and nothing may pile up in memory."""
    task = progress.add_task(path.name, total=_size(path))
    tally = Tally(str(path))
    for chunk in read_chunks(path, file_format):
        await record(file_format, chunk, tally)
        progress.update(task, completed=chunk.position)
    return tally


def _size(path: Path) -> int:
    return path.stat().st_size


def _show(tallies: list[Tally]) -> None:
    table = console.table("Imported", "file", "accepted>", "duplicates>", "unpriced>", "taken>", "rejected>")
    for tally in tallies:
        counts = (tally.accepted, tally.duplicates, tally.unpriced, tally.taken, tally.rejected)
        console.add_row(table, (tally.file, *counts))
    console.out.print(table)
    for tally in tallies:
        for line in tally.listed:
            console.warn(f"{tally.file}:{line.index}: {line.detail} ({line.code})")
        if more := tally.rejected - len(tally.listed):
            console.warn(f"{tally.file}: and {more} more")


# Recording


@asynccontextmanager
async def _recorder(settings: Settings, url: str | None) -> AsyncIterator[Record]:
    if url is None:
        async with open_books(settings) as service:
            yield partial(_record, service)
    else:
        async with open_api(settings, url) as api:
            yield partial(_send, api)


async def _record(service: Service, file_format: Format, chunk: Chunk, tally: Tally) -> None:
    batch = _read(file_format, chunk, service.clock.now())
    batch.unreadable.extend(chunk.refused)
    tally.add(await service.intake.submit(batch))


async def _send(api: Api, file_format: Format, chunk: Chunk, tally: Tally) -> None:
    """A service says of each event what became of it; of lines only that it has them, so they are read here as well."""
    if file_format is Format.LINE_PROTOCOL:
        batch = _read(file_format, chunk, NO_TIME)
        timeless = {piece.index for piece in batch.unreadable if piece.code == "missing_time"}
        lines = zip(chunk.numbers, chunk.body.split(b"\n"), strict=False)  # after the last line end comes nothing
        await _post(api, "/write", b"\n".join(line for number, line in lines if number not in timeless), "text/plain")
        tally.taken += len(batch.measurements)
        tally.reject([_rejection(piece) for piece in batch.unreadable])
    elif chunk.numbers:
        receipt = await _post(api, "/api/v1/events", chunk.body, NDJSON)
        for rejection in receipt["rejected"]:
            rejection["index"] = chunk.numbers[rejection["index"]]
        tally.add(msgspec.convert(receipt, Receipt))
    tally.reject([_rejection(piece) for piece in chunk.refused])


async def _post(api: Api, path: str, body: bytes, content_type: str) -> Any:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return await api.send(path, body, content_type)
        except Refusal as refusal:
            if "rejected" in refusal.problem:  # not one event of the chunk could be read
                return {"accepted": 0, "duplicates": 0, "unpriced": 0, "rejected": refusal.problem["rejected"]}
            if refusal.retry_after_seconds is None or attempt == MAX_ATTEMPTS:
                raise
            await asyncio.sleep(refusal.retry_after_seconds)
    raise AssertionError("every attempt returns or raises")


# Reading: as any sender's body is read, each piece named by its line in the file


def _read(file_format: Format, chunk: Chunk, now: datetime) -> Batch:
    if file_format is Format.LINE_PROTOCOL:
        batch = _without_timeless(line_protocol.read(chunk.body, NO_TIME), chunk.body)
        # As at /write: a running total must not become a sum of deltas because its meter is not there yet.
        batch = msgspec.structs.replace(batch, creates_meters=False)
    else:
        batch = cloud_events.read(chunk.body, NDJSON, now) if chunk.numbers else Batch(cloud_events.SOURCE, [], [], [])
    return msgspec.structs.replace(
        batch,
        indexes=[chunk.numbers[index] for index in batch.indexes],
        unreadable=[msgspec.structs.replace(piece, index=chunk.numbers[piece.index]) for piece in batch.unreadable],
    )


def _without_timeless(batch: Batch, body: bytes) -> Batch:
    """The present cannot stand in for a timestamp here: at the next import of the file the line would count again."""
    if all(measurement.at != NO_TIME for measurement in batch.measurements):
        return batch
    lines = body.split(b"\n")
    timed: list[tuple[Measurement, int]] = []
    unreadable = list(batch.unreadable)
    for measurement, index in zip(batch.measurements, batch.indexes, strict=True):
        if measurement.at != NO_TIME:
            timed.append((measurement, index))
        else:
            detail = "a line of a file must have a timestamp"
            unreadable.append(Unreadable(index, lines[index], "missing_time", detail))
    return msgspec.structs.replace(
        batch,
        measurements=[measurement for measurement, _ in timed],
        indexes=[index for _, index in timed],
        unreadable=sorted(unreadable, key=lambda piece: piece.index),
    )


def _rejection(piece: Unreadable) -> Rejection:
    return Rejection(piece.index, piece.code, piece.detail)
