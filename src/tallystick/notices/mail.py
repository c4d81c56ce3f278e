"""Sends letters through an SMTP server. One connection takes the letters of a batch."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)

from tallystick.notices.model import Letter
from tallystick.notices.office import MailServer

LETTER_SECONDS: Final = 60
"""How long one letter may take in all; each step of it has the setting's time."""


class MailServerAway(Exception):
    """The server cannot be reached, does not let us in, or was lost: no letter can be sent now."""


class LetterDelayed(Exception):
    """The server did not take this letter now, and may later."""


class LetterRefused(Exception):
    """The server will never take this letter."""


class Mailer:
    """An open connection."""

    def __init__(self, smtp: SMTP, sender: str) -> None:
        self._smtp = smtp
        self._sender = sender

    async def send(self, letter: Letter, notice_id: UUID, at: datetime) -> str | None:
        """Hands one letter over; a word on recipients that were refused, if others were not.

        Sent again, it has the same Message-ID. Raises ``LetterDelayed``, ``LetterRefused`` or ``MailServerAway``, none
        of which quotes what the server said.
        """
        recipients = [*letter.to, *letter.copies]
        try:
            message = message_of(letter, self._sender, notice_id, at)
            refused, _ = await self._smtp.send_message(message, sender=self._sender, recipients=recipients)
        except SMTPRecipientsRefused as error:
            code = min(each.code for each in error.recipients)
            raise _failure(code, error) from None
        except SMTPResponseException as error:
            if not self._smtp.is_connected:
                raise MailServerAway(_names(error, error.code)) from None
            raise _failure(error.code, error) from None
        except (SMTPNotSupported, MessageError, ValueError) as error:  # an address that it, or nobody, can write to
            raise LetterRefused(_names(error)) from None
        except (SMTPException, OSError) as error:
            raise MailServerAway(_names(error)) from None
        return f"{len(refused)} of {len(recipients)} recipients were refused" if refused else None


@asynccontextmanager
async def connected(server: MailServer) -> AsyncIterator[Mailer]:
    """A connection that has been let in. Raises ``MailServerAway``."""
    smtp = SMTP(
        hostname=server.host,
        port=server.port,
        timeout=server.timeout_seconds,
        use_tls=server.security == "tls",
        start_tls=server.security == "starttls",
    )
    try:
        await smtp.connect(tls_context=None if server.security == "none" else _trusting(server.ca_file))
        if server.user and server.password:
            await smtp.login(server.user, server.password)
    except (SMTPException, OSError) as error:
        smtp.close()
        code = error.code if isinstance(error, SMTPResponseException) else None
        raise MailServerAway(_names(error, code)) from None
    try:
        yield Mailer(smtp, server.sender)
    finally:
        try:
            await smtp.quit()
        except (SMTPException, OSError):
            smtp.close()


def message_of(letter: Letter, sender: str, notice_id: UUID, at: datetime) -> EmailMessage:
    """The message as it is sent: text, and HTML beside it."""
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = Address(addr_spec=sender)
    message["To"] = [Address(addr_spec=address) for address in letter.to]
    if letter.copies:
        message["Cc"] = [Address(addr_spec=address) for address in letter.copies]
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<notice.{notice_id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text, cte="quoted-printable")  # which any server can pass on
    if letter.html is not None:
        message.add_alternative(letter.html, subtype="html", cte="quoted-printable")
    return message


def _failure(code: int, error: SMTPException) -> Exception:
    """What is refused for good. A sender that is refused is a setting that somebody may mend."""
    kind = LetterRefused if code >= 500 and not isinstance(error, SMTPSenderRefused) else LetterDelayed
    return kind(_names(error, code))


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _names(error: BaseException, code: int | None = None) -> str:
    """What it was, without its text, which may quote addresses or credentials."""
    name = type(error).__name__
    return name if code is None else f"{name}: {code}"
