"""`python -m bench.profile`: where the time of a load goes.

Prints the processors in use by each kind of process (server, each kind of PostgreSQL process, this generator), and, if
py-spy is installed, where in the server's code the samples fell that held the interpreter lock: by our module, and by
innermost function. What libuv and libpq do without the lock is in the first table only.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.benchmarks import BENCHMARKS, WARM_UP_SECONDS
from bench.client import BenchError
from bench.report import Figure
from bench.sampling import processors
from bench.session import Bench, Options, add_arguments, open_bench

SAMPLES_PER_SECOND: Final = 200
MOST_ROWS: Final = 25
LOADS: Final = ("batches", "singles", "bill", "remote_write", "line_protocol")

_FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(?::\d+)?\)")


def main() -> int:
    """Exit status 0 if the load could be run; without py-spy the split by process is all there is."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("load", nargs="?", default="batches", choices=LOADS)
    add_arguments(parser)
    parser.add_argument("--native", action="store_true", help="sample functions of compiled extensions too")
    parser.add_argument("--raw", type=Path, help="keep the collapsed stacks there, for a flame graph")
    arguments = parser.parse_args()
    arguments.url = None  # a service elsewhere cannot be looked into
    options = Options(arguments.seconds, arguments.in_flight, arguments.connections, fill=0)
    console = Console()
    try:
        with open_bench(arguments, options, console) as bench, tempfile.TemporaryDirectory() as folder:
            bench.prepare()
            stacks_path = arguments.raw or Path(folder) / "stacks.txt"
            figures = profiled(bench, arguments.load, stacks_path, native=arguments.native)
            stacks = read_stacks(stacks_path)
    except BenchError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    _print_processors(console, figures)
    if stacks:
        held = stacks.total() / SAMPLES_PER_SECOND / (WARM_UP_SECONDS + options.seconds)
        console.print(f"\nThe interpreter lock was held {held:.0%} of the time.", highlight=False)
        _print_shares(console, "Server time by the innermost module of ours", stacks, innermost_module)
        _print_shares(console, "Server time by innermost function", stacks, innermost_function)
    return 0


def profiled(bench: Bench, load: str, stacks_path: Path, *, native: bool) -> list[Figure]:
    """Run the load while py-spy, if there is one, samples the server."""
    assert bench.service is not None
    sampler = _start_py_spy(bench.service.pid, WARM_UP_SECONDS + bench.options.seconds, stacks_path, native=native)
    figures = BENCHMARKS[load](bench)
    if sampler is not None:
        _, errors = sampler.communicate()
        if sampler.returncode:
            bench.console.print(f"py-spy failed: {errors.decode().strip()}", style="red", markup=False)
    return figures


def _start_py_spy(pid: int, seconds: float, output: Path, *, native: bool) -> subprocess.Popen[bytes] | None:
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        return None
    command = [program, "record", "--pid", str(pid), "--duration", str(round(seconds)), "--output", str(output)]
    command += ["--format", "raw", "--rate", str(SAMPLES_PER_SECOND), "--gil", *(["--native"] if native else [])]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


# --- stacks ----------------------------------------------------------------------------------------------------------

Stack = tuple[str, ...]


def read_stacks(path: Path) -> Counter[Stack]:
    """Collapsed stacks: frames from the outermost to the innermost with `;` between them, and the number of samples."""
    stacks = Counter[Stack]()
    if path.exists():
        for line in path.read_text().splitlines():
            frames, _, count = line.rpartition(" ")
            stacks[tuple(frames.split(";"))] += int(count)
    return stacks


def innermost_module(stack: Stack) -> str:
    """The module of ours that a sample is spent for; the package of the innermost function if it is not for us."""
    files = [match["file"] for frame in stack if (match := _FRAME.fullmatch(frame))]
    ours = [file for file in files if file.startswith("tallystick/")]
    if ours:
        return ours[-1]
    return files[-1].partition("/")[0] if files else "unknown"


def innermost_function(stack: Stack) -> str:
    match = _FRAME.fullmatch(stack[-1])
    return f"{match['function']} ({match['file']})" if match else stack[-1]


def _print_shares(console: Console, title: str, stacks: Counter[Stack], key: Callable[[Stack], str]) -> None:
    shares = Counter[str]()
    for stack, count in stacks.items():
        shares[key(stack)] += count
    rows = ((name, f"{count / stacks.total():.1%}") for name, count in shares.most_common(MOST_ROWS))
    _print_table(console, title, ("where", "share"), rows)


def _print_processors(console: Console, figures: list[Figure]) -> None:
    """A table for each measured window of the load; the cost of one event or bill hardly depends on who else runs."""
    for figure in figures:
        if figure.processors:
            shares = sorted(figure.processors.items(), key=lambda item: -item[1])
            rows = (
                (name, f"{share:.2f}", f"{share / figure.value * 1e6:,.1f}") for name, share in shares if share >= 0.005
            )
            title = f"{figure.name}: {figure.value:,.0f} {figure.unit} on {processors()} processors"
            _print_table(console, title, ("process", "processors", "µs for each"), rows)


def _print_table(console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(header_style="bold")
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(f"\n{title}", markup=False, highlight=False)
    console.print(table, markup=False)


if __name__ == "__main__":
    sys.exit(main())
