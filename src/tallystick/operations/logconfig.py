"""Logging changed while the service runs, by a document in the schema of Python's ``logging.config.dictConfig``.

That schema lets a document import any module and call anything in it, so what is read here is a closed part of it:
levels, loggers, filters by name, and handlers that write to stdout or stderr. Nothing of a document but such plain
values reaches ``dictConfig``, and the one that is used here imports nothing.

``dictConfig`` takes the old configuration down before it knows whether the new one is any good. Here, a document that
it refuses changes nothing: the logging that was there goes on.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from functools import partial
from logging.config import DictConfigurator
from typing import Annotated, Any, Final, Literal, NoReturn

import structlog
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from tallystick.kernel.errors import TallyError
from tallystick.operations.logging import json_formatter

MAX_PARTS: Final = 100
"""Loggers, handlers, formatters and filters, of each, in one document."""

MAX_LOGGERS: Final = 10_000
"""Python never forgets a logger, so there is an end to making them."""

MAX_FORMAT_CHARACTERS: Final = 500

FIELDS: Final = (
    "asctime",
    "created",
    "filename",
    "funcName",
    "levelname",
    "levelno",
    "lineno",
    "message",
    "module",
    "msecs",
    "name",
    "pathname",
    "process",
    "processName",
    "relativeCreated",
    "thread",
    "threadName",
)
"""What a format may show of a record. ``message`` is the event with all it tells, as JSON."""

STREAM: Final = "logging.StreamHandler"
NULL: Final = "logging.NullHandler"

# A width of a billion would be a line of a billion blanks.
_FORMAT = re.compile(rf"(?:[^%]|%%|%\((?:{'|'.join(FIELDS)})\)[0-]?\d{{0,2}}(?:\.\d)?[sdf])*")

_log = structlog.get_logger("tallystick.logging")


class RefusedLogging(TallyError):
    """The document is not one that may configure logging; nothing was changed."""

    code = "logging_refused"
    status = 400


def _level(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, str) and value in logging.getLevelNamesMapping():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= logging.CRITICAL:
        return value
    raise ValueError(f"must be a level, as DEBUG, INFO, WARNING, ERROR or CRITICAL, or 0 to {logging.CRITICAL}")


def _format(value: str) -> str:
    if _FORMAT.fullmatch(value):
        return value
    raise ValueError(f"must be text with %(field)s, two digits of width at most, of {', '.join(FIELDS)}")


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
"""No colon, so that ``dictConfig`` takes none for the name of something to import (``ext://``)."""

Level = Annotated[Any, BeforeValidator(_level)]
Names = Annotated[list[Name], Field(max_length=MAX_PARTS)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Formatter(_Part):
    """How lines look: as JSON, unless a ``format`` is given."""

    class_: Literal["logging.Formatter"] | None = Field(None, alias="class")
    format: Annotated[str, Field(max_length=MAX_FORMAT_CHARACTERS), AfterValidator(_format)] | None = None
    datefmt: Annotated[str, Field(max_length=100)] | None = None
    style: Literal["%"] = "%"
    validate_: bool = Field(True, alias="validate")


class Filter(_Part):
    """Lets a logger and those below it through."""

    name: Name | Literal[""] = ""


class Handler(_Part):
    """Where lines go: nowhere (``NullHandler``), or to stderr or stdout."""

    class_: Literal["logging.StreamHandler", "logging.NullHandler"] | None = Field(None, alias="class")
    level: Level = None
    formatter: Name | None = None
    filters: Names | None = None
    stream: Literal["ext://sys.stderr", "ext://sys.stdout"] | None = None


class Logger(_Part):
    """What becomes of a logger's events. Those that it propagates reach the handlers of the loggers above it, too."""

    level: Level = None
    handlers: Names | None = None
    propagate: bool | None = None


class Root(_Part):
    """The logger above all others. Without ``handlers`` it keeps those that it has."""

    level: Level = None
    handlers: Names | None = None


class Document(_Part):
    """The part of ``dictConfig``'s schema that is read here."""

    version: Literal[1]
    incremental: bool = False
    disable_existing_loggers: bool = False
    """Python's own default is to silence all loggers that the document does not name. Here one has to ask for it."""
    formatters: Annotated[dict[Name, Formatter], Field(max_length=MAX_PARTS)] = {}
    filters: Annotated[dict[Name, Filter], Field(max_length=MAX_PARTS)] = {}
    handlers: Annotated[dict[Name, Handler], Field(max_length=MAX_PARTS)] = {}
    loggers: Annotated[dict[Name, Logger], Field(max_length=MAX_PARTS)] = {}
    root: Root | None = None


def change_logging(document: object) -> None:
    """Configures the logging of this process as the document (read from JSON) says.

    Raises ``RefusedLogging``, with what is wrong; logging is then what it was.
    """
    configure(_read(document))


def _read(document: object) -> Document:
    try:
        return Document.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part)[:100] for part in fault["loc"]) or "the document"
        raise RefusedLogging(f"{path}: {fault['msg'].removeprefix('Value error, ')}", field=path) from None


