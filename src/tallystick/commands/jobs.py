"""``tally jobs``: work in the background, and what has failed for good."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.options import Cursor, DataDir, Json, Limit, Url, read_settings

app = typer.Typer(help="List jobs, and have dead ones tried again.", no_args_is_help=True)


@app.command("list")
def list_jobs(
    dead: Annotated[bool, typer.Option("--dead", help="Those that have failed for good: --state dead.")] = False,
    state: Annotated[
        Literal["waiting", "running", "done", "dead"] | None, typer.Option(help="Those in this state.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    wanted = "dead" if dead else state
    page = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.get("jobs", state=wanted, limit=limit, cursor=cursor),
    )
    console.show_page(page, "Jobs", ("id", "name", "state", "args", "attempts", "changed_at", "error"), as_json=json)


@app.command("retry")
def retry_job(
    job: Annotated[int, typer.Argument(min=1, help="The job's id, as the list shows it.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Have a dead job tried again, as often as a new one."""
    shown = ask(read_settings(data_dir=data_dir), url, lambda api: api.post("jobs", str(job), "retry", json=None))
    if json:
        console.print_json(shown)
    else:
        console.show_facts(shown)
