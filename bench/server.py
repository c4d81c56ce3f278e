"""The service under test: start it, find its processes, stop it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.client import Address, BenchError

START_TIMEOUT_SECONDS: Final = 120.0
STOP_TIMEOUT_SECONDS: Final = 120.0  # a graceful stop writes PostgreSQL's checkpoint
PING: Final = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Service:
    """`tally serve --dev` on a free loopback port, with its own data folder and log file."""

    command: tuple[str, ...]
    data_dir: Path
    log_path: Path
    address: Address = field(default_factory=lambda: Address("127.0.0.1", _free_port()))
    _process: subprocess.Popen[bytes] | None = None
    _roots: frozenset[int] = frozenset()

    @property
    def pid(self) -> int:
        """The server process. Raises `BenchError` while it is not running."""
        if self._process is None:
            raise BenchError("the service is not running")
        return self._process.pid

    def roots(self) -> frozenset[int]:
        """The server process and PostgreSQL's first one, which may have left the server's process tree."""
        return self._roots

    def start(self) -> float:
        """Start the service and return the seconds until it answered its first GET /ping."""
        arguments = ["serve", "--dev", "--port", str(self.address.port), "--data-dir", str(self.data_dir)]
        began = time.perf_counter()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the benchmark only, which then stops the service
            )
        while not _answers_ping(self.address):
            if self._process.poll() is not None:
                raise BenchError(f"the service ended with status {self._process.returncode}:\n{self._log_tail()}")
            if time.perf_counter() - began > START_TIMEOUT_SECONDS:
                raise BenchError(f"no answer within {START_TIMEOUT_SECONDS:.0f} s:\n{self._log_tail()}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        self._roots = frozenset({self._process.pid, *postmaster_pids(self.data_dir)})
        return seconds

    def stop(self) -> None:
        """Stop the service as Ctrl-C would; kill its process group if it does not end in time."""
        if self._process is None:
            return
        process, self._process, self._roots = self._process, None, frozenset()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise BenchError(f"the service did not stop within {STOP_TIMEOUT_SECONDS:.0f} s") from None

    def _log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-20:])


def default_command() -> Path:
    """`tally` of the environment that runs the benchmark."""
    return Path(sys.executable).with_name("tally")


@contextlib.contextmanager
def own_service(tally: Path, data_dir: Path | None) -> Iterator[Service]:
    """Start a service, in a temporary folder if none is given; stop it and remove what was temporary at the end."""
    _end_like_ctrl_c()
    folder = Path(tempfile.mkdtemp(prefix="tallystick-bench-"))
    folder.chmod(0o711)  # PostgreSQL of a service that runs as root is another user, and must reach its data below
    service = Service((str(tally),), data_dir or folder / "data", folder / "serve.log")
    try:
        service.start()
        yield service
    finally:
        try:
            service.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _end_like_ctrl_c() -> None:
    """Let SIGTERM do what Ctrl-C does, which asyncio.Runner turns into a cancelled task: the service is stopped too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers_ping(address: Address) -> bool:
    try:
        with socket.create_connection(address, timeout=1.0) as connection:
            connection.sendall(PING)
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def postmaster_pids(data_dir: Path) -> set[int]:
    """The PostgreSQL servers whose data stands in the folder, read from their postmaster.pid."""
    return {
        int(path.read_text().split("\n", 1)[0])
        for depth in ("", "*/", "*/*/")  # not deeper, where files come and go
        for path in data_dir.glob(f"{depth}postmaster.pid")
    }
