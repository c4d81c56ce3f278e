"""From a charge to a mailbox: through the job, a real server, its absence, and the death of whoever sends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from tallystick.customers.maintainers import put_maintainers
from tallystick.kernel.clock import TestClock
from tallystick.kernel.errors import Conflict
from tallystick.notices.dispatch import CLAIM, Dispatch
from tallystick.notices.service import FIRST_PAUSE, MAX_ATTEMPTS
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tests.metering.books import assert_books_hold
from tests.notices.conftest import define, instruct, raised
from tests.notices.smtp import SmtpServer, running_smtp
from tests.waiting import until

SENDING = """
import asyncio, sys
from datetime import datetime
from tallystick.kernel.clock import TestClock
from tallystick.notices.dispatch import Dispatch
from tallystick.service import open_service
from tallystick.settings import Settings

async def main(url, now):
    clock = TestClock(datetime.fromisoformat(now))
    settings = Settings(dev=True, mail_timeout_seconds=60)
    async with open_service(settings, url, clock) as service:
        await Dispatch(service.pool, clock, service.notices, settings.mail_server).send_due()

asyncio.run(main(*sys.argv[1:]))
"""
"""What a worker does, as a program."""

PASSWORD = "planted-9f3b1c"  # pragma: allowlist secret


def settings_of(smtp: SmtpServer, **others: Any) -> Settings:
    return Settings(
        dev=True,
        database_pool_size=4,
        mail_smtp_server="localhost",
        mail_smtp_port=smtp.port,
        mail_security=smtp.kind,
        mail_ca_file=smtp.folder / "ca.pem",
        mail_timeout_seconds=2,
        mail_from="billing@example.org",
        governance_mail="board@example.org",
        **others,
    )


@pytest.fixture
def smtp(tmp_path: Path) -> Iterator[SmtpServer]:
    with running_smtp(tmp_path / "smtp", "starttls", "tally", PASSWORD) as server:
        yield server


@pytest.fixture
async def service(database_url: str, clock: TestClock, smtp: SmtpServer) -> AsyncIterator[Service]:
    settings = settings_of(smtp, mail_smtp_user="tally", mail_smtp_password=PASSWORD)
    async with open_service(settings, database_url, clock) as service:
        yield service
        await assert_books_hold(service)


def sending_process(database_url: str, clock: TestClock, smtp: SmtpServer) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "MAIL_SMTP_SERVER": "localhost",
        "MAIL_SMTP_PORT": str(smtp.port),
        "MAIL_SMTP_USER": "tally",
        "MAIL_SMTP_PASSWORD": PASSWORD,
        "MAIL_FROM": "billing@example.org",
        "TALLY_MAIL_CA_FILE": str(smtp.folder / "ca.pem"),
    }
    arguments = [database_url, clock.now().isoformat()]
    return subprocess.Popen([sys.executable, "-c", SENDING, *arguments], env=environment, stdout=subprocess.DEVNULL)


async def send(service: Service) -> int:
    server = service.settings.mail_server
    assert server is not None
    return await Dispatch(service.pool, service.clock, service.notices, server).send_due()


async def to_half(service: Service, key: str, *maintainers: str) -> None:
    """A customer that has come to half of its credits."""
    await instruct(service, "open", key, 100)
    async with service.pool.connection() as conn, conn.transaction():
        customer = await service.customers.get(conn, key)
        await put_maintainers(conn, customer.id, maintainers)
    await instruct(service, "bill", key, 55)


async def states(service: Service) -> list[tuple[str, str, int, str | None]]:
    return sorted((each.customer, each.state, each.attempts, each.error) for each in await raised(service))


async def in_state(service: Service, wanted: str) -> bool:
    return [state for _, state, _, _ in await states(service)] == [wanted]


async def has_taken(smtp: SmtpServer) -> bool:
    return bool(smtp.taken)


async def test_whoever_looks_after_a_customer_gets_a_letter_and_the_board_a_copy(
    service: Service, smtp: SmtpServer
) -> None:
    await to_half(service, "lab", "ada@example.org", "bob@example.org")
    assert (await states(service)) == [("lab", "waiting", 0, None)]
    assert await send(service) == 1
    (taken,) = smtp.taken
    assert (taken.user, taken.tls) == ("tally", True)
    assert taken.to == ["ada@example.org", "bob@example.org", "board@example.org"]
    message = taken.message
    assert (message["To"], message["Cc"]) == ("ada@example.org, bob@example.org", "board@example.org")
    assert message["Subject"] == "50% Credits left for Project lab"
    for text in (taken.text(), taken.text("html")):
        assert "lab has 45 credits left of 100 credits granted" in " ".join(text.split())
    (sending,) = await raised(service)
    assert (sending.state, sending.attempts, sending.sent_at) == ("sent", 1, service.clock.now())
    assert message["Message-ID"] == f"<notice.{sending.notice.id}@example.org>"
    assert await send(service) == 0


async def test_a_worker_sends_by_itself(service: Service, smtp: SmtpServer) -> None:
    async with service.due.running(), service.worker.running():
        await to_half(service, "lab", "ada@example.org")
        await until(lambda: in_state(service, "sent"))
    assert len(smtp.taken) == 1


async def test_one_job_at_a_time_is_asked_for(service: Service) -> None:
    await to_half(service, "lab", "ada@example.org")
    for _ in range(3):
        await service.due.run_due()
    async with service.pool.connection() as conn:
        jobs = await service.jobs.page(conn, None, None, 10)
    assert [(job.name, dict(job.args)) for job in jobs.items] == [("send-notices", {})]


async def test_a_server_that_is_away_is_asked_again_later_and_loses_nothing(
    service: Service, smtp: SmtpServer, clock: TestClock
) -> None:
    smtp.process.send_signal(signal.SIGSTOP)  # so it accepts, and never answers
    for number in range(25):
        await to_half(service, f"lab-{number:02}", "ada@example.org")
    assert await send(service) == 0
    assert {(state, attempts) for _, state, attempts, _ in await states(service)} == {("waiting", 1)}
    assert {error for *_, error in await states(service)} == {"SMTPConnectTimeoutError"}
    assert await send(service) == 0  # nothing is due
    smtp.process.send_signal(signal.SIGCONT)
    clock.advance(FIRST_PAUSE)
    assert await send(service) == 25
    assert {(state, attempts) for _, state, attempts, _ in await states(service)} == {("sent", 2)}
    assert len({taken.message["Message-ID"] for taken in smtp.taken}) == 25


async def test_several_who_send_at_once_send_each_letter_once(service: Service, smtp: SmtpServer) -> None:
    for number in range(30):
        await to_half(service, f"lab-{number:02}", "ada@example.org")
    sent = await asyncio.gather(*(send(service) for _ in range(3)))
    while any(state == "waiting" for _, state, _, _ in await states(service)):  # one may have found nothing left for it
        sent.append(await send(service))
    assert sum(sent) == 30
    assert len({taken.message["Message-ID"] for taken in smtp.taken}) == len(smtp.taken) == 30


async def test_pauses_double_and_end(service: Service, smtp: SmtpServer, clock: TestClock) -> None:
    await to_half(service, "lab", "ada@example.org")
    smtp.behave("delay")
    pauses = []
    while (due := (await raised(service))[0].due_at) is not None:
        pauses.append(due - clock.now())
        clock.set(due)
        await send(service)
    hour = timedelta(hours=1)
    assert pauses[1:8] == [timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 16, 32)] + [hour]
    assert (set(pauses[8:]), len(pauses)) == ({hour}, MAX_ATTEMPTS)
    assert await states(service) == [("lab", "failed", MAX_ATTEMPTS, "SMTPRecipientsRefused: 450")]


async def test_what_failed_is_sent_by_hand(service: Service, smtp: SmtpServer) -> None:
    await to_half(service, "lab", "ada@example.org")
    smtp.behave("refuse")
    await send(service)
    assert await states(service) == [("lab", "failed", 1, "SMTPRecipientsRefused: 550")]
    smtp.behave("")
    (failed,) = await raised(service)
    async with service.pool.connection() as conn, conn.transaction():
        again = await service.notices.retry(conn, failed.notice.id)
        with pytest.raises(Conflict):
            await service.notices.retry(conn, failed.notice.id)
    assert (again.state, again.attempts) == ("waiting", 0)
    assert await send(service) == 1
    assert await states(service) == [("lab", "sent", 1, None)]


async def test_nobody_to_write_to_is_said_and_mended(database_url: str, clock: TestClock, smtp: SmtpServer) -> None:
    settings = settings_of(smtp, mail_smtp_user="tally", mail_smtp_password=PASSWORD)
    async with open_service(settings.model_copy(update={"governance_mail": None}), database_url, clock) as service:
        await to_half(service, "lab")
        assert await send(service) == 0
        assert await states(service) == [("lab", "unaddressed", 1, "nobody is known to write to")]
        async with service.pool.connection() as conn, conn.transaction():
            customer = await service.customers.get(conn, "lab")
            await put_maintainers(conn, customer.id, ["ada@example.org"])
            await service.notices.retry(conn, (await raised(service))[0].notice.id)
        assert await send(service) == 1


async def test_everything_goes_to_whom_the_setting_says(database_url: str, clock: TestClock, smtp: SmtpServer) -> None:
    settings = settings_of(
        smtp, mail_smtp_user="tally", mail_smtp_password=PASSWORD, notification_to_overwrite="test@example.org"
    )
    async with open_service(settings, database_url, clock) as service:
        await to_half(service, "lab", "ada@example.org")
        await send(service)
    (taken,) = smtp.taken
    assert (taken.to, taken.message["To"], taken.message["Cc"]) == (["test@example.org"], "test@example.org", None)


async def test_a_letter_that_cannot_be_written_holds_up_no_other(service: Service, smtp: SmtpServer) -> None:
    await to_half(service, "bad", "ada@example.org")
    await to_half(service, "good", "bob@example.org")
    async with service.pool.connection() as conn:  # behind the back of the checks
        await conn.execute(
            "update notices set kind = 'balance', threshold = 'NaN'"
            " where customer_id = (select id from customers where key = 'bad')"
        )
    assert await send(service) == 1
    bad, good = await states(service)
    assert (good[1], bad[1]) == ("sent", "waiting")
    assert str(bad[3]).startswith("it cannot be written: ")


async def test_whoever_dies_before_noting_it_has_it_sent_once_more_under_the_same_id(
    service: Service, smtp: SmtpServer, clock: TestClock, database_url: str
) -> None:
    await to_half(service, "lab", "ada@example.org")
    smtp.behave("keep-and-hang")
    process = sending_process(database_url, clock, smtp)
    try:
        await until(lambda: has_taken(smtp))  # and has not said so
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    smtp.behave("")
    assert await send(service) == 0  # the claim of the dead still holds
    clock.advance(CLAIM)
    assert await send(service) == 1
    first, second = smtp.taken
    assert first.message["Message-ID"] == second.message["Message-ID"]
    assert await states(service) == [("lab", "sent", 1, None)]


async def test_charging_does_not_wait_for_a_server_that_hangs(service: Service, smtp: SmtpServer) -> None:
    smtp.behave("hang")
    await to_half(service, "lab", "ada@example.org")
    sending = asyncio.create_task(send(service))
    for _ in range(20):
        await instruct(service, "bill", "lab", 1)
    assert not sending.done()
    assert await sending == 0


async def test_without_a_mail_server_notices_are_raised_and_not_sent(database_url: str, clock: TestClock) -> None:
    async with open_service(Settings(dev=True, database_pool_size=4), database_url, clock) as service:
        await to_half(service, "lab", "ada@example.org")
        (sending,) = await raised(service)
        assert (sending.state, sending.due_at) == ("unsent", None)
        async with service.pool.connection() as conn, conn.transaction():
            with pytest.raises(Conflict, match="MAIL_SMTP_SERVER"):
                await service.notices.retry(conn, sending.notice.id)


async def test_a_rule_that_was_removed_meanwhile_is_told_as_usual(service: Service, smtp: SmtpServer) -> None:
    await instruct(service, "open", "lab", 100)
    rule = await define(
        service, "share", "0.9", customer="lab", recipients=("ada@example.org",), subject="Own", body="Own $project"
    )
    await instruct(service, "bill", "lab", 10)
    async with service.pool.connection() as conn, conn.transaction():
        await service.notices.remove(conn, rule.id)
    await send(service)
    (taken,) = smtp.taken
    assert (taken.to, taken.message["Subject"]) == (["board@example.org"], "90% Credits left for Project lab")


async def test_a_template_of_ones_own_is_sent_as_text(service: Service, smtp: SmtpServer) -> None:
    await instruct(service, "open", "lab", 100)
    await define(
        service,
        "share",
        "0.9",
        customer="lab",
        recipients=("ada@example.org",),
        subject="$project: $credits_left left",
        body="Used $credits_used of $credits_granted. Ask ${desk}, it costs $$1.",
        placeholders={"desk": "the desk"},
    )
    await instruct(service, "bill", "lab", 10)
    await send(service)
    (taken,) = smtp.taken
    assert taken.message["Subject"] == "lab: 90.00 left"
    assert taken.text().strip() == "Used 10.00 of 100.00. Ask the desk, it costs $1."
    assert taken.message.get_content_type() == "text/plain"


async def test_no_password_is_written_anywhere(
    service: Service, smtp: SmtpServer, clock: TestClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor an address where it need not be: in logs, arguments of jobs, and rows other than those that name people."""
    with structlog.testing.capture_logs() as logged:
        await to_half(service, "lab", "planted-ada@example.org")
        smtp.behave("delay")
        await send(service)
        smtp.process.kill()
        clock.advance(timedelta(days=1))
        await service.due.run_due()
        await send(service)
    async with service.pool.connection() as conn:
        tables = await conn.execute("select tablename from pg_tables where schemaname = 'public'")
        kept = {}
        for (table,) in await tables.fetchall():
            rows = await (await conn.execute(f'select "{table}"::text from "{table}"'.encode())).fetchall()
            kept[table] = "\n".join(row for (row,) in rows)
    told = json.dumps(logged, default=str) + caplog.text + repr(service.settings) + repr(service.settings.mail_server)
    assert "mail.server_away" in told
    assert PASSWORD not in told + "".join(kept.values())
    assert "planted-ada" not in told
    assert {table for table, text in kept.items() if "planted-ada" in text} == {"customer_maintainers"}
