"""A real Prometheus and a real InfluxDB 1.x, Debian's, as private processes on loopback with folders of their own.

Without their programs they are installed with apt-get, for which one must be root on Debian 12 or a system like it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tallystick.database import launch

PATIENCE_SECONDS = 90

PROMETHEUS = """\
global:
  scrape_interval: 1s
scrape_configs:
- job_name: project_usages
  static_configs:
  - targets: ["{exporter}"]
    labels: {{location: site-a, location_id: "8676"}}
remote_write:
{remotes}
"""

REMOTE = """\
- url: {url}
  queue_config: {{batch_send_deadline: 200ms, min_backoff: 50ms, max_backoff: 500ms}}
"""

INFLUXDB = """\
reporting-disabled = true
bind-address = "127.0.0.1:{backup_port}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
"""

Found = TypeVar("Found")


def program(name: str, package: str, folder: str = "/usr/bin") -> str:
    """The path of a program of Debian's, installed if it is not there. Fails if it cannot be had."""
    path = Path(folder) / name
    if not path.exists():
        for step in (["update", "-q"], ["install", "-qy", "--no-install-recommends", package]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", *step], env=environment, check=True, stdout=subprocess.DEVNULL)
    assert path.exists(), f"{package} brought no {path}"
    return str(path)


def eventually(look: Callable[[], Found | None], what: str) -> Found:
    """What ``look`` finds once it finds something; fails after a while that is long enough for anything."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if found := look():
                return found
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_SECONDS} s"
        time.sleep(0.05)  # between two looks


@dataclass
class InfluxDB:
    """One database in it, ``prometheus``."""

    url: str

    def query(self, text: str) -> Any:
        method = "GET" if text.startswith(("SELECT", "SHOW")) else "POST"
        answer = httpx.request(method, f"{self.url}/query", params={"q": text, "db": "prometheus"}, timeout=30)
        assert answer.is_success, answer.text
        (result,) = answer.json()["results"]
        assert "error" not in result, result
        return result.get("series", [])

    @property
    def remote_write_url(self) -> str:
        return f"{self.url}/api/v1/prom/write?db=prometheus"


@contextlib.contextmanager
def running_prometheus(folder: Path, exporter: str, *remotes: str) -> Iterator[str]:
    """The URL of a Prometheus that scrapes ``exporter`` every second and writes to ``remotes``."""
    config = folder / "prometheus.yml"
    config.write_text(PROMETHEUS.format(exporter=exporter, remotes="".join(REMOTE.format(url=url) for url in remotes)))
    address = f"127.0.0.1:{_free_port()}"
    command = [
        program("prometheus", "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    with _running(command, folder / "prometheus.log"):
        url = f"http://{address}"
        eventually(lambda: httpx.get(f"{url}/-/ready").is_success, "answer from Prometheus")
        yield url


@contextlib.contextmanager
def running_influxdb(folder: Path, subscriber: str) -> Iterator[InfluxDB]:
    """An InfluxDB whose subscription mirrors everything to ``subscriber``."""
    port = _free_port()
    config = folder / "influxdb.conf"
    config.write_text(INFLUXDB.format(folder=folder, port=port, backup_port=_free_port()))
    with _running([program("influxd", "influxdb"), "-config", str(config)], folder / "influxdb.log"):
        influxdb = InfluxDB(f"http://127.0.0.1:{port}")
        eventually(lambda: httpx.get(f"{influxdb.url}/ping").is_success, "answer from InfluxDB")
        influxdb.query("CREATE DATABASE prometheus")
        influxdb.query(f"CREATE SUBSCRIPTION tally ON prometheus.autogen DESTINATIONS ALL '{subscriber}'")
        yield influxdb


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    """A process that ends with the block, and with the tests if they are killed."""
    guarded = launch.command(command, uid=os.geteuid(), gid=os.getegid(), death_signal=signal.SIGKILL)
    with log.open("wb") as output:
        process = subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    finally:
        died = process.poll()
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert died is None, f"{command[0]} ended by itself:\n{log.read_text(errors='replace')[-3000:]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
