"""Starts a program of PostgreSQL without root's rights, and so that it cannot outlive the service.

Run by its path in a bare interpreter (about 10 ms), between our process and the program that takes its place. A
``preexec_fn`` would do the same in the forked child of a process with many threads, where a lock that another thread
held at that moment hangs it for ever. Imports nothing of ours, so that it needs no search path.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(program: list[str], *, uid: int, gid: int, death_signal: int) -> list[str]:
    """The command line that runs ``program`` (an absolute path and its arguments) as ``uid`` and ``gid``.

    On Linux ``death_signal`` is sent to the program when the *thread* that started it ends, however it ends.
    """
    bare_interpreter = [sys.executable, "-I", "-S", __file__]
    return [*bare_interpreter, str(os.getpid()), str(int(death_signal)), str(uid), str(gid), *program]


def main(parent: int, death_signal: int, uid: int, gid: int, *, program: list[str]) -> None:
    os.umask(0o077)
    if uid != os.geteuid():
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # After setuid, which would clear it; execv keeps it.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the service ended before its database server was started")
    os.execv(program[0], program)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    try:
        main(*(int(word) for word in sys.argv[1:5]), program=sys.argv[5:])
    except OSError as error:
        sys.exit(f"{sys.argv[5]} cannot be started: {error}")
