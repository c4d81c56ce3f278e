"""Keeps what the tests write in memory, if there is plenty of it: making and dropping a database is mostly files.

Nothing is proven less. A process that is killed loses nothing that it has written, be it to a disk or to memory, and
only a power cut, which no test can make, would tell them apart. Whoever sets ``TMPDIR`` decides otherwise.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
LEAST_BYTES = 4 << 30
"""Containers often have 64 MiB; all tests at once need less than this."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """For this process, which may have asked for the folder already, and for all that it starts."""
    if "TMPDIR" not in os.environ and _is_roomy(MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def _is_roomy(folder: Path) -> bool:
    """Whether programs can run there too: some tests copy PostgreSQL's."""
    if not folder.is_dir() or os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(folder).free >= LEAST_BYTES
