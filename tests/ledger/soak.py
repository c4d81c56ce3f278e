"""``make soak``: a long random workload on every engine at once, which must all do the same.

    python -m tests.ledger.soak --transfers 100000 --seed 7 --engines postgres,tigerbeetle

The model is always one of them. Without ``--engines``, PostgreSQL takes part, and TigerBeetle if the environment names
one (``tigerbeetle/server.py``). Ends with 1, the seed and the first difference if there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import SystemRandom

from tallystick.database.embedded import EmbeddedPostgres
from tallystick.database.migrate import migrate
from tallystick.ledger.contract import BATCH_MAX
from tests.ledger.comparison import Difference, Occurrences, compare
from tests.ledger.engines import ENGINES, NO_TIGERBEETLE, Engine, engine_named
from tests.ledger.tigerbeetle.server import given_address, given_binary
from tests.ledger.workload import MAX_BATCH, workload

DEFAULT_TRANSFERS = 100_000
TELL_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    print(f"seed {options.seed}: {options.transfers:,} transfers on {', '.join(options.engines)}")
    try:
        occurrences = asyncio.run(_soak(options))
    except Difference as difference:
        print(f"\nseed {options.seed}: {difference}", file=sys.stderr)
        return 1
    print(table(occurrences))
    if occurrences.missing:
        print(f"seed {options.seed}: these never occurred: {', '.join(occurrences.missing)}", file=sys.stderr)
        return 1
    return 0


async def _soak(options: argparse.Namespace) -> Occurrences:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-soak-")))
        database_url = ""
        if "postgres" in options.engines:
            database_url = stack.enter_context(EmbeddedPostgres.start(folder / "postgres")).url
            migrate(database_url)
        engines: dict[str, Engine] = {}
        for name in options.engines:
            if name == "model":
                continue  # it is what the others are compared with
            engine = await stack.enter_async_context(engine_named(name, database_url, folder / "tigerbeetle"))
            if engine is None:
                raise SystemExit(NO_TIGERBEETLE)
            engines[name] = engine
        batches = workload(options.seed, options.transfers, options.max_batch)
        return await compare(engines, batches, _progress(options.transfers))


def table(occurrences: Occurrences) -> str:
    """How often each status and each flag occurred."""
    lines = [f"{count:>10,}  {status.value}" for status, count in occurrences.statuses.most_common()]
    lines += ["", "created with"]
    lines += [f"{count:>10,}  {str(flag.name).lower()}" for flag, count in occurrences.flags.most_common()]
    return "\n".join(lines)


def _progress(total: int) -> Callable[[int], None]:
    """Rewrites one line, at most every second and at the end; says nothing where nobody watches."""
    started = told = time.monotonic()

    def tell(sent: int) -> None:
        nonlocal told
        now = time.monotonic()
        if sys.stderr.isatty() and (now - told > TELL_SECONDS or sent >= total):
            told = now
            end = "\n" if sent >= total else ""
            print(f"\r{sent:,} of {total:,} ({sent / (now - started):,.0f}/s)", end=end, file=sys.stderr, flush=True)

    return tell


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = [name for name in ENGINES if name != "tigerbeetle" or given_binary() or given_address()]
    parser = argparse.ArgumentParser(
        prog="python -m tests.ledger.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--transfers", type=int, default=DEFAULT_TRANSFERS)
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32), help="another one each time")
    parser.add_argument(
        "--max-batch", type=int, default=MAX_BATCH, choices=range(1, BATCH_MAX + 1), metavar="TRANSFERS"
    )
    parser.add_argument("--engines", type=lambda text: text.split(","), default=default, help=",".join(ENGINES))
    options = parser.parse_args(arguments)
    if unknown := set(options.engines) - set(ENGINES):
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
