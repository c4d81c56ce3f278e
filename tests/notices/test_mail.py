"""Letters through a real SMTP server: encrypted, logged in, refused, delayed, and lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tallystick.notices.mail import LetterDelayed, LetterRefused, MailServerAway, connected
from tallystick.notices.model import Letter
from tallystick.notices.office import MailServer, Security
from tests.notices.smtp import running_smtp

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
ID = UUID(int=7)
LETTER = Letter("50% left für Ada", "Grüße\n", "<p>Grüße</p>\n", ("ada@lab.test",), ("board@lab.test",))
PASSWORD = "correct horse"  # pragma: allowlist secret


async def send(server: MailServer, letter: Letter = LETTER) -> str | None:
    async with connected(server) as mailer:
        return await mailer.send(letter, ID, AT)


@pytest.mark.parametrize("kind", ["starttls", "tls", "none"])
async def test_a_letter_arrives_whole(tmp_path: Path, kind: Security) -> None:
    with running_smtp(tmp_path, kind, "tally", PASSWORD) as smtp:
        await send(smtp.mail_server("tally", PASSWORD))
        (taken,) = smtp.taken
    assert (taken.sender, taken.to, taken.user) == ("billing@cloud.test", ["ada@lab.test", "board@lab.test"], "tally")
    if kind == "starttls":  # what was there from the start the server's library does not see
        assert taken.tls
    message = taken.message
    assert (message["From"], message["To"], message["Cc"]) == ("billing@cloud.test", "ada@lab.test", "board@lab.test")
    assert message["Subject"] == "50% left für Ada"
    assert message["Message-ID"] == f"<notice.{ID}@cloud.test>"
    assert message["Date"].datetime == AT
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "multipart/alternative"
    assert (taken.text().strip(), taken.text("html").strip()) == ("Grüße", "<p>Grüße</p>")


async def test_nobody_logs_in_without_a_password(tmp_path: Path) -> None:
    with running_smtp(tmp_path) as smtp:
        await send(smtp.mail_server("tally", None))
        assert [taken.user for taken in smtp.taken] == [None]


async def test_a_server_that_is_not_to_be_trusted_gets_nothing(tmp_path: Path) -> None:
    with running_smtp(tmp_path / "one", "starttls") as smtp, running_smtp(tmp_path / "other", "starttls") as other:
        trusting_the_other = MailServer(
            "localhost", smtp.port, "a@b.test", "starttls", ca_file=other.folder / "ca.pem", timeout_seconds=5
        )
        with pytest.raises(MailServerAway):
            await send(trusting_the_other)
        assert smtp.taken == []


async def test_encryption_that_is_asked_for_is_not_done_without(tmp_path: Path) -> None:
    with running_smtp(tmp_path, "none") as smtp:
        with pytest.raises(MailServerAway):
            await send(MailServer("localhost", smtp.port, "a@b.test", "starttls", timeout_seconds=5))
        assert smtp.taken == []


async def test_a_wrong_password_says_only_that(tmp_path: Path) -> None:
    with running_smtp(tmp_path, "starttls", "tally", PASSWORD) as smtp:
        with pytest.raises(MailServerAway) as away:
            await send(smtp.mail_server("tally", "wrong staple"))
        assert str(away.value) == "SMTPAuthenticationError: 535"
        assert "wrong staple" not in repr(smtp.mail_server("tally", "wrong staple"))


async def test_what_the_server_says_of_a_letter(tmp_path: Path) -> None:
    with running_smtp(tmp_path) as smtp:
        server = smtp.mail_server(timeout_seconds=1)
        smtp.behave("refuse")
        with pytest.raises(LetterRefused, match=r"^SMTPRecipientsRefused: 550$"):
            await send(server)
        smtp.behave("delay")
        with pytest.raises(LetterDelayed, match=r"^SMTPRecipientsRefused: 450$"):
            await send(server)
        smtp.behave("hang")
        with pytest.raises(MailServerAway, match="Timeout"):
            await send(server)
        smtp.behave("refuse-some")
        remark = await send(server, Letter("s", "t", None, ("ada@lab.test", "nobody@lab.test"), ()))
        assert remark == "1 of 2 recipients were refused"
        assert [taken.to for taken in smtp.taken] == [["ada@lab.test"]]


async def test_an_address_that_nobody_can_write_to_holds_up_no_other(tmp_path: Path) -> None:
    with running_smtp(tmp_path) as smtp:
        async with connected(smtp.mail_server()) as mailer:
            with pytest.raises(LetterRefused):
                await mailer.send(Letter("s", "t", None, ("jörg@lab.test",), ()), ID, AT)
            await mailer.send(LETTER, ID, AT)
        assert len(smtp.taken) == 1


async def test_nobody_there(tmp_path: Path) -> None:
    with running_smtp(tmp_path) as smtp:
        server = smtp.mail_server()
    with pytest.raises(MailServerAway):
        await send(server)


async def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    with running_smtp(tmp_path, "starttls") as smtp:
        without = MailServer(
            "localhost", smtp.port, "a@b.test", "starttls", ca_file=tmp_path / "none", timeout_seconds=5
        )
        with pytest.raises(MailServerAway, match="FileNotFoundError"):
            await send(without)
