"""Logging is changed while the service runs: by a document that changes what it says, or nothing at all."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.operations.logconfig import MAX_LOGGERS, LoggingState, RefusedLogging, change_logging
from tallystick.operations.logging import configure_logging

STREAM = {"class": "logging.StreamHandler"}
CONSOLE = {"console": STREAM}
NO_LEVEL = "must be a level, as DEBUG, INFO, WARNING, ERROR or CRITICAL, or 0 to 50"
SECRET = "Key (email)=(ada@example.org)"  # pragma: allowlist secret

HALF_APPLIED = [
    {"version": 1, "loggers": {"theirs": {"level": "CRITICAL"}}, "root": {"level": "ERROR", "handlers": ["nope"]}},
    {"version": 1, "disable_existing_loggers": True, "loggers": {"theirs": {"handlers": ["nope"]}}},
    {"version": 1, "disable_existing_loggers": True, "root": {"handlers": ["nope"]}},
    {"version": 1, "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "nope"}}},
    {"version": 1, "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["nope"]}}},
    {"version": 1, "handlers": {"console": {"level": "DEBUG"}}, "root": {"handlers": ["console"]}},
    {"version": 1, "incremental": True, "handlers": {"first": {"level": "ERROR"}, "nope": {"level": "ERROR"}}},
]
"""Documents in which every value is fine, and something is missing: Python finds out when half of it is done."""

HOLES: list[tuple[dict[str, Any], str]] = [
    ({"handlers": {"a": {"()": "this.d"}}}, "handlers.a.()"),
    ({"handlers": {"a": {"class": "this.d"}}}, "handlers.a.class"),
    ({"handlers": {"a": {"class": "logging.FileHandler", "filename": "/tmp/hole"}}}, "handlers.a.class"),
    ({"handlers": {"a": {"class": "logging.StreamHandler", "filename": "/tmp/hole"}}}, "handlers.a.filename"),
    ({"handlers": {"a": {"class": "logging.handlers.SocketHandler"}}}, "handlers.a.class"),
    ({"handlers": {"a": {"class": "logging.StreamHandler", "stream": "ext://this.d"}}}, "handlers.a.stream"),
    ({"handlers": {"a": {"class": "logging.StreamHandler", "level": "ext://this.d"}}}, "handlers.a.level"),
    ({"handlers": {"a": {"class": "logging.StreamHandler", "formatter": "ext://this.d"}}}, "handlers.a.formatter"),
    ({"handlers": {"a": {"class": "logging.StreamHandler", ".": {"emit": "x"}}}}, "handlers.a.."),
    ({"handlers": {"a": {"class": "logging.StreamHandler", "filters": ["ext://this.d"]}}}, "handlers.a.filters.0"),
    ({"formatters": {"a": {"()": "this.d"}}}, "formatters.a.()"),
    ({"formatters": {"a": {"class": "this.d"}}}, "formatters.a.class"),
    ({"formatters": {"a": {"format": "{args.__class__}", "style": "{"}}}, "formatters.a.style"),
    ({"formatters": {"a": {"format": "%(message)999999999s"}}}, "formatters.a.format"),
    ({"formatters": {"a": {"format": "%(exc_info)s"}}}, "formatters.a.format"),
    ({"formatters": {"a": {"format": "%(message)*s"}}}, "formatters.a.format"),
    ({"formatters": {"a": {"format": "%"}}}, "formatters.a.format"),
    ({"filters": {"a": {"()": "this.d"}}}, "filters.a.()"),
    ({"filters": {"a": {"name": "ext://this.d"}}}, "filters.a.name"),
    ({"loggers": {"a": {"handlers": ["ext://this.d"]}}}, "loggers.a.handlers.0"),
    ({"loggers": {"a": {"level": "cfg://root"}}}, "loggers.a.level"),
    ({"root": {"handlers": ["ext://this.d"]}}, "root.handlers.0"),
    ({"root": {"level": "ext://this.d"}}, "root.level"),
]


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """Where logs go, as a running service has them; afterwards all is as the tests had it."""
    before = LoggingState()
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    for name in ("ours", "theirs"):
        logging.getLogger(name)
    yield stream
    before.restore()
    structlog.reset_defaults()


def state() -> dict[str, Any]:
    """What is configured now. Loggers that are as new are left out: somebody may have asked for one."""
    loggers = {"": logging.root} | {
        name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)
    }
    configured = {
        name: (one.level, [*map(id, one.handlers)], one.propagate, one.disabled) for name, one in loggers.items()
    }
    as_new: tuple[int, list[int], bool, bool] = (logging.NOTSET, [], True, False)
    named = {name: (id(handler), handler.level) for name, handler in logging._handlers.items()}  # type: ignore[attr-defined]
    references = [id(reference()) for reference in logging._handlerList]  # type: ignore[attr-defined]
    return {name: one for name, one in configured.items() if one != as_new} | {"named": named, "all": references}


def said(stream: io.StringIO) -> list[dict[str, Any]]:
    """Each line is JSON, whatever was changed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def events(stream: io.StringIO) -> list[str]:
    return [line["event"] for line in said(stream) if line["event"] != "logging.change"]


