"""Sends what was raised. Nothing that moves money waits for it, or knows of it.

A notice is claimed for a while, sent, and noted as sent; whoever dies between the last two has it sent once more when
the claim is over, under the same Message-ID. While the server is away everything that is due waits longer, and one
connection in a while tries whether it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import structlog

from tallystick.database.pool import Connection, Pool
from tallystick.kernel.clock import Clock
from tallystick.notices.mail import (
    LETTER_SECONDS,
    LetterDelayed,
    LetterRefused,
    Mailer,
    MailServerAway,
    connected,
)
from tallystick.notices.model import Letter, Sending, State
from tallystick.notices.office import MailServer
from tallystick.notices.service import Notices

AT_ONCE: Final = 10
"""Letters that share a connection."""

CLAIM: Final = timedelta(minutes=15)
"""Longer than they can take."""

_log = structlog.get_logger()


class Dispatch:
    """Opens its own transactions, and holds none while it speaks to the server."""

    def __init__(self, pool: Pool, clock: Clock, notices: Notices, server: MailServer) -> None:
        self._pool = pool
        self._clock = clock
        self._notices = notices
        self._server = server

    async def send_due(self) -> int:
        """Sends until nothing is due, or the server is away; how many letters were taken by the server."""
        sent = 0
        while claimed := await self._claim():
            letters = [(sending, letter) for sending in claimed if (letter := await self._write(sending)) is not None]
            try:
                sent += await self._send(letters)
            except MailServerAway as away:
                _log.warning("mail.server_away", error=str(away), host=self._server.host)
                async with self._transaction() as conn:
                    await self._notices.delay(conn, [sending.notice for sending, _ in letters], str(away))
                    await self._notices.delay_due(conn, str(away))
                break
        return sent

    async def _claim(self) -> list[Sending]:
        async with self._transaction() as conn:
            return await self._notices.claim(conn, self._clock.now() + CLAIM, AT_ONCE)

    async def _write(self, sending: Sending) -> Letter | None:
        """The letter, if there is anybody to get it. What cannot be written keeps no other from being sent."""
        try:
            async with self._transaction() as conn:
                letter = await self._notices.letter(conn, sending)
        except Exception as error:
            _log.exception("notice.not_written", notice=str(sending.notice.id))
            async with self._transaction() as conn:
                await self._notices.delay(conn, [sending.notice], f"it cannot be written: {type(error).__name__}")
            return None
        if letter.to:
            return letter
        await self._finish(sending, "unaddressed", "nobody is known to write to")
        return None

    async def _send(self, letters: Sequence[tuple[Sending, Letter]]) -> int:
        if not letters:
            return 0
        sent = 0
        async with connected(self._server) as mailer:
            for sending, letter in letters:
                sent += await self._send_one(mailer, sending, letter)
        return sent

    async def _send_one(self, mailer: Mailer, sending: Sending, letter: Letter) -> bool:
        notice = sending.notice
        try:
            async with asyncio.timeout(LETTER_SECONDS):
                remark = await mailer.send(letter, notice.id, notice.raised_at)
        except LetterRefused as refused:
            await self._finish(sending, "failed", str(refused))
            return False
        except LetterDelayed as delayed:
            async with self._transaction() as conn:
                await self._notices.delay(conn, [notice], str(delayed))
            return False
        except TimeoutError:
            raise MailServerAway(f"TimeoutError: a letter took longer than {LETTER_SECONDS} seconds") from None
        await self._finish(sending, "sent", remark)
        return True

    async def _finish(self, sending: Sending, state: State, remark: str | None) -> None:
        async with self._transaction() as conn:
            await self._notices.finish(conn, sending.notice, state, remark)
        _log.info("notice.finished", notice=str(sending.notice.id), state=state, attempts=sending.attempts + 1)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._pool.connection() as conn, conn.transaction():
            yield conn
