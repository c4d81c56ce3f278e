"""Figures with their targets, the machine they were measured on, as one table and one JSON."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parent.parent
LATEST: Final = ROOT / "bench" / "results" / "latest.json"
FSYNC_SAMPLES: Final = 200


class Target(msgspec.Struct, frozen=True):
    """What a figure should be; `below` does not include its bound."""

    rule: Literal["at_least", "at_most", "below"]
    bound: float

    def met_by(self, value: float) -> bool:
        if self.rule == "at_least":
            return value >= self.bound
        return value < self.bound if self.rule == "below" else value <= self.bound

    def __str__(self) -> str:
        sign = {"at_least": "≥", "at_most": "≤", "below": "<"}[self.rule]
        return f"{sign} {format_number(self.bound)}"


def at_least(bound: float) -> Target:
    return Target("at_least", bound)


def at_most(bound: float) -> Target:
    return Target("at_most", bound)


def below(bound: float) -> Target:
    return Target("below", bound)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value. `series` holds the values it was taken from, if it was taken from few."""

    benchmark: str
    name: str
    value: float
    unit: str
    target: Target | None = None
    note: str = ""
    series: tuple[float, ...] = ()
    processors: dict[str, float] = {}  # in use on average: server, postgres ..., generator, others, idle

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met_by(self.value)


class Failure(msgspec.Struct, frozen=True):
    """A benchmark that could not be measured, or whose results were wrong."""

    benchmark: str
    reason: str


class Report(msgspec.Struct, frozen=True):
    """A run of the benchmarks."""

    machine: dict[str, str]
    figures: list[Figure]
    failures: list[Failure]

    def to_json(self) -> bytes:
        document: dict[str, Any] = msgspec.to_builtins(self)
        for written, figure in zip(document["figures"], self.figures, strict=True):
            written["met"] = figure.met
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def format_number(value: float) -> str:
    if value == int(value) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_report(report: Report, console: Console) -> None:
    table = Table(title="Tallystick benchmarks", title_justify="left", header_style="bold")
    table.add_column("benchmark")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("met?")
    table.add_column("note", style="dim", overflow="fold")
    previous = ""
    for figure in report.figures:
        if previous and figure.benchmark != previous:
            table.add_section()
        name = figure.benchmark if figure.benchmark != previous else ""
        previous = figure.benchmark
        table.add_row(
            name,
            figure.name,
            f"{format_number(figure.value)} {figure.unit}",
            str(figure.target or ""),
            {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[figure.met],
            figure.note,
        )
    console.print(table)
    for failure in report.failures:
        console.print(f"{failure.benchmark} failed: {failure.reason}", style="red", markup=False, highlight=False)
    console.print("\n".join(f"{key}: {value}" for key, value in report.machine.items()), style="dim", highlight=False)


# --- the machine -----------------------------------------------------------------------------------------------------


def describe_machine(data_dir: Path | None, postgres: str) -> dict[str, str]:
    """What somebody needs to judge the figures, or to repeat them."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
        "revision": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _disk(data_dir) if data_dir is not None else "unknown",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgresql": postgres,
    }


def _module() -> str:
    """What `python -m` was given."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec is not None else "bench"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _disk(folder: Path) -> str:
    """How long the disk takes to make one page durable: the floor under every `synchronous_commit = on`."""
    page = os.urandom(8192)
    seconds = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(FSYNC_SAMPLES):
            began = time.perf_counter()
            file.write(page)
            file.flush()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    free_gib = shutil.disk_usage(folder).free / 2**30
    return f"{statistics.median(seconds) * 1000:.2f} ms per 8 KiB fdatasync (median), {free_gib:.0f} GiB free"


def postgres_version(pids: set[int]) -> str:
    """The version of the PostgreSQL server among the processes."""
    for pid in pids:
        program = Path(f"/proc/{pid}/exe")
        if program.resolve().name == "postgres":
            return _output(str(program), "--version")
    return "not among the service's processes"


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
