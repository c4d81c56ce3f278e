"""Connections to PostgreSQL.

A connection from the pool is in autocommit mode, so a single statement is a transaction of its own; several belong
together in ``async with connection.transaction()``, opened at the edge (request, job, command) and nowhere else.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import TypeAlias

import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from tallystick.kernel.errors import TallyError, Unavailable

Connection: TypeAlias = psycopg.AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]

OLDEST_SERVER_VERSION = 150000  # as libpq counts: 15.0
CONNECT_TIMEOUT_SECONDS = 10
SERVER_WAIT_SECONDS = 30.0
SERVER_POLL_SECONDS = 0.1
# How long, and in what number, callers queue for a connection before they get PoolTimeout or TooManyRequests.
CHECKOUT_TIMEOUT_SECONDS = 10.0
MAX_WAITING = 1000
# The statements of the hot path come again at once and are worth preparing; those that come once or twice are not.
PREPARE_THRESHOLD = 3
PREPARED_MAX = 200

_SHOWN_PARTS = ("host", "hostaddr", "port", "dbname", "user")


class ServerTooOld(TallyError):
    """The database server lacks what the schema needs."""

    code = "server_too_old"
    status = 503


async def open_pool(url: str, *, size: int) -> Pool:
    """A pool of exactly ``size`` connections, all open, with the session's time zone set to UTC. The caller closes it.

    The size is fixed because a pool that grows on demand makes the first callers of every burst wait.
    Raises ``Unavailable`` if the server does not answer now, ``ServerTooOld`` if it is older than PostgreSQL 15.
    """
    await wait_for_server(url, timeout_seconds=0)
    pool: Pool = AsyncConnectionPool(
        url,
        kwargs={
            "autocommit": True,
            "application_name": "tallystick",
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "prepare_threshold": PREPARE_THRESHOLD,
        },
        min_size=size,
        max_size=size,
        open=False,
        configure=_configure,
        check=lambda connection: _check(connection, pool),
        timeout=CHECKOUT_TIMEOUT_SECONDS,
        max_waiting=MAX_WAITING,
        name="tallystick",
    )
    try:
        await pool.open(wait=True, timeout=CONNECT_TIMEOUT_SECONDS)
    except PoolTimeout as error:
        await pool.close()
        raise Unavailable(f"the database ({redact(url)}) does not accept {size} connections.") from error
    return pool


async def wait_for_server(url: str, *, timeout_seconds: float = SERVER_WAIT_SECONDS) -> None:
    """Returns when the server accepts a connection; tries at least once.

    Raises ``Unavailable`` after ``timeout_seconds``, ``ServerTooOld`` if the server is older than PostgreSQL 15.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(url, connect_timeout=CONNECT_TIMEOUT_SECONDS)
            break
        except psycopg.Error as error:
            if not isinstance(error, psycopg.OperationalError) or time.monotonic() >= deadline:
                raise unreachable(url, error) from None
        await asyncio.sleep(SERVER_POLL_SECONDS)
    async with connection:
        version = connection.info.server_version
        if version < OLDEST_SERVER_VERSION:
            raise ServerTooOld(f"the database ({redact(url)}) is PostgreSQL {version // 10000}; 15 or newer is needed.")


def unreachable(url: str, error: psycopg.Error) -> Unavailable:
    """What to raise when connecting to ``url`` has failed with ``error``. Never shows a password."""
    if not isinstance(error, psycopg.OperationalError):  # its text would quote the URL
        return Unavailable("the database URL cannot be read: it must look like postgresql://USER@HOST/NAME.")
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return Unavailable(f"the database ({redact(url)}) cannot be reached: {reason[0].rstrip('.')}.")


def redact(url: str) -> str:
    """Which database ``url`` means, in words fit for logs: host, port, name and user, never a password."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "unreadable database URL"
    return conninfo.make_conninfo(**{name: str(parts[name]) for name in _SHOWN_PARTS if parts.get(name)})


async def _configure(connection: Connection) -> None:
    connection.prepared_max = PREPARED_MAX
    await connection.execute("SET TIME ZONE 'UTC'")
    await connection.execute("SET DateStyle = 'ISO, YMD'")  # psycopg reads no other, and a server may be set to one


async def _check(connection: Connection, pool: Pool) -> None:
    """Raises ``OperationalError`` if the server has ended this idle connection, and has the others looked at too.

    On an idle connection a server says hardly anything but farewell, so only one that has said something is tried out.
    The pool waits longer after each bad connection that it hands out: a restarted server must not be met ten times.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        try:
            await AsyncConnectionPool.check_connection(connection)
        except psycopg.OperationalError:
            await pool.check()
            raise
