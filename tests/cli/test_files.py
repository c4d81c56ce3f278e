"""Files cut into bodies: nothing is lost, ids are the same at each repetition, memory is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tallystick.commands import files
from tallystick.commands.files import Format, read_chunks
from tallystick.kernel.errors import InvalidInput

EVENT = '{"subject":"ada","type":"tokens","data":{"value":3}}'


def events(path: Path, file_format: Format) -> list[dict[str, object]]:
    return [json.loads(line) for chunk in read_chunks(path, file_format) for line in chunk.body.splitlines()]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_an_event_without_id_gets_one_of_its_place_and_content(tmp_path: Path) -> None:
    path = write(tmp_path, "a.ndjson", f"{EVENT}\n{EVENT}\n")
    first, second = events(path, Format.NDJSON)
    assert first["id"] != second["id"]
    assert {**first, "id": None} == {**json.loads(EVENT), "id": None}
    (tmp_path / "elsewhere").mkdir()
    longer = write(tmp_path / "elsewhere", "a.ndjson", f"{EVENT}\n{EVENT}\n{EVENT}\n")
    assert events(longer, Format.NDJSON)[:2] == [first, second]
    renamed = write(tmp_path, "b.ndjson", EVENT)
    assert events(renamed, Format.NDJSON)[0]["id"] != first["id"]


@pytest.mark.parametrize("line", ['{"id":"1"}', '{"id":null}', '{"b":{"x":1}, "id" : 7 }', "nonsense", "[1]", "7", "{"])
def test_a_line_with_an_id_and_what_is_no_event_stay_as_they_are(tmp_path: Path, line: str) -> None:
    (chunk,) = read_chunks(write(tmp_path, "a.ndjson", line), Format.NDJSON)
    assert chunk.body == line.encode() + b"\n"


def test_blank_lines_and_a_byte_order_mark_do_not_disturb_the_numbers(tmp_path: Path) -> None:
    (chunk,) = read_chunks(write(tmp_path, "a.ndjson", f"\ufeff{EVENT}\n\n  \r\n{EVENT}\r\n"), Format.NDJSON)
    assert chunk.numbers == [1, 4]
    assert chunk.position == (tmp_path / "a.ndjson").stat().st_size


def test_a_row_is_an_event(tmp_path: Path) -> None:
    header = "Value,customer,meter,time,id,kind,resource,agent,unit_price,source"
    row = '0.10,"a ""b"",c",m,2026-01-01T00:00:00Z,7,,r,,2,s'
    (event,) = events(write(tmp_path, "a.csv", f"{header}\n{row}\n"), Format.CSV)
    assert event == {
        "id": "7",
        "source": "s",
        "subject": 'a "b",c',
        "type": "m",
        "time": "2026-01-01T00:00:00Z",
        "data": {"value": "0.10", "resource": "r", "unit_price": "2"},
    }


def test_equal_rows_are_told_apart(tmp_path: Path) -> None:
    first, second = events(write(tmp_path, "a.csv", "customer,meter,value\na,m,1\na,m,1\n"), Format.CSV)
    assert first["id"] != second["id"]


def test_rows_that_are_none_are_refused_with_their_lines(tmp_path: Path) -> None:
    text = 'customer,meter,value\na,m\n"a"b,m,1\na,m,1\n"a\nb",m,2\na,m,1,1\n'
    (chunk,) = read_chunks(write(tmp_path, "a.csv", text), Format.CSV)
    assert chunk.numbers == [4, 6]
    assert [(piece.index, piece.code) for piece in chunk.refused] == [
        (2, "invalid_row"),
        (3, "invalid_row"),
        (7, "invalid_row"),
    ]
    assert chunk.refused[0].raw == b'["a", "m"]'
    assert chunk.refused[1].raw == b'"a"b,m,1\n'


@pytest.mark.parametrize("header", ["customer,meter", "customer,meter,value,value", "customer,meter,value,colour"])
def test_a_header_must_name_known_columns(tmp_path: Path, header: str) -> None:
    with pytest.raises(InvalidInput, match="header"):
        list(read_chunks(write(tmp_path, "a.csv", f"{header}\na,m,1\n"), Format.CSV))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 100)
    long = b"x" * 1000
    (chunk,) = read_chunks(
        write(tmp_path, "a.ndjson", EVENT.encode() + b"\n" + long + b"\n" + EVENT.encode()), Format.NDJSON
    )
    assert chunk.numbers == [1, 3]
    (refused,) = chunk.refused
    assert (refused.index, refused.code, refused.raw) == (2, "line_too_long", long[:100])


def test_a_file_is_cut_into_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_LINES", 3)
    chunks = list(read_chunks(write(tmp_path, "a.ndjson", f"{EVENT}\n" * 8), Format.NDJSON))
    assert [chunk.numbers for chunk in chunks] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    monkeypatch.setattr(files, "CHUNK_LINES", 1000)
    monkeypatch.setattr(files, "CHUNK_BYTES", 150)
    chunks = list(read_chunks(tmp_path / "a.ndjson", Format.NDJSON))
    assert [len(chunk.numbers) for chunk in chunks] == [2, 2, 2, 2]


def test_a_string_over_several_lines_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_LINES", 2)
    lines = ["m,t=1 value=1 10", 'm,t=1 value=1,note="a', 'b" 11', "m,t=1 value=1 12"]
    chunks = list(read_chunks(write(tmp_path, "a.lp", "\n".join(lines)), Format.LINE_PROTOCOL))
    assert [chunk.numbers for chunk in chunks] == [[1, 2, 3], [4]]


def test_the_name_tells_the_format() -> None:
    assert Format.of(Path("x.CSV")) is Format.CSV
    assert Format.of(Path("x.jsonl")) is Format.NDJSON
    assert Format.of(Path("x.lp")) is Format.LINE_PROTOCOL
    with pytest.raises(InvalidInput, match="--format"):
        Format.of(Path("x.txt"))
