"""Logs: one JSON object per line on stderr, ours and those of the libraries alike."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

QUIET_LIBRARIES = ("httpcore", "httpx", "psycopg", "uvicorn.error", "yoyo")
"""They tell what they do in sentences. We tell it in events, so of theirs only warnings are kept."""


_OURS: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Sends logs of ``level`` (``INFO``, ``WARNING`` ...) and above to ``stream``, which is stderr unless given.

    Calling it again changes both. Everything passes through the standard library's ``logging``, so levels can be
    changed while the service runs. A traceback is logged without what customers sent: neither the values of
    variables, nor what follows the first line of an error, where PostgreSQL quotes rows.
    """
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_OURS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(json_formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def json_formatter() -> logging.Formatter:
    """Makes one line of JSON of a record, whoever logged it."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_OURS,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            _keep_first_lines,
            structlog.processors.JSONRenderer(),
        ],
    )


def _keep_first_lines(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for error in event.get("exception", ()):
        error["exc_value"] = error["exc_value"].partition("\n")[0]
    return event
