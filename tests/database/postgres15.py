"""Runs a command on the oldest PostgreSQL that Tallystick promises to work on, Debian's 15.

    python tests/database/postgres15.py -- pytest tests/database

The command finds the folder of its programs in TALLY_TEST_POSTGRES, from which the tests start their servers. Missing
programs are installed with apt-get, for which one must be root on Debian 12 or a system like it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

BINARIES = Path("/usr/lib/postgresql/15/bin")
INSTALL = (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", "postgresql-15"])


def main(command: list[str]) -> NoReturn:
    if not (BINARIES / "postgres").exists():
        for step in INSTALL:
            subprocess.run(step, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=True)
    os.execvpe(command[0], command, {**os.environ, "TALLY_TEST_POSTGRES": str(BINARIES)})


if __name__ == "__main__":
    if sys.argv[1:2] != ["--"] or not sys.argv[2:]:
        sys.exit(__doc__)
    main(sys.argv[2:])
