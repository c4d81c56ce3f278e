"""``tally worker``: what happens by time, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import NoReturn

import structlog
import uvloop

from tallystick.commands import console
from tallystick.commands.books import database
from tallystick.commands.options import DataDir, Json, read_settings
from tallystick.database.pool import redact
from tallystick.jobs.books_clock import refuse_standing
from tallystick.operations.logging import configure_logging
from tallystick.service import open_service
from tallystick.settings import Settings

log = structlog.get_logger(__name__)


def worker(data_dir: DataDir = None, json: Json = False) -> None:
    """Run jobs until it is stopped with Ctrl-C or SIGTERM: for services that run with --no-worker, or beside them."""
    settings = read_settings(data_dir=data_dir)
    configure_logging(settings.log_level)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    with contextlib.ExitStack() as resources:
        url = resources.enter_context(database(settings))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(settings, url, as_json=json))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a database of its own ends in good order


def _leave(number: int, frame: object) -> NoReturn:
    sys.exit(0)


async def _work(settings: Settings, url: str, *, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_service(settings, url) as service:
        refuse_standing(service.clock)
        async with service.at_work(worker=True):
            books = redact(settings.database_url) if settings.database_url else str(settings.data_dir.resolve())
            log.info("worker.started")
            if as_json:
                console.print_json({"books": books, "pid": os.getpid()})
            else:
                console.say(f"Working on {books}. Ctrl-C stops it.")
                sys.stdout.flush()
            await stop.wait()
            log.info("worker.stopping")
    log.info("worker.stopped")
