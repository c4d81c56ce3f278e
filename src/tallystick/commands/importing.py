"""``tally import``: usage from files, through the same intake as everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import Progress, TaskID

from tallystick.commands import console
from tallystick.commands.api import Api, Refusal, open_api
from tallystick.commands.books import open_books
from tallystick.commands.files import Chunk, Format, read_chunks
from tallystick.commands.options import DataDir, ExitCode, Json, Url, read_settings
from tallystick.metering.model import Batch, Receipt, Rejection, Unreadable
from tallystick.metering.sources import cloud_events, line_protocol
from tallystick.service import Service
from tallystick.settings import Settings

NDJSON = "application/x-ndjson"
MAX_LISTED = 20
"""Rejected lines of one run that are listed; all are counted, and kept in quarantine."""
MAX_ATTEMPTS = 20
"""How often a chunk is sent to a service that answers that it has too much to do."""

NO_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""Stands for a timestamp that a line does not have."""

@dataclass(slots=True)
class Tally:
    """What became of a file. ``taken`` counts lines that a service took without saying which of them it knew already."""

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
        counts = {name: getattr(self, name) for name in ("file", "accepted", "duplicates", "unpriced", "taken", "rejected")}
        listed = [{"line": rejection.index, "code": rejection.code, "detail": rejection.detail} for rejection in self.listed]
        return {**counts, "rejected_lines": listed}


Record = Callable[[Format, Chunk, Tally], Awaitable[None]]
"""Records a chunk and adds to the tally what became of it. Places in receipts are line numbers of the file."""


def import_files(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True)],
    format: Annotated[Format | None, typer.Option(help="What the files hold.", show_default="by the file's name")] = None,  # noqa: A002
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Record usage from files.

    NDJSON holds an event per line, as POST /api/v1/events takes it. CSV has a header with the columns customer, meter, value and any of
    id, time, kind, resource, agent, unit_price, source. Line protocol is InfluxDB's; its lines must have timestamps.

    Importing a file again changes nothing, so an import that was interrupted is simply repeated. Lines without an id are told apart by
    the file's name, their number and their content.
    """
    formats = [format or Format.of(path) for path in files]
    tallies = asyncio.run(_import(read_settings(data_dir=data_dir), url, list(zip(files, formats, strict=True))))
    if json:
        console.print_json({"files": [tally.as_json() for tally in tallies]})
    else:
        _show(tallies)
    if any(tally.rejected for tally in tallies):
        raise typer.Exit(ExitCode.NO)


async def _import(settings: Settings, url: str | None, files: list[tuple[Path, Format]]) -> list[Tally]:
    tallies = []
    with console.progress_bar("B") as progress:
        async with _recorder(settings, url) as record:
            for path, file_format in files:
                task = progress.add_task(path.name, total=path.stat().st_size)
                tallies.append(await _import_file(record, path, file_format, progress, task))
    return tallies


async def _import_file(record: Record, path: Path, file_format: Format, progress: Progress, task: TaskID) -> Tally:
    """One chunk after the other: counters must see their values in the file's order, and nothing piles up in front of the database."""
    tally = Tally(str(path))
    for chunk in read_chunks(path, file_format):
        await record(file_format, chunk, tally)
        progress.update(task, completed=chunk.position)
    return tally


def _show(tallies: list[Tally]) -> None:
    table = console.table("Imported", "file", "accepted>", "duplicates>", "unpriced>", "taken>", "rejected>")
    for tally in tallies:
        console.add_row(
            table, (tally.file, tally.accepted, tally.duplicates, tally.unpriced, tally.taken or None, tally.rejected)
        )
    console.out.print(table)
    for tally in tallies:
        for rejection in tally.listed:
            console.messages.print(f"{tally.file}:{rejection.index}: {rejection.detail} ({rejection.code})", markup=False)
        if tally.rejected > len(tally.listed):
            console.messages.print(f"{tally.file}: and {tally.rejected - len(tally.listed)} more", markup=False)


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
    """A service says of each event what became of it; of lines it only says that it has them, so they are read here too."""
    if file_format is Format.LINE_PROTOCOL:
        batch = _read(file_format, chunk, NO_TIME)
        timeless = {piece.index for piece in batch.unreadable if piece.code == "missing_time"}
        lines = zip(chunk.numbers, chunk.body.split(b"\n"), strict=False)
        await _post(api, "/write", b"\n".join(line for number, line in lines if number not in timeless), "text/plain")
        tally.taken += len(batch.measurements)
        tally.reject([*map(_rejection, batch.unreadable)])
    else:
        answer = await _post(api, "/api/v1/events", chunk.body, NDJSON)
        receipt = msgspec.convert(answer, Receipt)
        tally.add(msgspec.structs.replace(receipt, rejected=[_at_line(rejection, chunk) for rejection in receipt.rejected]))
    tally.reject([*map(_rejection, chunk.refused)])


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


def _read(file_format: Format, chunk: Chunk, now: datetime) -> Batch:
    """The chunk as any sender's body is read, its pieces named by their lines in the file."""
    if file_format is Format.LINE_PROTOCOL:
        batch = _without_timeless(line_protocol.read(chunk.body, NO_TIME), chunk.body)
        # As at /write: a running total must not become a sum of deltas because its meter is not there yet.
        batch = msgspec.structs.replace(batch, creates_meters=False)
    else:
        batch = cloud_events.read(chunk.body, NDJSON, now)
    return msgspec.structs.replace(
        batch,
        indexes=[chunk.numbers[index] for index in batch.indexes],
        unreadable=[msgspec.structs.replace(piece, index=chunk.numbers[piece.index]) for piece in batch.unreadable],
    )


def _without_timeless(batch: Batch, body: bytes) -> Batch:
    """The present instant cannot stand in for a timestamp here: importing the file again would count the line again."""
    timed = [place for place, measurement in enumerate(batch.measurements) if measurement.at != NO_TIME]
    if len(timed) == len(batch.measurements):
        return batch
    lines = body.split(b"\n")
    timeless = [
        Unreadable(index, lines[index], "missing_time", "a line of a file must have a timestamp")
        for measurement, index in zip(batch.measurements, batch.indexes, strict=True)
        if measurement.at == NO_TIME
    ]
    return msgspec.structs.replace(
        batch,
        measurements=[batch.measurements[place] for place in timed],
        indexes=[batch.indexes[place] for place in timed],
        unreadable=sorted([*batch.unreadable, *timeless], key=lambda piece: piece.index),
    )


def _at_line(rejection: Rejection, chunk: Chunk) -> Rejection:
    return msgspec.structs.replace(rejection, index=chunk.numbers[rejection.index])


def _rejection(piece: Unreadable) -> Rejection:
    return Rejection(piece.index, piece.code, piece.detail)
