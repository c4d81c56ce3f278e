"""What a kind of job is, and one attempt at a job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SLOT = "slot"
"""The argument in which a job of the schedule finds its slot."""

TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at a job."""

    job_id: int
    attempt: int
    """1 for the first."""
    args: Mapping[str, Any]
    """JSON, as it was deferred."""

    @property
    def slot(self) -> datetime:
        """The instant for which the schedule has deferred this job, however late it runs. Only for such jobs."""
        return datetime.fromisoformat(self.args[SLOT])


Work = Callable[[Run], Awaitable[None]]
"""Does a job. Whoever raises will be called again, as will whoever is killed: so doing it again must change nothing."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: its name, and what does it. What that needs, it has been given by whoever made it."""

    name: str
    work: Work
    timeout_seconds: int = TIMEOUT_SECONDS
    """An attempt that takes longer has failed."""
