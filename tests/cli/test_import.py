"""``tally import``: into the books and into a service, once however often, with bad lines set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallystick.commands import files
from tests.cli.conftest import Server, Tally

NDJSON = """\
{"id":"1","subject":"ada","type":"tokens","time":"2026-10-01T00:00:00Z","data":{"value":3}}
{"subject":"ada","type":"tokens","time":"2026-10-01T00:00:00Z","data":{"value":3}}
{"subject":"ada","type":"tokens","time":"2026-10-01T00:00:00Z","data":{"value":3}}
nonsense
"""

CSV = """\
customer,meter,time,value,kind
ada,tokens,2026-10-01T00:00:00Z,5,m1
ada,tokens,2026-10-01T00:00:00Z,5,m1
ada,tokens,2026-10-01T00:00:00Z,many,m1
ada,tokens,2026-10-01T00:00:00Z
"""

LINES = """\
project_vcpu_usage,project_name=p,location_id=1 value=1 1790000000000000000
project_vcpu_usage,project_name=p,location_id=1 value=2
project_vcpu_usage,project_name=p,location_id=1 value=4,note="a
b" 1790003600000000000
# a comment
broken
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.ndjson").write_text(NDJSON)
    (tmp_path / "b.csv").write_text(CSV)
    (tmp_path / "c.lp").write_text(LINES)
    return tmp_path


def counts(file: dict[str, Any]) -> tuple[int, ...]:
    return tuple(file[name] for name in ("accepted", "duplicates", "unpriced", "taken", "rejected"))


def test_importing_twice_counts_once(books: Tally, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    first = books("import", *paths, "--json")
    assert first.code == 1  # something was rejected
    assert [counts(file) for file in first.document["files"]] == [(3, 0, 3, 0, 1), (2, 0, 2, 0, 2), (2, 0, 0, 0, 2)]
    again = books("import", *paths, "--json")
    assert [counts(file) for file in again.document["files"]] == [(0, 3, 0, 0, 1), (0, 2, 0, 0, 2), (0, 2, 0, 0, 2)]
    assert len(books("quarantine", "list", "--json").document["items"]) == 5
    assert books("verify", "--json").document["holds"]
    (balance,) = books("customers", "show", "p", "--json").document["balances"]
    assert balance["used"] == "3"  # 4 - 1: the total without a timestamp was not taken for a present one


def test_bad_lines_are_named_by_their_place_in_the_file(books: Tally, folder: Path) -> None:
    files = books("import", *sorted(folder.iterdir()), "--json").document["files"]
    assert [[(line["line"], line["code"]) for line in file["rejected_lines"]] for file in files] == [
        [(4, "not_json")],
        [(4, "invalid_value"), (5, "invalid_row")],
        [(2, "missing_time"), (6, "missing_tag")],
    ]
    assert f"{folder / 'c.lp'}:2: a line of a file must have a timestamp" in books("import", folder / "c.lp").err


def test_chunks_of_a_counter_are_recorded_in_their_order(
    books: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK_LINES", 7)
    line = "project_vcpu_usage,project_name=p,location_id=1 value={} {}\n"
    text = "".join(line.format(hour, 1790000000000000000 + hour * 3600 * 10**9) for hour in range(100))
    (tmp_path / "x.lp").write_text(text)
    assert books("import", tmp_path / "x.lp", "--json").document["files"][0]["accepted"] == 100
    (balance,) = books("customers", "show", "p", "--json").document["balances"]
    assert balance["used"] == "99"


def test_a_service_imports_the_same(server: Server, tally: Tally, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    first = tally("import", *paths, "--url", server.url, "--json")
    assert first.code == 1
    assert [counts(file) for file in first.document["files"]] == [(3, 0, 3, 0, 1), (2, 0, 2, 0, 2), (0, 0, 0, 2, 2)]
    here = tally("import", *paths, "--data-dir", server.data_dir, "--json")
    assert [counts(file)[:2] for file in here.document["files"]] == [(0, 3), (0, 2), (0, 2)]


def test_a_chunk_of_which_nothing_can_be_read_is_only_rejected(server: Server, tally: Tally, tmp_path: Path) -> None:
    (tmp_path / "x.ndjson").write_text("nonsense\n{}\n")
    told = tally("import", tmp_path / "x.ndjson", "--url", server.url, "--json").document["files"][0]
    assert counts(told) == (0, 0, 0, 0, 2)
    assert [line["line"] for line in told["rejected_lines"]] == [1, 2]


def test_an_empty_file_is_no_error(books: Tally, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("")
    assert books("import", tmp_path / "x.csv").code == 0


def test_an_unknown_format_is_a_wrong_usage(books: Tally, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(NDJSON)
    assert books("import", tmp_path / "x.txt").code == 2
    assert books("import", tmp_path / "x.txt", "--format", "ndjson").code == 1
