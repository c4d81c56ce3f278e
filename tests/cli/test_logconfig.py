"""Logging changed in a running service: what it writes to stderr stays JSON, line by line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Serve, Server

pytestmark = pytest.mark.integration


def change(server: Server, document: object) -> int:
    """The status of the answer."""
    request = urllib.request.Request(f"{server.url}/logconfig", json.dumps(document).encode())
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_level_is_changed_and_every_line_stays_json(serve: Serve, tmp_path: Path) -> None:
    server = serve(tmp_path / "books")
    server.get("/ping")
    assert change(server, {"version": 1, "loggers": {"tallystick.web": {"level": "DEBUG"}}}) == 204
    server.get("/api/v1/meters")
    assert change(server, {"version": 1, "root": {"level": "CRITICAL", "handlers": ["nope"]}}) == 400
    server.get("/api/v1/prices")
    assert change(server, {"version": 1, "loggers": {"tallystick.web": {"level": "INFO"}}}) == 204
    server.get("/api/v1/customers")
    assert server.stop() == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "books.log").read_text().splitlines()]
    told = [(line["route"], line["status"]) for line in lines if line["event"] == "http.request"]
    assert told == [("/logconfig", 204), ("/api/v1/meters", 200), ("/logconfig", 400), ("/api/v1/prices", 200)]
    assert [line["event"] for line in lines[-2:]] == ["service.stopping", "service.stopped"]
