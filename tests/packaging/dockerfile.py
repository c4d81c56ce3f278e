"""A Dockerfile, read and carried out without a container engine, as far as ours needs it.

Folders of the image that it writes to lie below a folder of the test's own: ``/opt/uv`` is ``FOLDER/opt/uv``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

WRITTEN = ("/opt/", "/build")
"""Where our build stage writes."""

_CONTINUED = re.compile(r"\\\n")
_COMMENT = re.compile(r"^\s*#.*\n", re.MULTILINE)


@dataclass
class Stage:
    """What stands between two ``FROM``: instructions with their values, in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.steps if name == instruction]

    def command(self, instruction: str) -> list[str]:
        """The words of an instruction in its JSON form, as ``ENTRYPOINT`` has it."""
        (value,) = self.values(instruction)
        words: list[str] = json.loads(value[value.index("[") :])
        return words

    @property
    def environment(self) -> dict[str, str]:
        pairs = (pair.partition("=") for value in self.values("ENV") for pair in value.split())
        return {name: text for name, _, text in pairs}


def read(path: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    stages: list[Stage] = []
    text = _CONTINUED.sub(" ", _COMMENT.sub("", path.read_text(encoding="utf-8")))
    for line in filter(None, (line.strip() for line in text.splitlines())):
        instruction, _, value = line.partition(" ")
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append(Stage(name, base))
        elif stages:
            stages[-1].steps.append((instruction, " ".join(value.split())))
    return stages


def build(stage: Stage, context: Path, folder: Path) -> None:
    """Carries a stage out: copies what it copies, runs what it runs."""
    here = folder
    for instruction, value in stage.steps:
        if instruction == "WORKDIR":
            here = folder / value.lstrip("/")
            here.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            *sources, target = value.split()
            for source in sources:
                _copy(context / source, here / target, into=target.endswith(("/", ".")))
        elif instruction == "RUN":
            subprocess.run(["sh", "-euc", below(folder, value)], cwd=here, check=True, env=_clean(os.environ.copy()))
        else:
            raise AssertionError(f"this stage has {instruction}, which nobody carries out here")


def below(folder: Path, text: str) -> str:
    """The same with the image's folders below another one."""
    for place in WRITTEN:
        text = re.sub(rf"(?<![\w.]){re.escape(place)}", f"{folder}{place}", text)
    return text


def _copy(source: Path, target: Path, *, into: bool) -> None:
    """``into``: whether the target is a folder to copy a file into. The content of a folder is always copied."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        return
    folder = target if into else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, folder / source.name if into else target)


def _clean(environment: dict[str, str]) -> dict[str, str]:
    """Without what would lead tools into the environment of whoever runs the tests."""
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    return environment
