"""Assets: credits and currencies, each with the number under which the ledger keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import AsyncConnection

from tallystick.kernel.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Asset:
    """A unit of account. Amounts count 10^-6 of it."""

    code: str
    ledger: int
    name: str


class Assets:
    """The assets that exist. Works in the caller's transaction."""

    async def all(self, conn: AsyncConnection) -> dict[str, Asset]:
        """Assets by code."""
        rows = await (await conn.execute("select code, ledger, name from assets")).fetchall()
        return {row[0]: Asset(*row) for row in rows}

    async def get(self, conn: AsyncConnection, code: str, field: str = "asset") -> Asset:
        """The asset with this code. Raises ``InvalidInput``."""
        assets = await self.all(conn)
        if code not in assets:
            raise InvalidInput(f"{field} must be one of {', '.join(sorted(assets))}", field=field)
        return assets[code]
