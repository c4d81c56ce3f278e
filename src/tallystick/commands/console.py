"""Where a command's words go: results to stdout, as text or as one JSON document; progress and messages to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
messages = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: object) -> None:
    """Prints one JSON document on one line."""
    out.print(json.dumps(document, ensure_ascii=False), markup=False, emoji=False)


def print_error(code: str, detail: str, field: str | None = None, *, as_json: bool) -> None:
    """Says why a command stops: one sentence on stderr, or with ``--json`` a document on stdout."""
    if as_json:
        print_json({"error": {"code": code, "detail": detail, **({"field": field} if field else {})}})
    else:
        messages.print(f"[bold red]Error:[/] {escape(detail)}")


def say(text: str) -> None:
    """Prints plain text."""
    out.print(text, markup=False, emoji=False)


def table(title: str, *columns: str) -> Table:
    """An empty table. A column whose name ends in ``>`` is aligned to the right, for numbers."""
    headers = [Column(name.rstrip(">"), justify="right" if name.endswith(">") else "left") for name in columns]
    return Table(*headers, title=title, title_justify="left", title_style="bold", header_style="bold cyan", box=None, pad_edge=False)


def add_row(to: Table, cells: Iterable[object]) -> None:
    """Adds a row of plain text: what customers named is never read as markup. ``None`` leaves a cell empty."""
    to.add_row(*(escape(_text(cell)) for cell in cells))


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
        messages.print(f"There are more: --cursor {page['next']}", markup=False)


def show_facts(facts: dict[str, Any]) -> None:
    """Prints names and values, one a line; those without a value are left out."""
    listing = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value not in (None, "", []):
            listing.add_row(f"[cyan]{escape(name)}[/]", escape(_text(value)))
    out.print(listing)


def _text(value: object) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def progress_bar(unit: str) -> Progress:
    """A progress bar on stderr, with the rate in ``unit`` per second; it vanishes when it is done."""
    return Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(unit), TimeRemainingColumn(), console=messages, transient=True)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed else "", style="progress.data.speed")
