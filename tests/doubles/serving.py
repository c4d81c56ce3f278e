"""How doubles are served: on a free port of the loopback, by a thread of ours or by a process of their own."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ADDRESS = ("127.0.0.1", 0)

PATIENCE_SECONDS = 60
"""A net under waiting for what does not come; a test that needs it has failed."""

ROOT = Path(__file__).parents[2]


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    wbufsize = -1  # an answer leaves as a whole: a body sent after its head waits 40 ms for the head's acknowledgement

    def log_message(self, *_: object) -> None:
        """Says nothing: stderr is for defects."""

    def body(self) -> bytes:
        """What was sent along."""
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))


class Threaded:
    """Serves from a thread of this process for as long as it is entered."""

    def __init__(self, handler: type[Handler]) -> None:
        self._server = ThreadingHTTPServer(ADDRESS, handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Spawned:
    """Serves from a process of its own, which runs a module that ends in ``serve``, and does as it is told."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.tls: ssl.SSLContext | None = None
        """How to trust it, if it serves by https."""

    def tell(self, do: str, **members: Any) -> Any:
        """Has its state do something (``do_...``), and returns what that gives."""
        order = json.dumps({"do": do, **members}).encode()
        # twice as long as it may itself wait for something
        with urllib.request.urlopen(f"{self.url}/control", order, 2 * PATIENCE_SECONDS, context=self.tls) as answer:
            return json.load(answer)

    def close(self) -> None:
        """Ends the process: from now on nobody listens at its port."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)
        self._process.stdout.close()


def told(state: object, order: bytes) -> Any:
    """Does what came by ``POST /control``: calls one of the state's ``do_...`` with the members of the order."""
    members = json.loads(order)
    return getattr(state, f"do_{members.pop('do')}")(**members)


def serve(server: ThreadingHTTPServer, url: str) -> None:
    """The rest of a process's life: says where it serves, and does so until its stdin ends."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(url, flush=True)
    sys.stdin.read()
    sys.stdout.flush()
    os._exit(0)  # some of its threads may hang, as they were told to
