"""``tally post``: months of usage posted by hand, which the schedule does on the first day of each month."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.books import open_books
from tallystick.commands.options import DataDir, Json, Url, read_settings
from tallystick.kernel.calendar import month_before, parse_month
from tallystick.settings import Settings


def post(
    month: Annotated[
        str | None, typer.Argument(help="YYYY-MM, a month that is over.", show_default="the last one")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Post usage of a month that is over, with whatever is not posted of those before it.

    It concerns those who are posted monthly. What has come late since a month was posted is posted as a supplement;
    what is posted already stays as it is, so posting again changes nothing. Of a running service (`--url`), it is asked
    for, and a job of that service does it.
    """
    settings = read_settings(data_dir=data_dir)
    if url is None:
        posted = asyncio.run(_post(settings, month))
        sentence = f"Usage of {posted['customers']} customers' months up to {posted['month']} has been posted."
    else:
        posted = ask(settings, url, lambda api: api.post("postings", json={"month": month}))
        sentence = f"Job {posted['job']} posts the usage of {posted['waiting']} customers' months."
    if json:
        console.print_json(posted)
    else:
        console.say(sentence)


async def _post(settings: Settings, month: str | None) -> dict[str, Any]:
    async with open_books(settings) as service:
        zone = service.settings.zone
        last = month_before(service.clock.now(), zone) if month is None else parse_month(month, zone)
        async with service.pool.connection() as conn:
            waiting = await service.postings.waiting(conn, last)
        with console.progress_bar("customers") as progress:
            task = progress.add_task(f"Posting {last}", total=waiting)
            customers = await service.postings.post(last, lambda done: progress.update(task, completed=done))
    return {"month": str(last), "customers": customers}
