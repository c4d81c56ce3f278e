"""The service under test: start and stop it, and sample the memory and processor time of its processes.

Everything is read from /proc, so the sampling works on Linux only; it runs in a thread, twice a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from bench.client import Address, BenchError

START_TIMEOUT_SECONDS: Final = 120.0
STOP_TIMEOUT_SECONDS: Final = 120.0  # a graceful stop writes PostgreSQL's checkpoint
SAMPLE_SECONDS: Final = 0.5
PING: Final = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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


# --- processes -------------------------------------------------------------------------------------------------------


def process_tree(roots: Iterable[int]) -> set[int]:
    """The roots that live, and all their descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    living: set[int] = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            children[int(_stat_fields(pid)[1])].append(pid)
            living.add(pid)
    tree: set[int] = set()
    queue = [pid for pid in roots if pid in living]
    while queue:
        pid = queue.pop()
        if pid not in tree:
            tree.add(pid)
            queue += children[pid]
    return tree


def _pids() -> Iterator[int]:
    return (int(name) for name in (entry.name for entry in Path("/proc").iterdir()) if name.isdecimal())


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; the second may contain spaces and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, user and system."""
    fields = _stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def process_label(pid: int) -> str:
    """`server`, or `postgres` followed by the kind of process, as PostgreSQL writes it into its title."""
    title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if not title.startswith("postgres:"):
        return "postgres main" if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres" else "server"
    kind = re.fullmatch(r"([a-z ]+?)(?: \d+)?", title.rpartition(": ")[2])  # after `postgres: ` and the cluster's name
    return f"postgres {kind[1]}" if kind else "postgres backend"  # a backend's title names database and client


def memory_bytes(pid: int) -> tuple[int, int]:
    """Proportional (PSS) and resident (RSS) set size: adding PSS counts a shared page once, adding RSS many times."""
    sizes = dict(re.findall(r"^(Pss|Rss): +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))
    return int(sizes["Pss"]) * 1024, int(sizes["Rss"]) * 1024


def postmaster_pids(data_dir: Path) -> set[int]:
    """The PostgreSQL servers whose data stands in the folder, read from their postmaster.pid."""
    return {
        int(path.read_text().split("\n", 1)[0])
        for depth in ("", "*/", "*/*/")  # not deeper, where files come and go
        for path in data_dir.glob(f"{depth}postmaster.pid")
    }


# --- sampling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all processes; memory by group (server, postgres), processor seconds so far by label."""

    at: float  # time.perf_counter()
    pss: Counter[str]
    rss: Counter[str]
    cpu: dict[str, float]
    generator_cpu: float
    idle: float  # seconds that processors had nothing to do


@dataclass(slots=True)
class Sampler:
    """Samples processes within a `with` block; `roots` is asked before each look, as the service may restart."""

    roots: Callable[[], Iterable[int]]
    samples: list[Sample] = field(default_factory=list)
    _cpu_by_pid: dict[int, float] = field(default_factory=dict)
    _cpu: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _closed: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(SAMPLE_SECONDS):
            self.samples.append(self._look())

    def _look(self) -> Sample:
        pss, rss = Counter[str](), Counter[str]()
        for pid in process_tree(self.roots()):
            with contextlib.suppress(OSError, KeyError):  # it ended meanwhile
                label, seconds = process_label(pid), cpu_seconds(pid)
                self._cpu[label] += seconds - self._cpu_by_pid.get(pid, 0.0)
                self._cpu_by_pid[pid] = seconds
                proportional, resident = memory_bytes(pid)
                group = label.partition(" ")[0]
                pss[group] += proportional
                rss[group] += resident
        own = os.times()
        return Sample(time.perf_counter(), pss, rss, dict(self._cpu), own.user + own.system, idle_seconds())

    def peak(self) -> Sample | None:
        """The sample with the most memory."""
        return max(self.samples, key=lambda sample: sample.pss.total(), default=None)

    def cpu_between(self, began: float, ended: float) -> dict[str, float]:
        """Processors in use by each label, by the generator and by others on this machine, and idle, on average.

        The values add up to the number of processors. Others are the kernel's own work, strangers whose load spoils the
        figures, and, on a virtual machine, time that the host took.
        """
        inside = [sample for sample in self.samples if began <= sample.at <= ended]
        if len(inside) < 2:
            return {}
        first, last = inside[0], inside[-1]
        elapsed = last.at - first.at
        shares = {label: (seconds - first.cpu.get(label, 0.0)) / elapsed for label, seconds in last.cpu.items()}
        shares["generator"] = (last.generator_cpu - first.generator_cpu) / elapsed
        idle = (last.idle - first.idle) / elapsed
        others = max(0.0, processors() - sum(shares.values()) - idle)
        return {**shares, "others": others, "idle": idle}


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def idle_seconds() -> float:
    """Seconds so far that these processors did nothing, or waited for the disk."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    return sum(int(line[4]) + int(line[5]) for line in lines if line[0] in ours) / _TICKS_PER_SECOND


def by_group(shares: dict[str, float]) -> dict[str, float]:
    """Shares of server, postgres, generator, others and idle."""
    groups: defaultdict[str, float] = defaultdict(float)
    for label, share in shares.items():
        groups[label.partition(" ")[0]] += share
    return dict(groups)
