"""A TigerBeetle server of the tests' own, of one replica.

``TIGERBEETLE_BIN`` names the program (github.com/tigerbeetle/tigerbeetle, releases); ``TIGERBEETLE_ADDRESS`` a server
that runs already, of cluster ``TIGERBEETLE_CLUSTER_ID`` (0).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLUSTER_ID = int(os.environ.get("TIGERBEETLE_CLUSTER_ID", "0"))
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.05

DEVELOPMENT = ("--development",)
"""Little memory, and small requests. ``()`` is TigerBeetle as it is run for real: some 4 GB."""


def given_binary() -> Path | None:
    """The program that ``TIGERBEETLE_BIN`` names."""
    given = os.environ.get("TIGERBEETLE_BIN")
    return Path(given) if given else None


def given_address() -> str | None:
    """The running server that ``TIGERBEETLE_ADDRESS`` names."""
    return os.environ.get("TIGERBEETLE_ADDRESS") or None


class Server:
    """A replica on a data file that stays: it may be stopped (or killed) and started again, on the same port."""

    def __init__(self, binary: Path, folder: Path, mode: Sequence[str] = DEVELOPMENT) -> None:
        self._binary = binary
        self._mode = mode
        self._data_file = folder / f"{CLUSTER_ID}_0.tigerbeetle"
        self._log_file = folder / "tigerbeetle.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self._run_to_end("format", f"--cluster={CLUSTER_ID}", "--replica=0", "--replica-count=1")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when the port accepts. Raises ``RuntimeError`` with the server's last words if it never does."""
        command: list[str | Path] = [self._binary, "start", f"--addresses={self.address}", *self._mode, self._data_file]
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                raise RuntimeError(f"TigerBeetle does not start: {self._log_file.read_text()[-2000:]}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends it by its id; TigerBeetle is made to be ended at any moment."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """Sends it a signal: SIGSTOP makes it silent until SIGCONT."""
        if self._process is not None:
            self._process.send_signal(number)

    def _run_to_end(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binary, command, *arguments, *self._mode, self._data_file], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"tigerbeetle {command} failed: {done.stderr.decode(errors='replace')[-2000:]}")


@contextmanager
def running(binary: Path, folder: Path, mode: Sequence[str] = DEVELOPMENT) -> Iterator[Server]:
    """A fresh cluster of one replica, running, whose data lies in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(binary, folder, mode)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_server(folder: Path, mode: Sequence[str] = DEVELOPMENT) -> Iterator[str]:
    """The address of a fresh cluster of the program that ``TIGERBEETLE_BIN`` names."""
    binary = given_binary()
    if binary is None:
        raise RuntimeError("TIGERBEETLE_BIN is not set")
    with running(binary, folder, mode) as server:
        yield server.address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
