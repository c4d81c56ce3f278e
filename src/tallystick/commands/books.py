"""The books for a command: your server's, a running service's, or embedded ones opened for the while."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from tallystick.database.embedded import EmbeddedPostgres, attach
from tallystick.service import Service, open_service
from tallystick.settings import Settings

POOL_SIZE = 4
"""Connections of a command: it does one thing after the other, and may share the server with a service."""


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of the database that ``settings`` mean.

    Raises ``DataFolderInUse`` while a service on the folder is starting or stopping, ``EmbeddedPostgresFailed``.
    """
    if url := settings.database_url or attach(settings.data_dir):
        yield url
    else:
        with EmbeddedPostgres.start(settings.data_dir, server_user=settings.postgres_user) as server:
            yield server.url


@asynccontextmanager
async def open_books(settings: Settings) -> AsyncIterator[Service]:
    """All parts on that database, migrated. Also raises ``Unavailable``, ``DatabaseNewer``, ``ServerTooOld``."""
    own = settings.model_copy(update={"database_pool_size": POOL_SIZE})
    with database(settings) as url:  # blocks the loop, on which nothing else runs
        async with open_service(own, url) as service:
            yield service
