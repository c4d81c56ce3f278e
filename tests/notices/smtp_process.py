"""A real SMTP server (aiosmtpd), to be run as a process: it keeps what it takes as files, and does as it is told.

``FOLDER/mode`` may say: ``refuse`` (a recipient never), ``refuse-some`` (whoever has "nobody" in the address),
``delay`` (not now), ``hang`` (no answer), ``keep-and-hang`` (takes it, and does not say so).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class Keeping:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def _mode(self) -> str:
        file = self._folder / "mode"
        return file.read_text() if file.exists() else ""

    async def handle_RCPT(  # noqa: N802 the library's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self._mode == "refuse" or (self._mode == "refuse-some" and "nobody" in address):
            return f"550 there is no {address} here"
        if self._mode == "delay":
            return "450 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self._mode == "hang":
            await asyncio.sleep(3600)
        login: Any = session.auth_data
        content = envelope.content
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "user": login.login.decode() if isinstance(login, LoginPassword) else None,
            "tls": session.ssl is not None,
            "content": content.decode() if isinstance(content, bytes) else content,
        }
        name = f"{len(list(self._folder.glob('*.json'))):06}.json"
        (self._folder / f"{name}.part").write_text(json.dumps(kept))
        (self._folder / f"{name}.part").rename(self._folder / name)
        if self._mode == "keep-and-hang":
            await asyncio.sleep(3600)
        return "250 taken"


def _authenticator(user: str, password: str) -> Any:
    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        known = data.login.decode() == user and data.password.decode() == password
        return AuthResult(success=known, handled=False, auth_data=data)

    return authenticate


async def main(folder: Path, kind: str, user: str, password: str) -> None:
    context = None
    if kind != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "server.pem")
    options: dict[str, Any] = {"hostname": "mail.test", "enable_SMTPUTF8": False}
    if user:
        options |= {"authenticator": _authenticator(user, password), "auth_required": True}
        options |= {"auth_require_tls": kind == "starttls"}
    if kind == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Keeping(folder), **options), "127.0.0.1", 0, ssl=context if kind == "tls" else None
    )
    port = server.sockets[0].getsockname()[1]
    (folder / "port.part").write_text(str(port))
    (folder / "port.part").rename(folder / "port")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(
        main(Path(sys.argv[1]), sys.argv[2], os.environ.get("SMTP_USER", ""), os.environ.get("SMTP_PASSWORD", ""))
    )
