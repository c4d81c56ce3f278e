"""``tally`` that posts few customers at a time, with nothing on the schedule: ``python -m tests.system.small_steps``.

A month is then posted in many transactions, between any two of which it can be killed; and who crosses a full hour
takes no reading that nobody asked for.
"""

from __future__ import annotations

from tallystick.billing import posting
from tallystick.jobs import schedule

posting.CUSTOMERS_AT_ONCE = 40
schedule.SCHEDULE = ()  # type: ignore[assignment]

if __name__ == "__main__":
    from tallystick import cli

    cli.main()
