"""Prometheus' query API as far as range queries go, in its own wire format, with the faults a test asks for.

The real one cannot be made to answer 429 or half a page on demand; what it answers when all is well is tested with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from tests.doubles import serving

Fault = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an answer that is not the right one."""

Value = Callable[[str, int], dict[str, str | None]]
"""What a query gives at a second: for each series, its labels as JSON and the value, if there is one."""


class PrometheusApi(serving.Threaded):
    """Answers ``GET /api/v1/query_range`` on a free port of the loopback interface until it is closed.

    ``faults`` are answered first, one for each request. ``token``, if set, is asked for.
    """

    def __init__(self, value: Value, token: str | None = None) -> None:
        self.value = value
        self.token = token
        self.faults: list[Fault] = []
        self.asked: list[dict[str, str]] = []
        api = self

        class Handler(serving.Handler):
            def do_GET(self) -> None:
                status, headers, body = api.answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)

    def answer(self, path: str, authorization: str | None) -> Fault:
        parts = urlsplit(path)
        query = {name: texts[0] for name, texts in parse_qs(parts.query).items()}
        self.asked.append(query)
        if self.faults:
            return self.faults.pop(0)
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, {}, b"Unauthorized\n"
        if parts.path != "/api/v1/query_range":
            return 404, {}, b"404 page not found\n"
        start, end, step = (int(query[name]) for name in ("start", "end", "step"))
        if (end - start) // step >= 11_000:
            return _error("exceeded maximum resolution of 11,000 points per timeseries.")
        series: dict[str, list[tuple[int, str]]] = {}
        for second in range(start, end + 1, step):
            for labels, value in self.value(query["query"], second).items():
                if value is not None:
                    series.setdefault(labels, []).append((second, value))
        result = [{"metric": json.loads(labels), "values": values} for labels, values in series.items()]
        return 200, {}, success(result)


def success(result: object, kind: str = "matrix", **more: object) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more}).encode()


def _error(reason: str) -> Fault:
    return 400, {}, json.dumps({"status": "error", "errorType": "bad_data", "error": reason}).encode()
