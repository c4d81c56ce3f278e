"""Starts real SMTP servers, each a process of its own, and reads what they took."""

from __future__ import annotations

import email
import email.policy
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tallystick.notices.office import MailServer, Security

ROOT = Path(__file__).parents[2]
START_SECONDS = 30


@dataclass(frozen=True)
class Taken:
    """A message, and how it came."""

    sender: str
    to: list[str]
    user: str | None
    tls: bool
    message: EmailMessage

    def text(self, kind: str = "plain") -> str:
        part = self.message.get_body((kind,))
        assert part is not None
        return str(part.get_content())


@dataclass(frozen=True)
class SmtpServer:
    folder: Path
    port: int
    kind: Security
    process: subprocess.Popen[bytes]

    def mail_server(self, user: str | None = None, password: str | None = None, timeout_seconds: int = 5) -> MailServer:
        """As settings would name it."""
        ca_file = self.folder / "ca.pem"
        return MailServer(
            "localhost", self.port, "billing@cloud.test", self.kind, user, password, ca_file, timeout_seconds
        )

    def behave(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    @property
    def taken(self) -> list[Taken]:
        """What it took, in order."""
        kept = [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]
        return [
            Taken(
                each["from"],
                each["to"],
                each["user"],
                each["tls"],
                email.message_from_string(each["content"], policy=email.policy.default),
            )
            for each in kept
        ]


@contextmanager
def running_smtp(folder: Path, kind: Security = "none", user: str = "", password: str = "") -> Iterator[SmtpServer]:
    folder.mkdir(parents=True, exist_ok=True)
    _certify(folder)
    known = {**os.environ, "SMTP_USER": user, "SMTP_PASSWORD": password, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.notices.smtp_process", str(folder), kind],
        cwd=ROOT,
        env=known,
    )
    try:
        yield SmtpServer(folder, _port(folder, process), kind, process)
    finally:
        process.kill()
        process.wait()
        (folder / "port").unlink(missing_ok=True)


def _port(folder: Path, process: subprocess.Popen[bytes]) -> int:
    until = time.monotonic() + START_SECONDS
    while not (folder / "port").exists():
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.02)
    return int((folder / "port").read_text())


def _certify(folder: Path) -> None:
    """A certificate for this machine, signed by itself, which whoever is given ``ca.pem`` trusts."""
    if (folder / "ca.pem").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime(2020, 1, 1, tzinfo=UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + pem)
    (folder / "ca.pem").write_bytes(pem)
