"""Where a command's words go: results to stdout, as text or as one JSON document; progress and messages to stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

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


def table(title: str, *columns: str) -> Table:
    """An empty table. A column whose name ends in ``>`` is aligned to the right, for numbers."""
    headers = [Column(name.rstrip(">"), justify="right" if name.endswith(">") else "left") for name in columns]
    return Table(*headers, title=title, title_justify="left", title_style="bold", header_style="bold cyan", box=None, pad_edge=False)


def add_row(to: Table, cells: Sequence[object]) -> None:
    """Adds a row of plain text: what customers named is never read as markup. ``None`` leaves a cell empty."""
    to.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))


def progress_bar(unit: str) -> Progress:
    """A progress bar on stderr, which vanishes when it is done, with the rate in ``unit`` per second (field ``rate`` of the task)."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(f"{{task.fields[rate]:,.0f}} {unit}/s"),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    )
