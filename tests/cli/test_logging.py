"""Logs are one JSON object a line, whoever writes them, and hold nothing of what customers sent."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tallystick.operations.logging import configure_logging


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("INFO", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_ours_and_others_look_alike(logs: io.StringIO) -> None:
    structlog.get_logger("ours").info("thing.done", id=7)
    logging.getLogger("theirs").warning("done %d", 7)
    ours, theirs = map(json.loads, logs.getvalue().splitlines())
    assert (ours["event"], ours["id"], ours["level"], ours["logger"]) == ("thing.done", 7, "info", "ours")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("done 7", "warning", "theirs")
    assert ours["timestamp"].endswith("Z")


def test_what_is_below_the_level_and_what_libraries_tell_is_left_out(logs: io.StringIO) -> None:
    structlog.get_logger("ours").debug("thing.done")
    logging.getLogger("psycopg.pool").info("a connection was returned")
    assert logs.getvalue() == ""


def test_a_level_holds_for_loggers_that_exist_already(logs: io.StringIO) -> None:
    log = structlog.get_logger("ours")
    log.info("one")
    configure_logging("ERROR", stream=logs)
    log.warning("two")
    configure_logging("DEBUG", stream=logs)
    log.debug("three")
    assert [json.loads(line)["event"] for line in logs.getvalue().splitlines()] == ["one", "three"]


def test_a_traceback_tells_where_and_not_what(logs: io.StringIO) -> None:
    secret = "hunter2"  # pragma: allowlist secret
    try:
        raise ValueError(f"duplicate key\nDETAIL: Key (email)=({secret})")
    except ValueError:
        structlog.get_logger("ours").exception("thing.failed")
    (line,) = logs.getvalue().splitlines()
    (error,) = json.loads(line)["exception"]
    assert (error["exc_type"], error["exc_value"]) == ("ValueError", "duplicate key")
    assert error["frames"]
    assert secret not in line
