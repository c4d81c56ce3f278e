"""Who looks after a customer: the addresses that hear of its balance, besides its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.customers.service import check_email
from tallystick.database.queries import Queries
from tallystick.kernel.errors import InvalidInput

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_MAINTAINERS: Final = 50


async def maintainers_of(conn: AsyncConnection, customer_id: UUID) -> list[str]:
    """The addresses, in their order. Whoever deletes a customer forgets them."""
    rows = await (await conn.execute(_SQL.of_customer, {"customer_id": customer_id})).fetchall()
    return [email for (email,) in rows]


async def put_maintainers(conn: AsyncConnection, customer_id: UUID, emails: Sequence[str]) -> list[str]:
    """Makes these the maintainers, and nobody else, in the caller's transaction. Raises ``InvalidInput``."""
    if len(emails) > MAX_MAINTAINERS:
        raise InvalidInput(f"maintainers must be at most {MAX_MAINTAINERS}", field="maintainers")
    known: set[str] = set()
    for email in emails:
        try:
            check_email(email)
        except InvalidInput as error:
            raise InvalidInput(f"maintainers: {error.detail}", field="maintainers") from None
        if email.lower() in known:
            raise InvalidInput(f"maintainers must be named once: {email!r} is there twice", field="maintainers")
        known.add(email.lower())
    parameters = {"customer_id": customer_id, "emails": list(emails)}
    await conn.execute(_SQL.keep_only, parameters)
    await conn.execute(_SQL.add, parameters)
    return await maintainers_of(conn, customer_id)
