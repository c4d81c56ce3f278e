"""What the process is doing at this moment, as the OpenStack credits service told it at ``/stats``."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from typing import Final, NotRequired, TypedDict

from tallystick.metering.service import IntakeQueue

MAX_LOCKS_SHOWN: Final = 1000
"""Customers that are named; ``number_of_locks`` counts all of them."""


class Snapshot(TypedDict):
    """``number_of_workers`` lanes record usage; ``queue_size`` measurements wait for them; ``number_of_locks``
    customers are being worked on. ``uptime`` is that of the service.

    If it is to be told at length: where each worker stands in the code, and who works on which customer.
    """

    number_of_workers: int
    queue_size: int
    number_of_locks: int
    uptime: str
    task_stacks: NotRequired[dict[str, str]]
    group_locks: NotRequired[dict[str, str]]


class Stats:
    """Looks at the lanes that record usage. They are this system's workers."""

    def __init__(self, intake: IntakeQueue) -> None:
        self._intake = intake
        self._began = time.monotonic()

    def snapshot(self, *, verbose: bool = False) -> Snapshot:
        """The state now, of this process."""
        workers = {f"worker-{number}": lane for number, lane in enumerate(self._intake.lanes, 1)}
        locks: dict[str, str] = {}
        for worker, lane in workers.items():
            customers = Counter(one.customer for batch in lane.under_way for one in batch.measurements)
            locks.update({customer: f"<{worker}: {count} measurements>" for customer, count in customers.items()})
        snapshot: Snapshot = {
            "number_of_workers": len(workers),
            "queue_size": self._intake.queued,
            "number_of_locks": len(locks),
            "uptime": format_uptime(timedelta(seconds=time.monotonic() - self._began)),
        }
        if verbose:
            snapshot["task_stacks"] = {worker: lane.stack() for worker, lane in workers.items()}
            snapshot["group_locks"] = dict(list(locks.items())[:MAX_LOCKS_SHOWN])
        return snapshot


def format_uptime(uptime: timedelta) -> str:
    """``H:MM:SS.ffffff`` with as many hours as it takes.

    (The original's text changed its shape after a day, and whenever the microseconds happened to be zero.)
    """
    seconds, microseconds = divmod(uptime // timedelta(microseconds=1), 1_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}.{microseconds:06}"
