"""The books for a command: on your own server, on a running service's database, or on an embedded one started for the while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tallystick.database.embedded import EmbeddedPostgres, attach
from tallystick.service import Service, open_service
from tallystick.settings import Settings

POOL_SIZE = 4
"""Connections of a command: it does one thing after the other, and may share the server with a service and its pool."""


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """The URL of the database that ``settings`` mean.

    Raises ``DataFolderInUse`` if a service on the folder has not finished starting, ``EmbeddedPostgresFailed``.
    """
    url = settings.database_url or attach(settings.data_dir)
    if url is not None:
        yield url
        return
    server = await asyncio.to_thread(EmbeddedPostgres.start, settings.data_dir)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.stop)


@asynccontextmanager
async def open_books(settings: Settings) -> AsyncIterator[Service]:
    """All parts on that database, migrated. Also raises ``Unavailable``, ``DatabaseNewer``, ``ServerTooOld``."""
    async with open_database(settings) as url:
        own = settings.model_copy(update={"database_pool_size": POOL_SIZE})
        async with open_service(own, url) as service:
            yield service
