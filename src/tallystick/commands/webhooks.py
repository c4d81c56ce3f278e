"""``tally webhook``: who is told what over HTTP, and what became of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from tallystick.commands import console
from tallystick.commands.api import Api, ask
from tallystick.commands.options import Cursor, DataDir, InvalidUsage, Json, Limit, Url, read_settings
from tallystick.settings import Settings

app = typer.Typer(help="Have events sent to URLs, and see what became of them.", no_args_is_help=True)

Webhook = Annotated[UUID, typer.Argument(help="The webhook, as the list shows it.")]


@app.command("list")
def list_webhooks(
    limit: Limit = 100, cursor: Cursor = None, url: Url = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """List webhooks in the order in which they were made."""
    page = ask(read_settings(data_dir=data_dir), url, lambda api: api.get("webhooks", limit=limit, cursor=cursor))
    fields = ("id", "customer", "url", "types", "state", "disabled_because", "failing_since")
    console.show_page(page, "Webhooks", fields, as_json=json)


@app.command("create")
def create_webhook(
    to: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent.")],
    types: Annotated[
        list[str] | None, typer.Option("--type", help="What it hears of, as account.*; repeat it.", show_default="*")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Whose events alone; by key.", show_default="all")] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Have events sent to a URL. The secret that signs them is shown this once."""
    wanted: dict[str, Any] = {"url": to, "types": types or ["*"], "customer": customer, "description": description}
    _show(ask(read_settings(data_dir=data_dir), url, lambda api: api.post("webhooks", json=wanted)), as_json=json)


@app.command("delete")
def delete_webhook(webhook: Webhook, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Delete a webhook; what waits for it is not sent."""
    ask(read_settings(data_dir=data_dir), url, lambda api: api.delete("webhooks", str(webhook)))
    _show({"id": str(webhook), "state": "deleted"}, as_json=json)


@app.command("disable")
def disable_webhook(webhook: Webhook, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Send a webhook nothing for the time being, and write nothing new down for it."""
    _set_state(webhook, "disabled", url, read_settings(data_dir=data_dir), as_json=json)


@app.command("enable")
def enable_webhook(webhook: Webhook, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Send a webhook what has waited for it, and what happens from now on."""
    _set_state(webhook, "enabled", url, read_settings(data_dir=data_dir), as_json=json)


@app.command("rotate")
def rotate_secret(
    webhook: Webhook,
    overlap_hours: Annotated[int, typer.Option(min=0, max=168, help="How long the old secret signs as well.")] = 24,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Give a webhook another secret, which is shown this once."""
    asked = {"overlap_hours": overlap_hours}
    settings = read_settings(data_dir=data_dir)
    _show(ask(settings, url, lambda api: api.post("webhooks", str(webhook), "rotate", json=asked)), as_json=json)


@app.command("test")
def send_test(webhook: Webhook, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Send a webhook an event that says nothing."""
    settings = read_settings(data_dir=data_dir)
    _show(ask(settings, url, lambda api: api.post("webhooks", str(webhook), "test", json=None)), as_json=json)


@app.command("deliveries")
def list_deliveries(
    webhook: Webhook,
    state: Annotated[
        Literal["waiting", "delivered", "failed"] | None, typer.Option(help="Only those in this state.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List what a webhook was told, newest first, with how the last attempt went."""
    page = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.get("webhooks", str(webhook), "deliveries", state=state, limit=limit, cursor=cursor),
    )
    fields = ("event_id", "type", "state", "attempts", "told_at", "due_at", "status", "duration_ms", "error")
    console.show_page(page, "Deliveries", fields, as_json=json)


@app.command("replay")
def replay_deliveries(
    webhook: Webhook,
    event: Annotated[UUID | None, typer.Option(help="This event alone.")] = None,
    since: Annotated[str | None, typer.Option(metavar="INSTANT", help="All that was told since then.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Of these, only what was given up.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Send a webhook once more what it was told, under the ids that it had."""
    if (event is None) == (since is None):
        raise InvalidUsage("either --event or --since must be given", field="event")
    asked = {"event": event and str(event), "since": since, "state": "failed" if failed and since else None}
    count = ask(read_settings(data_dir=data_dir), url, lambda api: _replay(api, webhook, asked))
    _show({"id": str(webhook), "replayed": count}, as_json=json)


async def _replay(api: Api, webhook: UUID, asked: dict[str, Any]) -> int:
    """Portion by portion."""
    count, cursor = 0, None
    while True:
        done = await api.post("webhooks", str(webhook), "replay", json={**asked, "cursor": cursor})
        count += int(done["replayed"])
        if (cursor := done["next"]) is None:
            return count


def _set_state(webhook: UUID, state: str, url: str | None, settings: Settings, *, as_json: bool) -> None:
    change = {"state": state}
    _show(ask(settings, url, lambda api: api.patch("webhooks", str(webhook), json=change)), as_json=as_json)


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.print_json(facts)
    else:
        console.show_facts(facts)
