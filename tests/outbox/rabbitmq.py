"""A real RabbitMQ, Debian's, as private processes on loopback with folders and a name of their own.

Without its programs they are installed with apt-get, for which one must be root on Debian 12 or a system like it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tallystick.database import launch
from tests.system.monitoring import PATIENCE_SECONDS, eventually, program

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


@dataclass
class RabbitMQ:
    """One node. What is durable survives ``kill`` and ``start``."""

    folder: Path
    port: int
    epmd_port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"  # pragma: allowlist secret

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        command = [program("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin")]
        self._process = _launched(command, self.folder, "rabbitmq.out", self._environment())
        eventually(self._answers, "answer from RabbitMQ")

    def kill(self) -> None:
        """Ends all of it at once: none of its processes gets to say goodbye."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        family = [parent, *parent.children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait(PATIENCE_SECONDS)
        self._process = None
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)
        assert not alive, "a killed process lives on"

    def stop(self) -> None:
        """Nothing in it is worth a farewell. Safe to call on one that does not run."""
        if self._process is not None:
            self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "rabbitmq.out").read_text(errors="replace")[-3000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=10) as probe:
            probe.sendall(PROTOCOL_HEADER)
            return bool(probe.recv(8))
        return False

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return ours | {
            "HOME": str(self.folder),  # of the nodes' shared secret
            "NOTIFY_SOCKET": str(self.folder / "notify"),  # has the script become the node, so it dies with us as well
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": f"tally{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_BASE": str(self.folder),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
        }


@contextlib.contextmanager
def running_rabbitmq() -> Iterator[RabbitMQ]:
    """A node with a folder of its own, and whom it asks for names; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="tally-rabbitmq-") as folder:
        node = RabbitMQ(Path(folder), free_port(), free_port())
        program("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin")
        epmd = [program("epmd", "erlang-base"), "-port", str(node.epmd_port), "-address", "127.0.0.1"]
        names = _launched(epmd, Path(folder), "epmd.out", dict(os.environ))
        try:
            eventually(lambda: _listens(node.epmd_port), "answer from epmd")  # or the node starts one, and leaves it
            node.start()
            yield node
        finally:
            node.stop()
            names.kill()
            names.wait(PATIENCE_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10):
        return True
    return False


def _launched(command: list[str], folder: Path, log: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that works in its folder, and ends with the tests, should they be killed."""
    guarded = launch.command(command, uid=os.geteuid(), gid=os.getegid(), death_signal=signal.SIGKILL)
    with (folder / log).open("ab") as output:
        return subprocess.Popen(
            guarded,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
