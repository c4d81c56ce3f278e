"""The real service in processes of its own, started as an operator starts it, and ended as a power cut would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tallystick.database import launch
from tallystick.settings import Settings

STOP_TIMEOUT_SECONDS = 90
DEATH_TIMEOUT_SECONDS = 20


@dataclass
class Server:
    """``tally serve`` with its books in ``data_dir``, or on the database at ``database_url``."""

    data_dir: Path
    database_url: str | None = None
    url: str = ""
    port: int = 0  # 0 takes a free one
    settings: dict[str, str] = field(default_factory=dict, repr=False)
    """Further ones, as variables of its environment."""
    options: tuple[str, ...] = ("--dev",)
    """Of the command."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> Server:
        """Starts it, and returns when it answers."""
        self.launch()
        return self.wait()

    def launch(self) -> None:
        """Starts the process. Should the tests be killed, the kernel stops it."""
        serve = ["serve", "--port", str(self.port), "--data-dir", str(self.data_dir), "--json"]
        tally = [sys.executable, "-m", "tallystick.cli", *serve, *self.options]
        with (self.data_dir / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                launch.command(tally, uid=os.geteuid(), gid=os.getegid(), death_signal=signal.SIGTERM),
                env=_environment(self.database_url) | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> Server:
        """Returns when the service says that it is ready."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        log = (self.data_dir / "service.log").read_text(errors="replace")
        assert ready, f"the service did not start:\n{log[-3000:]}"
        self.url = json.loads(ready)["url"]
        return self

    def kill(self) -> None:
        """Ends every process at once, its PostgreSQL included: none of them gets to say goodbye.

        They are halted first, so that none can start another one, or notice that the others have gone.
        """
        assert self._process is not None
        halted: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            while found := [each for each in (parent, *parent.children(recursive=True)) if each.pid not in halted]:
                for each in found:
                    halted[each.pid] = each
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.suspend()
        for each in halted.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._close()
        _, alive = psutil.wait_procs(halted.values(), timeout=DEATH_TIMEOUT_SECONDS)
        assert not alive, "a killed process lives on"

    def stop(self) -> None:
        """Ends it in good order. Safe to call on one that does not run."""
        if self._process is not None:
            self._process.terminate()
            self._close()

    def _close(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait(STOP_TIMEOUT_SECONDS)
        self._process.stdout.close()
        self._process = None

    def get(self, path: str, **query: str) -> Any:
        return self._json("GET", path, params=query)

    def post(self, path: str, document: object, **headers: str) -> Any:
        return self._json("POST", path, json=document, headers=headers)

    def put(self, path: str, document: object) -> Any:
        return self._json("PUT", path, json=document)

    def _json(self, method: str, path: str, **request: Any) -> Any:
        response = httpx.request(method, self.url + path, timeout=60, **request)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json()


MakeServer = Callable[..., Server]


@contextlib.contextmanager
def making_servers() -> Iterator[MakeServer]:
    """Makes servers with data folders of their own, and stops them in the end, the last one first."""
    with contextlib.ExitStack() as resources:

        def make(database_url: str | None = None) -> Server:
            folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="tally-system-"))
            server = Server(Path(folder), database_url)
            resources.callback(server.stop)
            return server

        yield make


@pytest.fixture
def make_server() -> Iterator[MakeServer]:
    with making_servers() as make:
        yield make


@pytest.fixture
def server(make_server: MakeServer) -> Server:
    """A running service with its own embedded PostgreSQL."""
    return make_server().start()


def _environment(database_url: str | None) -> dict[str, str]:
    """Ours without any variable that a setting is read from, but for the database."""
    environment = dict(os.environ)
    for setting in Settings.model_fields.values():
        for name in getattr(setting.validation_alias, "choices", ()):
            environment.pop(name, None)
    return environment if database_url is None else environment | {"TALLY_DATABASE_URL": database_url}
