"""Memory and processor time of the service's processes, sampled twice a second in a thread.

Everything is read from /proc, so this works on Linux only.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

SAMPLE_SECONDS: Final = 0.5
GROUPS: Final = ("server", "postgres", "generator", "others", "idle")
MEMORY_STEP: Final = 1.005  # the growth that is worth an exact look

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

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
    """Proportional (PSS) and resident (RSS) set size: adding PSS counts a shared page once, adding RSS many times.

    The kernel walks all pages for it, which takes milliseconds per process.
    """
    sizes = dict(re.findall(r"^(Pss|Rss): +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE))
    return int(sizes["Pss"]) * 1024, int(sizes["Rss"]) * 1024


def estimated_memory_bytes(pids: Iterable[int]) -> int:
    """What the processes take if all shared pages are those of the one with the most; costs next to nothing."""
    private, most_shared = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            _, resident, shared, *_ = (int(pages) for pages in Path(f"/proc/{pid}/statm").read_text().split())
            private += resident - shared
            most_shared = max(most_shared, shared)
    return (private + most_shared) * _PAGE_BYTES


# --- sampling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of all processes by group (server, postgres)."""

    pss: Counter[str]
    rss: Counter[str]

    @classmethod
    def of(cls, pids: Iterable[int]) -> Memory:
        memory = cls(Counter(), Counter())
        for pid in pids:
            with contextlib.suppress(OSError, KeyError):  # it ended meanwhile
                group = group_of(process_label(pid))
                proportional, resident = memory_bytes(pid)
                memory.pss[group] += proportional
                memory.rss[group] += resident
        return memory


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the processor seconds so far, of the service's processes by label."""

    at: float  # time.perf_counter()
    cpu: dict[str, float]
    generator_cpu: float
    idle: float  # seconds that processors had nothing to do


@dataclass(slots=True)
class Sampler:
    """Samples processes within a `with` block; `roots` is asked before each look, as the service may restart.

    Measuring memory exactly would cost the machine some percent, so that is done only when a cheap estimate has grown.
    """

    roots: Callable[[], Iterable[int]]
    samples: list[Sample] = field(default_factory=list)
    peak: Memory | None = None  # the most memory at any moment
    _highest_estimate: float = 0.0
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
            pids = process_tree(self.roots())
            self.samples.append(self._look_at_processors(pids))
            self._look_at_memory(pids)

    def _look_at_processors(self, pids: Iterable[int]) -> Sample:
        for pid in pids:
            with contextlib.suppress(OSError):  # it ended meanwhile
                label, seconds = process_label(pid), cpu_seconds(pid)
                self._cpu[label] += seconds - self._cpu_by_pid.get(pid, 0.0)
                self._cpu_by_pid[pid] = seconds
        own = os.times()
        return Sample(time.perf_counter(), dict(self._cpu), own.user + own.system, idle_seconds())

    def _look_at_memory(self, pids: Iterable[int]) -> None:
        estimate = estimated_memory_bytes(pids)
        if estimate <= self._highest_estimate * MEMORY_STEP:
            return
        self._highest_estimate = estimate
        memory = Memory.of(pids)
        if self.peak is None or memory.pss.total() > self.peak.pss.total():
            self.peak = memory

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


def group_of(label: str) -> str:
    """The first word of a label."""
    return label.partition(" ")[0]


def by_group(shares: dict[str, float]) -> dict[str, float]:
    """The shares of each group, in the order of `GROUPS`."""
    groups = dict.fromkeys(GROUPS, 0.0)
    for label, share in shares.items():
        groups[group_of(label)] += share
    return groups
