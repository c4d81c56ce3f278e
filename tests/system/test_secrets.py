"""Secrets that people entrust to the service, shown at the right door and at wrong ones: nobody reads them anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from tallystick.access.callers import Scope
from tests.doubles.capi import CLIENT_ID, Capi
from tests.doubles.webhook_receiver import Receiver
from tests.notices.smtp import SmtpServer, running_smtp
from tests.system.conftest import MakeServer, Server
from tests.system.monitoring import eventually

pytestmark = pytest.mark.integration

PLANTED = "planted"
"""Every secret has it, and nothing else does."""

CUSTOMER = "ada"


def secret(name: str) -> str:
    return f"{PLANTED}-{name}-{token_hex(12)}"


@dataclass
class Spy:
    """Calls the service, and keeps whatever it answers."""

    url: str
    admin: str
    heard: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, document: object = None, **headers: str) -> httpx.Response:
        sent = headers or {"Authorization": f"Bearer {self.admin}"}
        answer = httpx.request(method, self.url + path, json=document, headers=sent, timeout=60)
        self.heard.append(f"{answer.headers}\n{answer.text}")
        return answer

    def make(self, path: str, document: object, shown: str) -> tuple[Any, str]:
        """What is made, and the secret that is shown in this one answer, which is not kept."""
        answer = self.ask("POST", path, document)
        assert answer.is_success, answer.text
        self.heard.pop()
        return answer.json(), answer.json()[shown]


@pytest.fixture
def platform() -> Iterator[Capi]:
    capi = Capi()
    yield capi
    capi.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[SmtpServer]:
    """It wants another password than it gets."""
    with running_smtp(tmp_path / "mail", "starttls", "billing", "another") as server:
        yield server


def test_no_secret_is_told(make_server: MakeServer, platform: Capi, receiver: Receiver, mail: SmtpServer) -> None:
    kept = {name: secret(name) for name in ("client", "admin", "token", "second", "platform", "broker", "mail")}
    server = make_server()
    server.options = ()
    server.settings = {
        "TALLY_LOG_LEVEL": "DEBUG",
        "TALLY_API_KEYS": kept["client"],
        "TALLY_ADMIN_API_KEYS": kept["admin"],
        "TALLY_AUTH_TOKEN": kept["token"],
        "TALLY_TWO_FA": kept["second"],
        "TALLY_CF_API_URL": platform.url,
        "TALLY_CF_CLIENT_ID": CLIENT_ID,
        "TALLY_CF_CLIENT_SECRET": kept["platform"],
        "TALLY_ENABLE_EVENTS": "true",
        "TALLY_CLOUDAMQP_URL": f"amqp://tally:{kept['broker']}@127.0.0.1:1/",
        "TALLY_MAIL_SMTP_SERVER": "localhost",
        "TALLY_MAIL_SMTP_PORT": str(mail.port),
        "TALLY_MAIL_SMTP_USER": "billing",
        "TALLY_MAIL_SMTP_PASSWORD": kept["mail"],
        "TALLY_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "SSL_CERT_FILE": str(mail.folder / "ca.pem"),
    }
    spy = Spy(server.start().url, kept["admin"])
    made = [*_keys(spy), *_webhook(spy, receiver)]
    _usage(spy)
    for each in (*kept.values(), *made):
        _show_everywhere(spy, each)
    _wrong_second_factor(spy, kept["token"], kept["second"])

    tables = dict(_tables(server))
    server.stop()
    del tables["webhook_endpoints"]  # which must sign with its secret
    places = {"answers": "\n".join(spy.heard), **_logs(server.data_dir), **tables}
    found = {name: each for name, text in places.items() for each in (*kept.values(), *made) if each in text}
    assert found == {}
    assert PLANTED not in places["answers"]
    assert {"outbox_events", "notices", "procrastinate_jobs", "webhook_deliveries"} <= tables.keys()


def _keys(spy: Spy) -> list[str]:
    """Keys that work, that have been replaced, and that are revoked."""
    assert spy.ask("POST", "/api/v1/customers", {"key": CUSTOMER, "credit_policy": "prepaid"}).status_code == 201
    scopes = [Scope.USAGE_WRITE, Scope.BILLING_READ]
    key, first = spy.make("/api/v1/keys", {"name": "app", "scopes": scopes, "customer": CUSTOMER}, "key")
    _, second = spy.make(f"/api/v1/keys/{key['id']}/rotate", {"overlap": 60}, "key")
    revoked, third = spy.make("/api/v1/keys", {"name": "lost", "scopes": scopes}, "key")
    assert spy.ask("DELETE", f"/api/v1/keys/{revoked['id']}").is_success
    assert spy.ask("GET", f"/api/v1/customers/{CUSTOMER}", Authorization=f"Bearer {second}").status_code == 200
    assert spy.ask("GET", f"/api/v1/customers/{CUSTOMER}", Authorization=f"Bearer {third}").status_code == 403
    assert spy.ask("GET", "/api/v1/keys").status_code == 200
    return [first, second, third]


def _webhook(spy: Spy, receiver: Receiver) -> list[str]:
    """An endpoint that fails."""
    receiver.behave("/hook", 500)
    made, first = spy.make("/api/v1/webhooks", {"url": f"{receiver.url}/hook"}, "secret")
    _, second = spy.make(f"/api/v1/webhooks/{made['id']}/rotate", {}, "secret")
    return [first, second]


def _usage(spy: Spy) -> None:
    """Usage that crosses a level whose notice nobody can send, and readings that nobody lets us take."""
    assert spy.ask("PUT", f"/api/v1/customers/{CUSTOMER}/maintainers", {"maintainers": ["ada@example.org"]}).is_success
    granted = {"amount": "10", "asset": "CREDIT", "reason": "start"}
    assert spy.ask("POST", f"/api/v1/customers/{CUSTOMER}/grants", granted).is_success
    assert spy.ask("PUT", "/api/v1/meters/tokens", {}).is_success
    model = {"type": "per_unit", "amount": "1", "per": "1"}
    price = {"meter": "tokens", "effective_from": "2020-01-01T00:00:00Z", "model": model}
    assert spy.ask("POST", "/api/v1/prices", price).is_success
    event = {"specversion": "1.0", "id": "1", "source": "app", "type": "tokens", "subject": CUSTOMER}
    assert spy.ask("POST", "/api/v1/events", [{**event, "data": {"value": 9}}]).is_success
    spy.ask("POST", "/api/v1/readings", {})

    def refused() -> bool:
        notices = spy.ask("GET", "/api/v1/notices").json()["items"]
        return any(notice["error"] for notice in notices)

    eventually(refused, "notice that the mail server refused")


def _show_everywhere(spy: Spy, shown: str) -> None:
    """At doors where it opens, and where it does not, and where nobody would look for it."""
    for path in ("/api/v1/customers", "/api/v1/users", "/api/v1/verify", "/admin/tier", "/accounts", "/nowhere"):
        spy.ask("GET", path, Authorization=f"Bearer {shown}")
        spy.ask("GET", path, Authorization=f"Basic {shown}")
        spy.ask("GET", path, **{"X-Token": shown})
    spy.ask("POST", "/write", **{"Authorization": f"Token {shown}", "Content-Type": "text/plain"})
    spy.ask("POST", "/dev/erase_db", **{"X-Token": shown, "TWO-FA": shown})


def _wrong_second_factor(spy: Spy, token: str, second: str) -> None:
    assert spy.ask("POST", "/dev/erase_db", **{"X-Token": token, "TWO-FA": token}).status_code == 400
    assert spy.ask("POST", "/dev/erase_db", **{"X-Token": second, "TWO-FA": second}).status_code == 400


def _tables(server: Server) -> Iterator[tuple[str, str]]:
    """All that is in the books, as text, by table."""
    host = str(server.data_dir / "postgres" / "run")
    with psycopg.connect(host=host, user="tally", dbname="tally") as conn:
        names = conn.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        for (name,) in names:
            rows = conn.execute(sql.SQL("select t::text from {} as t").format(sql.Identifier(name))).fetchall()
            yield name, "\n".join(text for (text,) in rows)


def _logs(folder: Path) -> dict[str, str]:
    """What the service and its PostgreSQL have written about themselves."""
    found = {str(path): path.read_text(errors="replace") for path in folder.rglob("*.log")}
    assert len(found) >= 2, "a log of ours, and one of PostgreSQL"
    return found
