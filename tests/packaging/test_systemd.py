"""The systemd units: understood by systemd, exposed as little as can be, and their commands run."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tallystick.settings import Settings
from tests.outbox.rabbitmq import free_port
from tests.system.monitoring import program

SYSTEMD = Path(__file__).parents[2] / "packaging" / "systemd"
UNITS = ("tallystick.service", "tallystick-worker@.service")
TALLY = "/opt/tallystick/bin/tally"
MOST_EXPOSED = 20
"""Tenths; systemd calls what is below 20 good, and most services of a distribution have more than 90."""


@pytest.fixture
def analyze() -> str:
    """systemd's own program, Debian's."""
    return program("systemd-analyze", "systemd")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((SYSTEMD / name).read_text(encoding="utf-8"))
    return parser


def here(name: str, folder: Path) -> Path:
    """The unit with a program that is installed on this machine."""
    copy = folder / name.replace("@", "@1")
    text = (SYSTEMD / name).read_text(encoding="utf-8")
    copy.write_text(text.replace(TALLY, str(Path(sys.executable).parent / "tally")), encoding="utf-8")
    return copy


@pytest.mark.integration
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_it(analyze: str, tmp_path: Path, name: str) -> None:
    """Every line: what it does not know it only warns of, so a word is as bad as a failure."""
    command = [analyze, "verify", "--man=no", str(here(name, tmp_path))]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in checked.stderr.splitlines() if "tallystick" in line]
    assert (checked.returncode, said) == (0, [])


@pytest.mark.integration
@pytest.mark.parametrize("name", UNITS)
def test_it_may_do_next_to_nothing(analyze: str, tmp_path: Path, name: str) -> None:
    path = str(here(name, tmp_path))
    command = [analyze, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", path]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout[-200:]


def test_both_are_the_same_but_for_what_they_run() -> None:
    service, worker = (dict(unit(name)["Service"]) for name in UNITS)
    assert (service.pop("ExecStart"), worker.pop("ExecStart")) == (f"{TALLY} serve", f"{TALLY} worker")
    assert service == worker
    assert service["User"] in (SYSTEMD / "tallystick.sysusers").read_text(encoding="utf-8")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The example of the file that the units read, with a key; nothing else of ours is set."""
    for setting in Settings.model_fields.values():
        for name in setting.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)
    lines = (SYSTEMD / "tallystick.env").read_text(encoding="utf-8").splitlines()
    variables = {name: value for name, _, value in (line.partition("=") for line in lines if re.match(r"\w", line))}
    return variables | {"TALLY_ADMIN_API_KEYS": "a-key"}  # pragma: allowlist secret


def test_the_example_of_settings_is_one(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SYSTEMD / "tallystick.env").read_text(encoding="utf-8")
    known = {str(name) for setting in Settings.model_fields.values() for name in setting.validation_alias.choices}  # type: ignore[union-attr]
    assert set(re.findall(r"^#?(\w+)=", text, re.MULTILINE)) <= known | {"PGPASSWORD"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().admin_keys == {"a-key"}
    assert Settings().data_dir == Path("/var/lib") / unit(UNITS[0])["Service"]["StateDirectory"]


@pytest.mark.integration
@pytest.mark.parametrize("name", UNITS)
def test_its_command_runs_and_sigterm_ends_it(environment: dict[str, str], database_url: str, name: str) -> None:
    _, command = unit(name)["Service"]["ExecStart"].split()
    own = {"TALLY_DATABASE_URL": database_url, "TALLY_PORT": str(free_port())}
    process = subprocess.Popen(
        [sys.executable, "-m", "tallystick.cli", command, "--json"],
        env=os.environ | environment | own,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        process.terminate()
        assert process.wait(int(unit(name)["Service"]["TimeoutStopSec"])) == 0
    finally:
        process.kill()
        process.communicate()