def test_a_level_changes_at_run_time_and_lines_stay_json(logs: io.StringIO) -> None:
    ours, theirs = structlog.get_logger("ours"), logging.getLogger("theirs")
    ours.debug("before")
    change_logging({"version": 1, "root": {"level": "DEBUG"}})
    ours.debug("thing.done", id=7)
    theirs.debug("done %d", 7)
    change_logging({"version": 1, "root": {"level": "WARNING"}, "loggers": {"theirs": {"level": "INFO"}}})
    ours.info("after")
    theirs.info("still there")
    assert events(logs) == ["thing.done", "done 7", "still there"]
    assert [line["level"] for line in said(logs) if line["event"] != "logging.change"] == ["debug", "debug", "info"]
    assert next(line["id"] for line in said(logs) if line["event"] == "thing.done") == 7


def test_a_change_is_told_in_the_logging_that_was_there(logs: io.StringIO) -> None:
    change_logging({"version": 1, "root": {"level": "CRITICAL"}, "loggers": {"ours": {}}})
    (told,) = said(logs)
    assert (told["event"], told["level"], told["loggers"], told["handlers"]) == ("logging.change", "warning", 1, 0)


@pytest.mark.parametrize("document", HALF_APPLIED)
def test_python_alone_leaves_a_bad_document_half_applied(logs: io.StringIO, document: dict[str, Any]) -> None:
    """Why all this: the very documents of the next test."""
    change_logging({"version": 1, "handlers": {"first": STREAM}, "root": {"handlers": ["first"]}})
    before = state()
    with pytest.raises(ValueError, match=r"Unable|No handler"):
        logging.config.dictConfig(copy.deepcopy(document))
    assert state() != before


@pytest.mark.parametrize("document", HALF_APPLIED)
def test_after_a_bad_document_the_logging_that_was_there_goes_on(logs: io.StringIO, document: dict[str, Any]) -> None:
    change_logging({"version": 1, "handlers": {"first": STREAM}, "loggers": {"a.b": {"handlers": ["first"]}}})
    before = state()
    with pytest.raises(RefusedLogging) as refused:
        change_logging(document)
    assert state() == before
    assert refused.value.status == 400
    assert "nope" in refused.value.detail or "class must be given" in refused.value.detail
    structlog.get_logger("ours").info("one")
    logging.getLogger("theirs").info("two")
    logging.getLogger("made.later").info("three")
    assert events(logs) == ["one", "two", "three"]


