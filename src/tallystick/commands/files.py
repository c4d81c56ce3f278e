"""Usage in files, cut into bodies as senders would post them: NDJSON events, or lines of the InfluxDB line protocol.

CSV becomes NDJSON on the way: each row an event, each column a field of it. An event without ``id`` gets one that is
derived from the file's name (without its folder), the number of its line and what stands there. So importing a file
again, or a longer version of it, counts nothing twice, and two equal rows are two measurements; a renamed file is
another one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import msgspec

from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.ids import derived_id
from tallystick.metering.model import Unreadable

CHUNK_LINES = 10_000
CHUNK_BYTES = 8 << 20
"""A chunk ends after so many lines or bytes: memory stays bounded, and a body fits the limits of a service."""

MAX_LINE_BYTES = 1 << 20
"""A longer line is passed over; what it begins with is kept."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"


class Format(StrEnum):
    """How usage stands in a file."""

    NDJSON = "ndjson"
    CSV = "csv"
    LINE_PROTOCOL = "line-protocol"

    @classmethod
    def of(cls, path: Path) -> Format:
        """The format that the file's name tells. Raises ``InvalidInput``."""
        known = _SUFFIXES.get(path.suffix.lower())
        if known is None:
            raise InvalidInput(
                f"{path.name} does not end in one of {', '.join(_SUFFIXES)}: give --format", field="format"
            )
        return known


_SUFFIXES = {
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".csv": Format.CSV,
    ".lp": Format.LINE_PROTOCOL,
    ".line": Format.LINE_PROTOCOL,
    ".influx": Format.LINE_PROTOCOL,
}

COLUMNS = {
    "id": ("id",),
    "source": ("source",),
    "customer": ("subject",),
    "meter": ("type",),
    "time": ("time",),
    "value": ("data", "value"),
    "kind": ("data", "kind"),
    "resource": ("data", "resource"),
    "agent": ("data", "agent"),
    "unit_price": ("data", "unit_price"),
}
"""The columns of a CSV file, in any order, and the field of an event that each stands for."""

REQUIRED_COLUMNS = ("customer", "meter", "value")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A body, and for each of its lines the number (from 1) of the line in the file.

    ``refused`` is what cannot even be put into a body; its ``index`` is the number of its line. ``position`` is how
    many bytes of the file have been read.
    """

    body: bytes
    numbers: list[int]
    refused: list[Unreadable]
    position: int


def read_chunks(path: Path, file_format: Format) -> Iterator[Chunk]:
    """The chunks of a file, in its order. Raises ``InvalidInput`` for a CSV file without a proper header,
    ``OSError``."""
    with path.open("rb") as file:
        lines = _Lines(file)
        numbers: list[int] = []
        body = bytearray()
        for number, line in _READERS[file_format](lines, path.name):
            numbers.append(number)
            body += line + b"\n"
            if (len(numbers) >= CHUNK_LINES or len(body) >= CHUNK_BYTES) and _may_end_with(line, file_format, numbers):
                yield Chunk(bytes(body), numbers, lines.take_refused(), file.tell())
                numbers, body = [], bytearray()
        refused = lines.take_refused()
        if numbers or refused:
            yield Chunk(bytes(body), numbers, refused, file.tell())


def _may_end_with(line: bytes, file_format: Format, numbers: list[int]) -> bool:
    """A string in line protocol may go on over line ends; where a line ends in a timestamp, none is open."""
    if file_format is not Format.LINE_PROTOCOL or len(numbers) >= 2 * CHUNK_LINES:
        return True
    return line.rstrip(_BLANKS).rpartition(b" ")[2].removeprefix(b"-").isdigit()


class _Lines:
    """The lines of a file without their ends, the number of the present one, and those that had to be refused."""

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self.present = b""
        self._file = file
        self._refused: list[Unreadable] = []

    def __iter__(self) -> Iterator[bytes]:
        while line := self._file.readline(MAX_LINE_BYTES):
            self.number += 1
            self.present = line.removeprefix(_BYTE_ORDER_MARK) if self.number == 1 else line
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                self._pass_over()
                self.refuse("line_too_long", f"a line must be shorter than {MAX_LINE_BYTES} bytes")
            else:
                yield self.present.removesuffix(b"\n")

    def refuse(self, code: str, detail: str, raw: bytes | None = None) -> None:
        """Keeps the present line, or ``raw`` in its place, with the reason."""
        self._refused.append(Unreadable(self.number, self.present if raw is None else raw, code, detail))

    def take_refused(self) -> list[Unreadable]:
        refused, self._refused = self._refused, []
        return refused

    def _pass_over(self) -> None:
        while (rest := self._file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass


# From lines of a file to lines of a body, each with the number of the former


class _Identity(msgspec.Struct):
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_IDENTITY = msgspec.json.Decoder(_Identity)


def _events(lines: _Lines, name: str) -> Iterator[tuple[int, bytes]]:
    for line in lines:
        if event := line.strip(_BLANKS):
            yield lines.number, _identified(event, name, lines.number)


def _identified(event: bytes, name: str, number: int) -> bytes:
    """The event, with a derived id if it is an object that has none."""
    try:
        if _IDENTITY.decode(event).id is not msgspec.UNSET:
            return event
    except (msgspec.DecodeError, RecursionError):
        return event  # whoever reads it says what is wrong
    identity = b'{"id":"%s"' % str(derived_id("import", name, str(number), event)).encode()
    rest = event[1:].lstrip(_BLANKS)
    return identity + (b"" if rest == b"}" else b",") + rest


def _points(lines: _Lines, name: str) -> Iterator[tuple[int, bytes]]:
    for line in lines:  # blank ones too: one may be part of a string
        yield lines.number, line


def _rows(lines: _Lines, name: str) -> Iterator[tuple[int, bytes]]:
    rows = csv.reader((line.decode(errors="surrogateescape") + "\n" for line in lines), strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            lines.refuse("invalid_row", f"a row must be CSV: {error}")
            continue
        if cells and header is None:
            header = _header(cells)
        elif cells and header is not None:
            if len(cells) == len(header):
                yield lines.number, _identified(_event(header, cells), name, lines.number)
            else:
                rule = f"a row must have {len(header)} cells, this one has {len(cells)}"
                lines.refuse("invalid_row", rule, json.dumps(cells).encode())


def _header(cells: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    if not set(header) <= COLUMNS.keys() or len(set(header)) < len(header):
        raise InvalidInput(f"the header must name columns out of {', '.join(COLUMNS)}, none twice", field="header")
    if missing := [name for name in REQUIRED_COLUMNS if name not in header]:
        raise InvalidInput(f"the header must name the columns {', '.join(missing)} too", field="header")
    return header


def _event(header: list[str], cells: list[str]) -> bytes:
    """The row as an event; an empty cell is an absent field."""
    event: dict[str, object] = {}
    data: dict[str, str] = {}
    for column, cell in zip(header, cells, strict=True):
        *parents, name = COLUMNS[column]
        if cell and parents:
            data[name] = cell
        elif cell:
            event[name] = cell
    return json.dumps({**event, "data": data}, separators=(",", ":")).encode()


_READERS: dict[Format, Callable[[_Lines, str], Iterator[tuple[int, bytes]]]] = {
    Format.NDJSON: _events,
    Format.CSV: _rows,
    Format.LINE_PROTOCOL: _points,
}
