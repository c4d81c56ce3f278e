"""Somebody who receives webhooks, in a process of its own, well or badly, as it is told.

``python -m tests.doubles.webhook_receiver`` serves on a free port of the loopback, prints its URL, and ends with its
stdin. With a folder as its argument it serves by https under the name ``NAME``, and puts its certificate there. What a
path does is told by ``POST /control``: a status, or one of ``_ILL``.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.doubles import serving
from tests.doubles.serving import PATIENCE_SECONDS

NAME = "hooks.example"
CERTIFICATE = "certificate.pem"

HUGE_BYTES = 64 << 20


class State:
    """What each path does, and what came there."""

    def __init__(self) -> None:
        self.url = ""
        self._changed = threading.Condition()
        self.do_reset()

    def do_reset(self) -> None:
        with self._changed:
            self._manners: dict[str, str] = {}
            self._headers: dict[str, dict[str, str]] = {}
            self.received: list[dict[str, Any]] = []
            self.waiting: Counter[str] = Counter()
            self.longest: Counter[str] = Counter()
            self.sent_bytes = 0
            self._changed.notify_all()

    def do_behave(self, path: str, manner: str, headers: dict[str, str] | None = None) -> None:
        """From now on, and for those who wait there."""
        with self._changed:
            self._manners[path] = manner
            self._headers[path] = headers or {}
            self._changed.notify_all()

    def do_received(self, path: str | None = None) -> list[dict[str, Any]]:
        return [each for each in self.received if path in (None, each["path"])]

    def do_wait(self, path: str, times: int) -> int:
        """How often something has come there, once that is so often."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.do_received(path)) >= times, PATIENCE_SECONDS)
            return len(self.do_received(path))

    def do_at_once(self, path: str) -> int:
        """How many requests were there at a time, at most."""
        return self.longest[path]

    def do_sent(self) -> int:
        """How much of huge answers has been sent."""
        return self.sent_bytes

    def manner(self, path: str) -> tuple[str, dict[str, str]]:
        """What to do; of one that is slow, once it is no more."""
        with self._changed:
            self.waiting[path] += 1
            self.longest[path] = max(self.longest[path], self.waiting[path])
            self._changed.wait_for(lambda: self._manners.get(path) != "slow", PATIENCE_SECONDS)
            self.waiting[path] -= 1
            return self._manners.get(path, "200"), self._headers.get(path, {})

    def keep(self, path: str, headers: dict[str, str], body: str) -> None:
        with self._changed:
            self.received.append({"path": path, "headers": headers, "body": body})
            self._changed.notify_all()


class Handler(serving.Handler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body, state = self.body(), self.server.state
        if self.path == "/control":
            self._answer(200, json.dumps(serving.told(state, body)).encode())
            return
        state.keep(self.path, {name.lower(): value for name, value in self.headers.items()}, body.decode())
        manner, headers = state.manner(self.path)
        ill = _ILL.get(manner)
        if ill is None:
            self._answer(int(manner), b"thank you", headers)
        else:
            self.close_connection = True
            ill(self)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Hangs up with a reset instead of an answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def close(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def garbage(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    def cut(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")

    def endless_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-Much: more\r\n" * 100_000)

    def huge(self) -> None:
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE_BYTES}\r\n\r\n".encode())
        self.wfile.flush()
        piece = b"x" * (1 << 16)
        try:
            for _ in range(HUGE_BYTES // len(piece)):
                self.connection.sendall(piece)
                self.server.state.sent_bytes += len(piece)
        except OSError:  # they have heard enough
            return


_ILL: dict[str, Callable[[Handler], None]] = {
    "reset": Handler.reset,
    "close": Handler.close,
    "garbage": Handler.garbage,
    "cut": Handler.cut,
    "endless head": Handler.endless_head,
    "huge": Handler.huge,
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 200

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(serving.ADDRESS, Handler)
        self.state = State()
        self.state.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_address[1]}"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: connections are meant to break."""


def _certified(folder: Path) -> ssl.SSLContext:
    """With a certificate for ``NAME`` and the loopback that nobody but itself has signed."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now().astimezone()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver of the tests")])
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    dated = unsigned.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName(NAME), loopback])
    purposes = x509.BasicConstraints(ca=True, path_length=None)
    certificate = dated.add_extension(names, critical=False).add_extension(purposes, critical=True)
    (folder / CERTIFICATE).write_bytes(certificate.sign(key, SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / "key.pem")
    return context


class Receiver(serving.Spawned):
    """The process, and what it can be told."""

    def __init__(self, tls_folder: Path | None = None) -> None:
        super().__init__("tests.doubles.webhook_receiver", *([] if tls_folder is None else [str(tls_folder)]))
        self.tls = None if tls_folder is None else ssl.create_default_context(cafile=tls_folder / CERTIFICATE)
        self.port = int(self.url.rpartition(":")[2])

    def behave(self, path: str, manner: str | int, **headers: str) -> None:
        """What this path does from now on: a status, or one of the ill manners."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.tell("behave", path=path, manner=str(manner), headers=named)

    def received(self, path: str | None = None) -> list[dict[str, Any]]:
        """What has come, at one path if it is given: path, headers and body."""
        return list(self.tell("received", path=path))


if __name__ == "__main__":
    server = Server(_certified(Path(sys.argv[1])) if sys.argv[1:] else None)
    serving.serve(server, server.state.url)
