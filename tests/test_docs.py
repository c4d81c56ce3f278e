"""The documentation names what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import AliasChoices

from tallystick.cli import app
from tallystick.operations.verify import CHECKS
from tallystick.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_every_setting_is_in_the_reference_with_its_other_names() -> None:
    reference = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    documented = {tuple(re.findall(r"`(\w+)`", f"{row[1]} {row[2]}")) for row in _rows(reference)}
    expected = set()
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        expected.add(tuple(str(choice) for choice in field.validation_alias.choices))
    assert documented == expected


def test_every_command_is_in_the_reference() -> None:
    reference = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `tally ([a-z]+)", reference, re.MULTILINE))
    commands = {info.name or str(getattr(info.callback, "__name__", "")) for info in app.registered_commands}
    groups = {info.name for info in app.registered_groups}
    assert documented == commands | groups


def test_every_check_of_the_proof_is_in_the_reference() -> None:
    reference = (DOCS / "reference" / "verify.md").read_text(encoding="utf-8")
    assert [row[1].strip().strip("`") for row in _rows(reference)] == list(CHECKS)


@pytest.mark.parametrize("task", ["clean", "docs", "jwt", "migrate", "psql", "test"])
def test_the_tasks_that_the_systems_before_promised_are_there(task: str) -> None:
    """``make`` knows each, and what it needs."""
    if shutil.which("make") is None:
        pytest.skip("make comes with the package `make`")
    asked = subprocess.run(["make", "--dry-run", task], cwd=ROOT, capture_output=True, check=False)
    assert asked.returncode == 0, asked.stderr.decode()


def _rows(markdown: str) -> list[list[str]]:
    return [line.split("|") for line in markdown.splitlines() if line.startswith("| `")]
