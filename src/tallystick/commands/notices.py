"""``tally notice``: the rules by which people hear of balances, how letters look, and what was raised."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from tallystick.commands import console
from tallystick.commands.api import ask
from tallystick.commands.options import Cursor, DataDir, InvalidUsage, Json, Limit, Url, read_settings
from tallystick.notices.model import Kind, State

app = typer.Typer(help="List notices, send them again, and look at one before it is sent.", no_args_is_help=True)
rules = typer.Typer(help="List, add and remove rules.", no_args_is_help=True)
app.add_typer(rules, name="rule")

RuleId = Annotated[UUID, typer.Argument(help="The rule's id, as the list shows it.")]

_SUBJECT = "Subject:"


@rules.command("list")
def list_rules(
    customer: Annotated[str | None, typer.Option(help="Those about this customer alone.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List rules in the order of definition."""
    page = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.get("notices", "rules", customer=customer, limit=limit, cursor=cursor),
    )
    names = ("id", "kind", "threshold", "customer", "asset", "recipients", "copies", "subject")
    console.show_page(page, "Rules", names, as_json=json)


@rules.command("add", context_settings={"ignore_unknown_options": True})  # a debt is a number with a minus
def add_rule(
    kind: Annotated[Kind, typer.Argument(help="What it looks at.")],
    threshold: Annotated[str, typer.Argument(help="A share from 0 to 1, an amount, days, or a factor above 1.")],
    customer: Annotated[str | None, typer.Option(help="Whom it is about.", show_default="all")] = None,
    asset: Annotated[str | None, typer.Option(help="In which asset.", show_default="each")] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(help="An address, maintainers or governance; may be repeated.", show_default="maintainers"),
    ] = None,
    copy: Annotated[list[str] | None, typer.Option(help="As --to, for copies.", show_default="governance")] = None,
    template: Annotated[
        Path | None,
        typer.Option(help="A text with $placeholders; its first line is Subject: ...", exists=True, dir_okay=False),
    ] = None,
    placeholder: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, for a template; may be repeated.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Define a rule."""
    wanted: dict[str, Any] = {"kind": kind, "threshold": threshold, "customer": customer, "asset": asset}
    wanted |= {"recipients": to} if to else {}
    wanted |= {"copies": copy} if copy else {}
    wanted |= _template(template) if template else {}
    wanted |= {"placeholders": dict(_pair(each) for each in placeholder)} if placeholder else {}
    rule = ask(read_settings(data_dir=data_dir), url, lambda api: api.post("notices", "rules", json=wanted))
    _show(rule, as_json=json)


@rules.command("remove")
def remove_rule(rule: RuleId, url: Url = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Forget a rule. What it raised stays."""
    ask(read_settings(data_dir=data_dir), url, lambda api: api.delete("notices", "rules", str(rule)))
    if json:
        console.print_json({"removed": str(rule)})
    else:
        console.say(f"The rule {rule} is removed.")


@app.command("list")
def list_notices(
    state: Annotated[State | None, typer.Option(help="Those in this state.")] = None,
    customer: Annotated[str | None, typer.Option(help="Those about this customer.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List what was raised, newest first."""
    page = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.get("notices", state=state, customer=customer, limit=limit, cursor=cursor),
    )
    names = ("id", "customer", "kind", "threshold", "asset", "balance", "raised_at", "state", "attempts", "error")
    console.show_page(page, "Notices", names, as_json=json)


@app.command("retry")
def retry_notice(
    notice: Annotated[UUID, typer.Argument(help="The notice, as the list shows it.")],
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Have a notice sent that does not wait to be."""
    shown = ask(read_settings(data_dir=data_dir), url, lambda api: api.post("notices", str(notice), "retry", json=None))
    _show(shown, as_json=json)


@app.command("preview")
def preview(
    rule: RuleId,
    customer: Annotated[str, typer.Argument(help="The customer's key.")],
    asset: Annotated[str | None, typer.Option(help="Of which wallet.", show_default="the rule's, or credits")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the HTML to this file.", dir_okay=False, writable=True)
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show the letter that a rule would send about a customer now. Nothing is sent."""
    letter = ask(
        read_settings(data_dir=data_dir),
        url,
        lambda api: api.get("notices", "rules", str(rule), "preview", customer=customer, asset=asset),
    )
    if html is not None:
        if letter["html"] is None:
            raise InvalidUsage("a template of one's own has no HTML", field="html")
        html.write_text(letter["html"], encoding="utf-8")
    if json:
        console.print_json(letter)
        return
    console.say(f"To: {', '.join(letter['to']) or 'nobody: no address is known'}")
    if letter["copies"]:
        console.say(f"Cc: {', '.join(letter['copies'])}")
    console.say(f"{_SUBJECT} {letter['subject']}\n\n{letter['text']}")


def _template(file: Path) -> dict[str, str]:
    try:
        head, _, body = file.read_text(encoding="utf-8").partition("\n")
    except UnicodeDecodeError:
        raise InvalidUsage("template must be UTF-8", field="template") from None
    if not head.startswith(_SUBJECT):
        raise InvalidUsage(f"template must begin with a line {_SUBJECT!r}", field="template")
    return {"subject": head.removeprefix(_SUBJECT).strip(), "body": body.lstrip("\n")}


def _pair(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not is_there:
        raise InvalidUsage(f"placeholder must be NAME=VALUE, which {text!r} is not", field="placeholder")
    return name, value


def _show(shown: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.print_json(shown)
    else:
        console.show_facts(shown)
