"""Runs a command on the oldest PostgreSQL that Tallystick promises to work on, Debian's 15.

    python tests/database/postgres15.py -- pytest tests/database

The command finds the URL of a throw-away server in TALLY_TEST_DATABASE_URL; its exit status is ours. Without the
server's programs they are installed with apt-get, for which one must be root on Debian 12 or a system like it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tallystick.database.embedded import EmbeddedPostgres

BINARIES = Path("/usr/lib/postgresql/15/bin")
INSTALL = (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", "postgresql-15"])


def main(command: list[str]) -> int:
    if not (BINARIES / "postgres").exists():
        for step in INSTALL:
            subprocess.run(step, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=True)
    with (
        tempfile.TemporaryDirectory(prefix="tally-postgres15-") as folder,
        EmbeddedPostgres.start(Path(folder), binaries=BINARIES) as server,
    ):
        return subprocess.run(
            command, env={**os.environ, "TALLY_TEST_DATABASE_URL": server.url}, check=False
        ).returncode


if __name__ == "__main__":
    if sys.argv[1:2] != ["--"] or not sys.argv[2:]:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[2:]))
