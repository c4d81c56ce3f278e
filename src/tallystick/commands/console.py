"""Where a command's words go: results to stdout, as text or as one JSON document; progress and messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

UNBROKEN = 1000
"""Columns of a stdout that is no terminal: whoever reads it there wants whole ids and one row a line."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else UNBROKEN)
messages = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """Prints one JSON document on one line."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def print_error(code: str, detail: str, field: str | None = None, *, as_json: bool) -> None:
    """Says why a command stops: one sentence on stderr, or with ``--json`` a document on stdout."""
    if as_json:
        print_json({"error": {"code": code, "detail": detail, **({"field": field} if field else {})}})
    else:
        messages.print(f"[bold red]Error:[/] {escape(plain(detail))}")


def say(text: str) -> None:
    """Prints a text as it is."""
    out.print(plain(text), markup=False, emoji=False)


def warn(text: str) -> None:
    """Prints a text as it is to stderr."""
    messages.print(plain(text), markup=False, emoji=False)


def plain(value: object) -> str:
    """The value as text that cannot command a terminal, whoever wrote it; ``None`` is empty, structures are JSON."""
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def table(title: str, *columns: str) -> Table:
    """An empty table. The first column is never broken; one whose name ends in ``>`` is aligned to the right."""
    headers = [
        Column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", no_wrap=place == 0)
        for place, name in enumerate(columns)
    ]
    style = {"title_justify": "left", "title_style": "bold", "header_style": "bold cyan"}
    return Table(*headers, title=title, box=None, pad_edge=False, **style)  # type: ignore[arg-type]


def add_row(to: Table, cells: Iterable[object]) -> None:
    """Adds a row of plain text: what customers named is never read as markup."""
    to.add_row(*(escape(plain(cell)) for cell in cells))


def show_page(page: dict[str, Any], title: str, fields: Sequence[str], *, as_json: bool) -> None:
    """Prints a page of a list: the document as it is, or these fields of its items."""
    if as_json:
        print_json(page)
        return
    listing = table(title, *fields)
    for item in page["items"]:
        add_row(listing, (item[name] for name in fields))
    out.print(listing)
    if page["next"] is not None:
        warn(f"There are more: --cursor {page['next']}")


def show_facts(facts: dict[str, Any]) -> None:
    """Prints names and values, one a line; those without a value are left out."""
    listing = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value not in (None, "", []):
            listing.add_row(f"[cyan]{escape(name)}[/]", escape(plain(value)))
    out.print(listing)


def progress_bar(unit: str = "") -> Progress:
    """A progress bar on a terminal's stderr, which vanishes when it is done; with the rate if the steps have a unit."""
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    rate = [_Rate(unit)] if unit else []
    return Progress(*columns, *rate, console=messages, transient=True, disable=not messages.is_terminal)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed else "", style="progress.data.speed")
