"""Running ``tally``: commands in this process, the service in one of its own."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import structlog

from tallystick import cli

STOP_SECONDS = 60


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Tally = Callable[..., Ran]


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Tally]:
    """Runs a command line in this process, with none of the settings of whoever runs the tests."""
    _forget_settings(monkeypatch)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def books(tally: Tally, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Tally:
    """``tally`` on a database of this test's own."""
    monkeypatch.setenv("TALLY_DATABASE_URL", database_url)
    return tally


class Server:
    """``tally serve`` in a process of its own."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tallystick.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
        self.data_dir = data_dir
        with (data_dir.parent / f"{data_dir.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--json", *options], stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.url: str = ready["url"]
        self.address = (self.url.split("/")[2].split(":")[0], int(self.url.rsplit(":", 1)[1]))

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path) as answer:
            body: bytes = answer.read()
            return body

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tree(self) -> list[psutil.Process]:
        """The service's process and all below it."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.close()

    def close(self) -> int:
        assert self.process.stdout is not None
        code = self.process.wait(STOP_SECONDS)
        self.process.stdout.close()
        return code


def left(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that do not end. One that has ended, and waits to be noticed by its parent, has ended."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        _, there = psutil.wait_procs(processes, timeout=0.05)
        processes = [process for process in there if not _is_zombie(process)]
        if not processes:
            break
    return processes


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Starts services, and kills those that are left."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _forget_settings(monkeypatch)
        started: list[Server] = []

        def start(data_dir: Path, *options: str) -> Server:
            server = Server(data_dir, *(options or ("--dev",)))
            started.append(server)
            return server

        yield start
        for server in started:
            if server.process.poll() is None:
                server.process.kill()
                server.close()


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A service for all tests of a module."""
    return serve(tmp_path_factory.mktemp("served") / "books")


def _forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if re.match("TALLY_(?!TEST_)", name)]:
        monkeypatch.delenv(name)
    keys = ("API_KEYS", "ADMIN_API_KEYS", "AUTH_TOKEN", "TWO_FA")
    for name in (*keys, "PORT", "OIDC_ISSUER", "CF_CLIENT_ID", "CF_CLIENT_SECRET", "CF_API_URL"):
        monkeypatch.delenv(name, raising=False)
