"""Writes the secrets of ``compose.yaml`` into a file that only its owner can read: ``python new_env.py .env``.

One that is there stays as it is: what it says is in the databases already.
"""

from __future__ import annotations

import os
import secrets
import sys


def text() -> str:
    """Variables, one a line, each with a secret that nobody has had before."""
    rabbitmq = secrets.token_urlsafe(24)
    variables = {
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "RABBITMQ_PASSWORD": rabbitmq,
        "CLOUDAMQP_URL": f"amqp://tally:{rabbitmq}@rabbitmq:5672/",
        "API_KEYS": secrets.token_urlsafe(24),
        "ADMIN_API_KEYS": secrets.token_urlsafe(24),
        "AUTH_TOKEN": secrets.token_urlsafe(24),
        "TWO_FA": secrets.token_urlsafe(24),
    }
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def main(path: str) -> None:
    """Makes the file, unless it is there."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text())


if __name__ == "__main__":
    main(sys.argv[1])
