"""Options that several commands share, the settings they lead to, and the ways in which a command ends."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from tallystick.kernel.errors import TallyError
from tallystick.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text, for errors too.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the embedded database.", file_okay=False, show_default="TALLY_DATA_DIR")
]
Url = Annotated[
    str | None,
    typer.Option(help="Ask this running service, for example http://127.0.0.1:8001, instead of the database."),
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Longest list.")]
Cursor = Annotated[str | None, typer.Option(help="Go on where a list ended: its `next`.")]


class ExitCode(IntEnum):
    """How a command ends. Scripts rely on it; ``tally --help`` says what each means."""

    DONE = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3
    DEFECT = 4


class InvalidUsage(TallyError):
    """An option, an argument or a setting breaks its rule."""

    code = "usage"
    status = 422


def read_settings(**overrides: object) -> Settings:
    """Settings from the environment, overridden by those options that were given (are not ``None``).

    Raises ``InvalidUsage`` naming the variable and the rule, never its value: it may be a secret.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        faults = [f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_input=False)]
        raise InvalidUsage(f"the environment has an unreadable setting. {'; '.join(faults)}") from None
    return settings.model_copy(update={name: value for name, value in overrides.items() if value is not None})
