"""`python -m bench`: measure Tallystick, print one table, write one JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from bench.benchmarks import BENCHMARKS, FULL_FILL
from bench.client import BenchError
from bench.report import LATEST, Failure, Figure, Report, describe_machine, postgres_version, print_report
from bench.sampling import process_tree
from bench.session import Bench, Options, add_arguments, open_bench


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), help="run this benchmark (repeatable)")
    add_arguments(parser)
    parser.add_argument("--fill", type=int, default=Options().fill, metavar="EVENTS", help="events stored by `fill`")
    parser.add_argument("--full", action="store_true", help=f"the same as --fill {FULL_FILL}")
    parser.add_argument("--no-verify", action="store_true", help="do not verify the books at the end")
    parser.add_argument("--url", help="measure the service that runs there, without start and memory")
    parser.add_argument("--json", type=Path, help="write the report there too")
    return parser.parse_args()


def main() -> int:
    """Exit status 0 means that everything could be measured and the books hold, whether or not targets are met."""
    arguments = parse_arguments()
    console = Console()
    options = Options(
        seconds=arguments.seconds,
        in_flight=arguments.in_flight,
        connections=arguments.connections,
        fill=FULL_FILL if arguments.full else arguments.fill,
    )
    names = [name for name in BENCHMARKS if not arguments.only or name in arguments.only or name == "verify"]
    if arguments.no_verify:
        names.remove("verify")
    try:
        with open_bench(arguments, options, console) as bench:
            report = run(bench, names)
    except BenchError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    print_report(report, console)
    LATEST.parent.mkdir(exist_ok=True)
    for path in filter(None, (LATEST, arguments.json)):
        path.write_bytes(report.to_json())
        console.print(f"written: {path}", style="dim", highlight=False)
    return 1 if report.failures else 0


def run(bench: Bench, names: list[str]) -> Report:
    """Run the benchmarks one after the other; one that fails does not stop the next."""
    figures: list[Figure] = []
    failures: list[Failure] = []
    bench.prepare()
    machine = machine_of(bench)
    for name in names:
        bench.console.print(f"[bold]{name}[/]: {(BENCHMARKS[name].__doc__ or '').splitlines()[0]}", highlight=False)
        try:
            figures += BENCHMARKS[name](bench)
        except (BenchError, msgspec.DecodeError) as error:
            bench.console.print(f"  {error}", style="red", markup=False, highlight=False)
            failures.append(Failure(name, str(error)))
    return Report(machine, figures, failures)


def machine_of(bench: Bench) -> dict[str, str]:
    if bench.service is None:
        return describe_machine(None, "elsewhere")
    return describe_machine(bench.service.log_path.parent, postgres_version(process_tree(bench.service.roots())))


if __name__ == "__main__":
    sys.exit(main())
