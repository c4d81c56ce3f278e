"""On whose behalf letters are written, and through which server they go. Settings say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from tallystick.notices.placeholders import OwnTemplate

Security = Literal["starttls", "tls", "none"]
"""``starttls``: the server must take up TLS. ``tls``: it is there from the start. ``none``: nothing is encrypted."""


@dataclass(frozen=True, slots=True)
class Office:
    """Who writes.

    ``governance`` is an address that rules may name, ``overwrite`` one that gets every letter instead of its
    recipients. ``link`` is where customers see what they used. Days are those of ``zone``.
    """

    zone: ZoneInfo
    governance: str | None = None
    overwrite: str | None = None
    link: str | None = None
    templates: Mapping[str, OwnTemplate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where letters go, and as whom. It is logged in to only with both a user and a password."""

    host: str
    port: int
    sender: str
    security: Security = "starttls"
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """Certificates that are trusted besides the machine's."""
    timeout_seconds: int = 10
