"""``tally serve`` from its start to its end, in whatever way it ends."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tallystick.commands.serve import MAX_HEAD_BYTES
from tests.cli.conftest import Serve, Server, Tally, left

pytestmark = pytest.mark.integration

EVENT = {"id": "1", "subject": "ada", "type": "tokens", "data": {"value": 1200}}


def accepts(server: Server) -> bool:
    """Whether it takes new connections."""
    try:
        socket.create_connection(server.address).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was waiting when the listener was closed
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_it_is_told_to_stop_and_leaves_nothing_behind(
    serve: Serve, tmp_path: Path, number: signal.Signals
) -> None:
    server = serve(tmp_path / "books")
    assert server.get("/ping") == b"Pong"
    processes = server.tree()
    assert any(process.name().startswith("postgres") for process in processes)
    assert server.stop(number) == 0
    assert not left(processes)


def test_a_request_under_way_is_finished_first(serve: Serve, tmp_path: Path) -> None:
    server = serve(tmp_path / "books")
    body = b'{"id": "1", "subject": "ada", "type": "tokens", "data": {"value": 1200}}'
    head = "POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    with socket.create_connection(server.address) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # it waits for the body now
        server.process.send_signal(signal.SIGTERM)
        while accepts(server):
            pass
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert server.close() == 0


def test_what_was_answered_is_there_after_a_kill(serve: Serve, tally: Tally, tmp_path: Path) -> None:
    server = serve(tmp_path / "books")
    assert server.post("/api/v1/events", [EVENT])["accepted"] == 1
    processes = server.tree()
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert len(processes) > 1
    assert not left(processes)  # the kernel ended the database with the service

    server = serve(tmp_path / "books")
    assert server.post("/api/v1/events", [EVENT]) == {"accepted": 0, "duplicates": 1, "unpriced": 0, "rejected": []}
    assert tally("verify", "--json", "--data-dir", server.data_dir).document["holds"]
    assert server.stop() == 0


def test_a_second_service_on_the_same_folder_is_refused(server: Server, tally: Tally) -> None:
    refused = tally("serve", "--dev", "--port", "0", "--data-dir", server.data_dir)
    assert refused.code == 3
    assert f"in use by another Tallystick service (process {server.process.pid})" in refused.err
    assert server.get("/ping") == b"Pong"


def test_commands_join_the_service_on_the_folder(server: Server, tally: Tally) -> None:
    server.post("/api/v1/customers", {"key": "joined"})
    by_folder = tally("customers", "show", "joined", "--json", "--data-dir", server.data_dir)
    by_url = tally("customers", "show", "joined", "--json", "--url", server.url)
    assert by_folder.code == by_url.code == 0
    assert by_folder.document == by_url.document


def test_a_taken_port_is_said(server: Server, tally: Tally, tmp_path: Path) -> None:
    refused = tally("serve", "--dev", "--port", str(server.address[1]), "--data-dir", tmp_path, "--json")
    assert refused.code == 3
    assert refused.document["error"]["code"] == "address_unusable"
    assert not list(tmp_path.iterdir())


def test_an_endless_head_is_cut_off(server: Server) -> None:
    with socket.create_connection(server.address) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nX-Long: ")
        answer = b""
        try:
            for _ in range(MAX_HEAD_BYTES // 1024 + 1024):
                connection.sendall(b"x" * 1024)
        except ConnectionError:
            pass  # it has closed already
        else:
            answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 400 ") or not answer
    assert server.get("/ping") == b"Pong"


def test_many_requests_pass_one_connection_however_long_their_bodies_are(server: Server) -> None:
    body = b"[" + b" " * 3 * MAX_HEAD_BYTES + b"]"
    head = f"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(server.address) as connection, connection.makefile("rb") as answers:
        for _ in range(3):
            connection.sendall(head + body)
            assert answers.readline().startswith(b"HTTP/1.1 200 ")
            lengths = [line for line in iter(answers.readline, b"\r\n") if line.lower().startswith(b"content-length")]
            answers.read(int(lengths[0].split(b":")[1]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "make one with `tally key create NAME --scope admin`, set TALLY_API_KEYS"),
        (["--dev", "--host", "0.0.0.0"], "--dev listens on loopback only, which 0.0.0.0 is not"),
        (["--dev", "--port", "70000"], "--port"),
    ],
)
def test_it_does_not_open_itself_to_everybody(tally: Tally, tmp_path: Path, options: list[str], sentence: str) -> None:
    refused = tally("serve", "--data-dir", tmp_path, *options)
    assert refused.code == 2
    assert sentence in refused.err
    assert not list(tmp_path.iterdir())