@pytest.mark.parametrize(("part", "field"), HOLES)
def test_a_document_cannot_import_call_or_write_anything(logs: io.StringIO, part: dict[str, Any], field: str) -> None:
    before = state()
    with pytest.raises(RefusedLogging) as refused:
        change_logging({"version": 1} | part)
    assert refused.value.field is not None
    assert refused.value.field.startswith(field)
    assert state() == before
    assert "this" not in sys.modules  # which prints a poem when it is imported


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "the document: Input should be a valid dictionary or instance of Document"),
        ({}, "version: Field required"),
        ({"version": 2}, "version: Input should be 1"),
        ({"version": 1, "level": "DEBUG"}, "level: Extra inputs are not permitted"),
        ({"version": 1, "root": {"level": "LOUD"}}, f"root.level: {NO_LEVEL}"),
        ({"version": 1, "root": {"level": True}}, f"root.level: {NO_LEVEL}"),
        ({"version": 1, "root": {"handlers": ["a"]}}, "Unable to configure root logger: Unable to add handler 'a'"),
        (
            {"version": 1, "loggers": {str(number): {} for number in range(101)}},
            "loggers: Dictionary should have at most 100 items after validation, not more",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong(logs: io.StringIO, document: object, sentence: str) -> None:
    with pytest.raises(RefusedLogging) as refused:
        change_logging(document)
    assert refused.value.detail == sentence


def test_loggers_that_are_not_named_go_on_unless_silence_is_asked_for(logs: io.StringIO) -> None:
    """Python's own default silences them: with the shortest document one would turn off what one wants to see."""
    change_logging({"version": 1, "loggers": {"theirs": {"level": "DEBUG"}}})
    structlog.get_logger("ours").info("one")
    change_logging({"version": 1, "disable_existing_loggers": True, "loggers": {"theirs": {"level": "DEBUG"}}})
    structlog.get_logger("ours").info("two")
    logging.getLogger("theirs").debug("three")
    assert events(logs) == ["one", "three"]


def test_handlers_write_json_unless_a_format_is_given(logs: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    change_logging(
        {
            "version": 1,
            "formatters": {"plain": {"format": "%(levelname)-7s %(name)s %(message)s"}, "json": {}},
            "handlers": {
                "out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "plain"},
                "err": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "level": "ERROR"},
                "json": {"class": "logging.StreamHandler", "formatter": "json"},
            },
            "loggers": {"ours": {"handlers": ["out", "err", "json"], "propagate": False, "level": "DEBUG"}},
        }
    )
    structlog.get_logger("ours").debug("thing.done", id=7)
    out, err = capsys.readouterr()
    level, name, message = out.split(maxsplit=2)
    assert (level, name, json.loads(message)["id"]) == ("DEBUG", "ours", 7)
    (line,) = err.splitlines()  # `err` takes errors only
    assert json.loads(line)["event"] == "thing.done"
    assert events(logs) == []


def test_a_format_of_ones_own_shows_no_more_of_a_traceback(
    logs: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {"format": "%(asctime)s %(message)s", "datefmt": "%H:%M"}
    handler = {"class": "logging.StreamHandler", "formatter": "plain"}
    root = {"handlers": ["console"]}
    change_logging({"version": 1, "formatters": {"plain": plain}, "handlers": {"console": handler}, "root": root})
    try:
        raise ValueError(f"duplicate key\nDETAIL: {SECRET}")
    except ValueError:
        logging.getLogger("theirs").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert SECRET not in line
    time, _, message = line.partition(" ")
    assert len(time) == len("12:00")
    assert json.loads(message)["exception"][0]["exc_value"] == "duplicate key"


def test_a_filter_lets_one_branch_through(logs: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    handler = {"class": "logging.StreamHandler", "filters": ["some"]}
    root = {"handlers": ["console"]}
    change_logging({"version": 1, "filters": {"some": {"name": "a.b"}}, "handlers": {"console": handler}, "root": root})
    for name in ("a", "a.b", "a.b.c"):
        logging.getLogger(name).warning(name)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["a.b", "a.b.c"]


def test_no_handlers_at_all_is_silence(logs: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """Python would write warnings to stderr then, and not as JSON."""
    change_logging({"version": 1, "root": {"handlers": []}})
    logging.getLogger("theirs").error("hidden")
    assert events(logs) == []
    assert capsys.readouterr().err == ""


def test_handlers_are_known_by_name_as_long_as_somebody_uses_them(
    logs: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    change_logging({"version": 1, "handlers": CONSOLE, "root": {"handlers": ["console"]}})
    change_logging({"version": 1, "root": {"level": "DEBUG"}})
    quieter = {"version": 1, "incremental": True, "handlers": {"console": {"level": "ERROR"}}}
    change_logging(quieter)
    capsys.readouterr()
    logging.getLogger("theirs").warning("hidden")
    logging.getLogger("theirs").error("shown")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["shown"]
    change_logging({"version": 1, "root": {"handlers": []}})
    with pytest.raises(RefusedLogging, match="No handler found with name 'console'"):
        change_logging(quieter)


def test_handlers_of_others_are_closed_only_when_nobody_uses_them(logs: io.StringIO) -> None:
    class Closing(logging.NullHandler):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    kept, dropped = Closing(), Closing()
    logging.getLogger("a").addHandler(kept)
    logging.root.addHandler(dropped)
    change_logging({"version": 1, "handlers": CONSOLE, "root": {"handlers": ["console"]}})
    assert (kept.closed, dropped.closed) == (False, True)
    logging.getLogger("a").removeHandler(kept)


def test_there_is_an_end_to_making_loggers(logs: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(LoggingState().loggers) < MAX_LOGGERS
    monkeypatch.setattr("tallystick.operations.logconfig.MAX_LOGGERS", len(LoggingState().loggers) + 2)
    with pytest.raises(RefusedLogging, match="too many already"):
        change_logging({"version": 1, "loggers": {"one.two.three": {}}})
    change_logging({"version": 1, "loggers": {"one.two": {}}})


_NAMES = st.sampled_from(["a", "console", "theirs", "", "ext://this.d", "a.b", "%(message)s"])
_LEAVES = st.one_of(
    st.sampled_from([1, 0, -1, True, None, "DEBUG", "NOTSET", "logging.StreamHandler", "ext://sys.stdout", "%"]), _NAMES
)
_PARTS = st.dictionaries(
    st.sampled_from(
        ["level", "handlers", "class", "formatter", "filters", "format", "propagate", "()", "name", "stream"]
    ),
    st.one_of(_LEAVES, st.lists(_NAMES, max_size=2)),
    max_size=4,
)
_SECTIONS = st.dictionaries(_NAMES, st.one_of(_PARTS, _LEAVES), max_size=3)
_DOCUMENTS = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "incremental": st.booleans(),
        "disable_existing_loggers": st.booleans(),
        "formatters": _SECTIONS,
        "filters": _SECTIONS,
        "handlers": _SECTIONS,
        "loggers": _SECTIONS,
        "root": _PARTS,
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=_DOCUMENTS)
def test_any_document_is_applied_or_changes_nothing(logs: io.StringIO, document: dict[str, Any]) -> None:
    before, kept = state(), LoggingState()
    try:
        change_logging(document)
    except RefusedLogging:
        assert state() == before
    kept.restore()
    assert "this" not in sys.modules
