"""``tally serve``: the database, the service and the HTTP server in one process, from the first byte to the last."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import structlog
import typer
import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tallystick import __version__
from tallystick.commands import console
from tallystick.commands.options import DataDir, InvalidUsage, Json, read_settings
from tallystick.database.embedded import EmbeddedPostgres, cluster_folder
from tallystick.database.pool import redact
from tallystick.jobs.books_clock import refuse_standing
from tallystick.kernel.errors import TallyError
from tallystick.metering.charges import BEGINNING, END
from tallystick.operations.logging import configure_logging
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tallystick.web.app import create_app

STOP_TIMEOUT_SECONDS = 10
"""How long requests under way may take once the service is told to stop."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept: longer than by the usual proxies (60 s), which would send into a closing one."""

MAX_HEAD_BYTES = 64 << 10
"""Longest request line and headers, give or take what one read from the socket brings."""

MAX_CONNECTIONS = 2000
"""Beyond that callers get 503."""

COLLECT_AFTER_OBJECTS = 200_000
"""Python searches for cycles after so many new containers. A batch of 10,000 events makes some 30,000 of them and no
cycle; with 10,000 here the searches cost a tenth of the throughput, with the usual 700 more."""

NOBODY_LET_IN = (
    "there is no key that anybody could call with: make one with `tally key create NAME --scope admin`, set "
    "TALLY_API_KEYS or TALLY_ADMIN_API_KEYS, or use --dev to try it on this machine alone"
)

log = structlog.get_logger(__name__)


class AddressUnusable(TallyError):
    """The address to listen at is taken, or is none of this machine's."""

    code = "address_unusable"
    status = 503


def serve(
    dev: Annotated[bool, typer.Option("--dev", help="Open to this machine, without keys.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen at.", show_default="TALLY_HOST")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.", show_default="TALLY_PORT"),
    ] = None,
    data_dir: DataDir = None,
    worker: Annotated[
        bool | None, typer.Option("--worker/--no-worker", help="Run jobs as well.", show_default="TALLY_WORKER")
    ] = None,
    clock: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="Rehearse: new books live by a test clock, which begins there."),
    ] = None,
    json: Json = False,
) -> None:
    """Run the service until it is stopped with Ctrl-C or SIGTERM."""
    settings = read_settings(dev=dev or None, host=host, port=port, data_dir=data_dir, worker=worker)
    rehearse_from = _read_clock(settings, clock)
    configure_logging(settings.log_level)
    _refuse_without_books(settings)
    with contextlib.ExitStack() as resources:
        listener = resources.enter_context(_bind(settings))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)
        url = settings.database_url
        if url is None:
            url = resources.enter_context(
                EmbeddedPostgres.start(settings.data_dir, server_user=settings.postgres_user)
            ).url
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, url, rehearse_from, listener, json))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the database ends in good order, in a second or so


def _leave(number: int, frame: object) -> NoReturn:
    """While nothing is served yet: undo what was started, and end without an error."""
    sys.exit(0)


def _read_clock(settings: Settings, text: str | None) -> datetime | None:
    """Where a test clock begins. Raises ``InvalidUsage``."""
    if text is None:
        return None
    if not settings.dev:
        raise InvalidUsage("--clock is for rehearsals: it needs --dev", field="clock")
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None and BEGINNING <= instant <= END:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InvalidUsage("--clock must be an instant with a zone, as 2026-01-01T00:00:00Z", field="clock")


# Who is let in


def _lets_somebody_in(settings: Settings) -> bool:
    """Whether the settings alone say who may call."""
    named = (settings.dev, settings.client_keys, settings.admin_keys, settings.auth_token, settings.oidc_issuer)
    return any(named)


def _refuse_without_books(settings: Settings) -> None:
    """Raises ``InvalidUsage`` if nobody can have a key, because there are no books yet to keep one in."""
    has_books = settings.database_url is not None or cluster_folder(settings.data_dir).exists()
    if not (_lets_somebody_in(settings) or has_books):
        raise InvalidUsage(NOBODY_LET_IN)


async def _refuse_without_keys(service: Service) -> None:
    """Raises ``InvalidUsage`` if the service would let nobody in, or everybody."""
    if _lets_somebody_in(service.settings):
        return
    async with service.pool.connection() as conn:
        if not await service.access.keys.any_active(conn):
            raise InvalidUsage(NOBODY_LET_IN)


# Where to listen


@contextlib.contextmanager
def _bind(settings: Settings) -> Iterator[socket.socket]:
    """A socket at the address, not yet listening. Raises ``InvalidUsage``, ``AddressUnusable``."""
    if settings.oidc_issuer and not settings.cf_client_id:
        raise InvalidUsage("TALLY_OIDC_ISSUER needs TALLY_CF_CLIENT_ID: for whom its tokens must be made")
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        if settings.dev and not ipaddress.ip_address(address[0]).is_loopback:
            raise InvalidUsage(f"--dev listens on loopback only, which {settings.host} is not", field="host")
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            yield listener
    except OSError as error:
        reason = error.strerror or error
        raise AddressUnusable(f"cannot listen at {settings.host}, port {settings.port}: {reason}") from None


# Serving


async def _serve(
    settings: Settings, url: str, rehearse_from: datetime | None, listener: socket.socket, as_json: bool
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_service(settings, url, rehearse_from=rehearse_from) as service:
        await _refuse_without_keys(service)
        if service.rehearsal is None:
            refuse_standing(service.clock)
        async with service.access.directory.running(), service.at_work(worker=settings.worker):
            server = _Server(_config(create_app(service)), lambda: _announce(service, listener, as_json=as_json))
            _tune_garbage_collection()
            serving = asyncio.create_task(server.serve([listener]))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            log.info("service.stopping")
            if service.rehearsal is not None:
                service.rehearsal.stop()
            server.should_exit = True
            await serving
    log.info("service.stopped")


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_BoundedHead,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_TIMEOUT_SECONDS,
    )


def _tune_garbage_collection() -> None:
    """What has been loaded stays: it is set aside for good, so that no later search visits it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 10, 10)


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to us and says when it is ready."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


class _BoundedHead(HttpToolsProtocol):
    """uvicorn's fast protocol, which by itself would collect headers without end."""

    _in_head = True
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of a request must not be longer than {MAX_HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()


# Saying so


def _announce(service: Service, listener: socket.socket, *, as_json: bool) -> None:
    settings = service.settings
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    books = redact(settings.database_url) if settings.database_url else str(settings.data_dir.resolve())
    log.info("service.started", host=host, port=port)
    if as_json:
        console.print_json({"url": url, "docs": f"{url}/docs", "books": books, "pid": os.getpid()})
    else:
        console.say(_banner(url, books, has_keys=not settings.dev))
        if service.rehearsal is not None:
            now = service.clock.now().isoformat()
            console.say(f"A test clock stands at {now}; PUT {url}/api/v1/test-clock moves it.")
        sys.stdout.flush()


def _banner(url: str, books: str, *, has_keys: bool) -> str:
    key = " -H 'Authorization: Bearer YOUR-KEY'" if has_keys else ""
    event = '{"id": "1", "subject": "ada", "type": "tokens", "data": {"value": 1200}}'
    return f"""\
Tallystick {__version__} is ready. Ctrl-C stops it.

  service  {url}
  routes   {url}/docs
  books    {books}

Send an event, look at the customer, have the books proved:

  curl{key} {url}/api/v1/events -H 'Content-Type: application/json' -d '{event}'
  curl{key} {url}/api/v1/customers/ada
  curl{key} {url}/api/v1/verify
"""
