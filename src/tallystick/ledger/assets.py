"""Assets: credits, the currencies of ISO 4217, and one's own, each with the number under which the ledger keeps it.

Amounts of every asset count 10^-6 of it. ``scale`` is how many decimals people see, ``symbol`` how it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from tallystick.database.queries import Queries
from tallystick.kernel.errors import Conflict, InvalidInput, NotFound
from tallystick.kernel.paging import Page, next_cursor, read_cursor
from tallystick.kernel.text import check_key

_SQL = Queries(Path(__file__).with_suffix(".sql"))

MAX_SCALE = 6
"""Decimals of a microunit: no asset shows more than the ledger counts."""

RESERVED_LEDGERS = 1_000
"""Numbers up to this one are those of ISO 4217, and 1 for credits. Assets of one's own get higher ones."""

MAX_OWN_ASSETS = 1_000
"""Assets that may be made besides credits and currencies."""

MAX_SYMBOL_CHARACTERS = 16

_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,15}")


@dataclass(frozen=True, slots=True)
class Asset:
    """A unit of account. ``ledger`` is the number by which accounts and transfers know it."""

    code: str
    ledger: int
    name: str
    scale: int
    symbol: str


class Assets:
    """The assets that exist. Works in the caller's transaction."""

    async def all(self, conn: AsyncConnection) -> dict[str, Asset]:
        """Assets by code: some 160, at most ``MAX_OWN_ASSETS`` more."""
        return {row[0]: Asset(*row) for row in await (await conn.execute(_SQL.all)).fetchall()}

    async def held(self, conn: AsyncConnection, customer_id: UUID) -> dict[int, Asset]:
        """By ledger number, the assets in which a customer has accounts: mostly one or two of all there are."""
        rows = await (await conn.execute(_SQL.held, {"customer_id": customer_id})).fetchall()
        return {row[1]: Asset(*row) for row in rows}

    async def get(self, conn: AsyncConnection, code: str, field: str = "asset") -> Asset:
        """The asset that a request names. Raises ``InvalidInput``."""
        if (asset := await self._find(conn, code, field)) is None:
            raise InvalidInput(f"{field} names no asset: {code!r}", field=field)
        return asset

    async def named(self, conn: AsyncConnection, code: str) -> Asset:
        """The asset with this code. Raises ``NotFound``."""
        if (asset := await self._find(conn, code, "code")) is None:
            raise NotFound(f"there is no asset {code!r}", field="code")
        return asset

    async def page(self, conn: AsyncConnection, cursor: str | None, limit: int) -> Page[Asset]:
        """Assets in the order of their codes."""
        (after,) = read_cursor(cursor, 1) or ("",)
        rows = await (await conn.execute(_SQL.page, {"after": after, "limit": limit + 1})).fetchall()
        assets = [Asset(*row) for row in rows[:limit]]
        return Page(assets, next_cursor(assets[-1].code) if len(rows) > limit else None)

    async def put(
        self, conn: AsyncConnection, code: str, name: str, symbol: str | None = None, scale: int | None = None
    ) -> Asset:
        """Creates an asset, or changes its name, and its symbol if one is given.

        Without a symbol a new one is written with its code; without a scale it shows six decimals. Raises
        ``InvalidInput``, ``Conflict`` if the asset has another scale, or if there are ``MAX_OWN_ASSETS`` already.
        """
        _check(code, name, symbol, scale)
        await conn.execute(_SQL.lock)
        known = await self._find(conn, code, "code")
        if known is None:
            return await self._create(conn, code, name, symbol or code, MAX_SCALE if scale is None else scale)
        if scale is not None and scale != known.scale:
            raise Conflict(f"the scale of {code} is {known.scale} and cannot change", field="scale")
        parameters = {"code": code, "name": name, "symbol": symbol or known.symbol}
        (row,) = await (await conn.execute(_SQL.change, parameters)).fetchall()
        return Asset(*row)

    async def _create(self, conn: AsyncConnection, code: str, name: str, symbol: str, scale: int) -> Asset:
        parameters = {"code": code, "name": name, "symbol": symbol, "scale": scale}
        numbers = {"reserved": RESERVED_LEDGERS, "last": RESERVED_LEDGERS + MAX_OWN_ASSETS}
        row = await (await conn.execute(_SQL.create, parameters | numbers)).fetchone()
        if row is None:
            raise Conflict(f"there are {MAX_OWN_ASSETS} own assets already, the most there may be", field="code")
        return Asset(*row)

    async def _find(self, conn: AsyncConnection, code: str, field: str) -> Asset | None:
        check_key(code, field)
        row = await (await conn.execute(_SQL.get, {"code": code})).fetchone()
        return Asset(*row) if row else None


def _check(code: str, name: str, symbol: str | None, scale: int | None) -> None:
    if not _CODE.fullmatch(code):
        raise InvalidInput(
            "code must be 2 to 16 capital letters, digits or underscores, the first one a letter", field="code"
        )
    check_key(name, "name")
    if symbol is not None and len(check_key(symbol, "symbol")) > MAX_SYMBOL_CHARACTERS:
        raise InvalidInput(f"symbol must have at most {MAX_SYMBOL_CHARACTERS} characters", field="symbol")
    if scale is not None and not 0 <= scale <= MAX_SCALE:
        raise InvalidInput(f"scale must be from 0 to {MAX_SCALE}", field="scale")