def configure(config: Document) -> None:
    """Configures logging. Raises ``RefusedLogging`` if ``dictConfig`` refuses; logging is then what it was."""
    # Said in the logging that was there: nobody turns off the light unseen.
    _log.warning("logging.change", loggers=len(config.loggers), handlers=len(config.handlers))
    with logging._lock:  # type: ignore[attr-defined]
        before = LoggingState()
        if len(before.loggers) + sum(name.count(".") + 1 for name in config.loggers) > MAX_LOGGERS:
            raise RefusedLogging(f"loggers: there are too many already, of {MAX_LOGGERS} that there may be")
        try:
            _apply(config)
        except Exception as error:  # dictConfig raises whatever it met
            before.restore()
            raise RefusedLogging(_sentence(error)) from error
        if not config.incremental:
            before.let_go()


def _sentence(error: BaseException) -> str:
    """What ``dictConfig`` was about, and what was wrong with it."""
    cause = error.__cause__
    return f"{error}: {_sentence(cause)}" if isinstance(cause, ValueError) else str(error)


class _Configurator(DictConfigurator):
    """Python's own, which imports nothing."""

    def resolve(self, s: str) -> NoReturn:
        raise ValueError(f"{s!r} is not imported here")


def _apply(config: Document) -> None:
    if not config.incremental:
        del logging._handlerList[:]  # type: ignore[attr-defined]  # dictConfig would close them, be they in use or not
    keeps_handlers = config.root is not None and config.root.handlers is None and not config.incremental
    configurator = _Configurator(_prepared(config, with_root=not keeps_handlers))
    configurator.configure()
    if keeps_handlers and config.root is not None and config.root.level is not None:
        logging.root.setLevel(config.root.level)
    if not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())  # without any, Python itself writes warnings to stderr


def _prepared(config: Document, *, with_root: bool) -> dict[str, Any]:
    """The document for ``dictConfig``: names, levels and functions of ours, and no other text."""
    document: dict[str, Any] = {
        "version": 1,
        "incremental": config.incremental,
        "disable_existing_loggers": config.disable_existing_loggers,
        "formatters": {name: {"()": partial(_formatter, one)} for name, one in config.formatters.items()},
        "filters": {name: {"()": partial(logging.Filter, one.name)} for name, one in config.filters.items()},
        "handlers": {
            name: {"()": partial(_handler, one), **_given(one, "level", "formatter", "filters")}
            for name, one in config.handlers.items()
        },
        "loggers": {name: _given(one, "level", "handlers", "propagate") for name, one in config.loggers.items()},
    }
    if config.root is not None and with_root:
        document["root"] = _given(config.root, "level", "handlers")
    return document


def _given(part: _Part, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def _formatter(config: Formatter) -> logging.Formatter:
    if config.format is None:
        return json_formatter()
    formatter = _TextFormatter(config.format, config.datefmt)
    formatter.format(logging.makeLogRecord({"msg": "", "levelname": "INFO", "levelno": logging.INFO}))  # raises now
    return formatter


def _handler(config: Handler) -> logging.Handler:
    if config.class_ is None:
        raise ValueError("class must be given")
    if config.class_ == NULL:
        return logging.NullHandler()
    handler = logging.StreamHandler(sys.stdout if config.stream == "ext://sys.stdout" else sys.stderr)
    handler.setFormatter(json_formatter())  # a formatter that the document names replaces it
    return handler


class _TextFormatter(logging.Formatter):
    """Lines in a format of the operator's, with the event as JSON for ``%(message)s``; times are UTC.

    A traceback is part of that JSON, without what customers sent; Python's own would add it in full.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self, text: str, time_format: str | None) -> None:
        super().__init__(text, time_format)
        self._json = json_formatter()

    def format(self, record: logging.LogRecord) -> str:
        shown = logging.makeLogRecord(record.__dict__)
        shown.message = self._json.format(record)
        if self.usesTime():
            shown.asctime = self.formatTime(shown, self.datefmt)
        return self.formatMessage(shown)


class LoggingState:
    """All that ``dictConfig`` may change, as it is when this is made."""

    def __init__(self) -> None:
        self.loggers = {
            logger: (logger.level, logger.handlers[:], logger.propagate, logger.disabled) for logger in _loggers()
        }
        self._references = logging._handlerList[:]  # type: ignore[attr-defined]
        self._named = dict(logging._handlers)  # type: ignore[attr-defined]
        self._levels = {handler: handler.level for reference in self._references if (handler := reference())}

    def restore(self) -> None:
        """Makes everything as it was; loggers that are new are left as if somebody had merely asked for them."""
        for logger in _loggers():
            level, handlers, logger.propagate, logger.disabled = self.loggers.get(
                logger, (logging.NOTSET, [], True, False)
            )
            logger.handlers[:] = handlers
            logger.setLevel(level)
        for handler, handler_level in self._levels.items():
            handler.setLevel(handler_level)
        logging._handlers.clear()  # type: ignore[attr-defined]
        logging._handlers.update(self._named)  # type: ignore[attr-defined]
        logging._handlerList[:] = self._references  # type: ignore[attr-defined]

    def let_go(self) -> None:
        """Closes those handlers that no logger has any more; the others stay open, and known by their names."""
        in_use = {handler for logger in _loggers() for handler in logger.handlers}
        for reference in self._references:
            handler = reference()
            if handler in in_use:
                logging._handlerList.append(reference)  # type: ignore[attr-defined]
                if handler.name is not None:
                    logging._handlers.setdefault(handler.name, handler)  # type: ignore[attr-defined]
            elif handler is not None:
                handler.close()


def _loggers() -> list[logging.Logger]:
    manager = logging.root.manager
    return [logging.root, *(one for one in manager.loggerDict.values() if isinstance(one, logging.Logger))]
