"""The history of wallets over HTTP: pages, filters, past balances, and CSV files as their bytes arrive."""

from __future__ import annotations

import asyncio
import csv
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from io import StringIO
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest

from tallystick.kernel.clock import TestClock
from tallystick.ledger.wallets import Movement, Payer, TransferCode
from tallystick.service import Service
from tallystick.web.native_transactions import COLUMNS, ROWS_AT_ONCE

CUSTOMERS = "/api/v1/customers"
SECOND = timedelta(seconds=1)
Row = dict[str, str]


def at(key: str, *more: str) -> str:
    return "/".join((CUSTOMERS, quote(key, safe=""), *more))


async def history(client: httpx.AsyncClient, key: str, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(at(key, "transactions"), params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def file(client: httpx.AsyncClient, key: str, **query: Any) -> list[Row]:
    answer = await client.get(at(key, "transactions"), params={"format": "csv", **query})
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(StringIO(answer.text, newline="")))


async def grant(
    client: httpx.AsyncClient, key: str, amount: str, reason: str | None = None, asset: str = "CREDIT"
) -> None:
    body = {"asset": asset, "amount": amount, "reason": reason}
    assert (await client.post(at(key, "grants"), json=body)).status_code == 201


async def use(client: httpx.AsyncClient, key: str, value: object, number: int = 1) -> None:
    event = {"id": str(number), "subject": key, "type": "tokens", "data": {"value": value}}
    assert (await client.post("/api/v1/events", json=event)).json()["accepted"] == 1


@pytest.fixture
async def ada(client: httpx.AsyncClient, clock: TestClock) -> AsyncIterator[httpx.AsyncClient]:
    """Ada is prepaid. A second apart: opened with 10, granted 5, billed 2.5, charged 20 of usage, granted 7 USD."""
    await client.put("/api/v1/meters/tokens", json={})
    price = {"meter": "tokens", "effective_from": "2026-01-01T00:00:00Z", "model": {"type": "per_unit", "amount": "2"}}
    await client.post("/api/v1/prices", json=price)
    await client.post("/api/v1/accounts", json={"user_id": "ada", "initial_balance": 10})
    clock.advance(SECOND)
    await grant(client, "ada", "5", "welcome")
    clock.advance(SECOND)
    await client.post("/api/v1/bill", json={"user_id": "ada", "amount": 2.5, "description": "=SUM(A1:A9)"})
    clock.advance(SECOND)
    await use(client, "ada", 10)
    clock.advance(SECOND)
    await grant(client, "ada", "7", asset="USD")
    yield client
    verdict = (await client.get("/api/v1/verify")).json()
    assert verdict["holds"], verdict


async def test_every_movement_is_listed_with_the_balance_after_it(ada: httpx.AsyncClient) -> None:
    answer = (await ada.get(at("ada", "transactions"))).json()
    assert (answer["customer"], answer["payer"], answer["next"]) == ("ada", "ada", None)
    facts = ("created_at", "type", "asset", "amount", "balance_after", "cause", "description")
    assert [tuple(item[name] for name in facts) for item in answer["items"]] == [
        ("2026-11-20T12:00:04Z", "grant", "USD", "7", "7", None, None),
        ("2026-11-20T12:00:03Z", "usage", "CREDIT", "-20", "-7.5", None, None),
        ("2026-11-20T12:00:02Z", "bill", "CREDIT", "-2.5", "12.5", None, "=SUM(A1:A9)"),
        ("2026-11-20T12:00:01Z", "grant", "CREDIT", "5", "15", None, "welcome"),
        ("2026-11-20T12:00:00Z", "top_up", "CREDIT", "10", "10", None, None),
    ]
    shown = (await ada.get(at("ada"))).json()["balances"]
    assert [(one["asset"], one["balance"]) for one in shown] == [("CREDIT", "-7.5"), ("USD", "7")]


async def test_a_hold_is_listed_once_it_is_settled(ada: httpx.AsyncClient, clock: TestClock) -> None:
    await grant(ada, "ada", "17.5")
    asked = {"amount": "4", "description": "one answer"}
    holds = [(await ada.post(at("ada", "holds"), json=asked)).json()["id"] for _ in range(2)]
    held_at = clock.now().isoformat()
    before = await history(ada, "ada")
    assert before[0]["type"] == "grant"
    clock.advance(SECOND)
    settled = await ada.post(at("ada", "holds", holds[0], "settle"), json={"amount": "5"})
    assert settled.status_code == 200, settled.text
    assert (await ada.delete(at("ada", "holds", holds[1]))).is_success
    found = await history(ada, "ada", cause=holds[0])
    facts = ("type", "amount", "balance_after", "cause", "description")
    assert [tuple(one[name] for name in facts) for one in found] == [
        ("hold", "-1", "5", holds[0], "one answer"),
        ("hold", "-4", "6", holds[0], "one answer"),
    ]
    assert await history(ada, "ada") == found + before
    then = (await ada.get(at("ada", "balances"), params={"at": held_at})).json()["balances"][0]
    assert (then["balance"], then["held"], then["available"]) == ("10", "8", "2")
    now = (await ada.get(at("ada", "balances"))).json()["balances"][0]
    assert (now["balance"], now["held"], now["available"]) == ("5", "0", "5")


async def test_filters(ada: httpx.AsyncClient) -> None:
    async def amounts(**query: Any) -> list[str]:
        return [item["amount"] for item in await history(ada, "ada", **query)]

    assert await amounts(type="grant") == ["7", "5"]
    assert await amounts(type=["bill", "usage", "bill"]) == ["-20", "-2.5"]
    assert await amounts(asset="USD") == ["7"]
    assert await amounts(asset="EUR") == []
    assert await amounts(type="grant", asset="CREDIT") == ["5"]
    assert await amounts(since="2026-11-20T12:00:01Z", until="2026-11-20T12:00:03Z") == ["-2.5", "5"]
    assert await amounts(since="2026-11-20T12:00:03Z", until="2026-11-20T12:00:01Z") == []
    assert await amounts(type="expiry") == []
    (charge,) = (await ada.get(at("ada", "charges"))).json()["items"]
    (usage,) = await history(ada, "ada", cause=charge["transfer"])
    assert (usage["id"], usage["type"], usage["balance_after"]) == (charge["transfer"], "usage", "-7.5")
    assert await amounts(cause=str(UUID(int=7))) == []


async def test_pages_are_cut_anywhere_and_stay_while_more_arrives(ada: httpx.AsyncClient) -> None:
    whole = await history(ada, "ada")
    for limit in (1, 2, 5):
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
            page = (await ada.get(at("ada", "transactions"), params=query)).json()
            found += page["items"]
            if (cursor := page["next"]) is None:
                break
            await grant(ada, "ada", "1")
        assert found == whole
        whole = await history(ada, "ada")


async def test_wrong_questions_are_refused_by_name(ada: httpx.AsyncClient) -> None:
    for query, field in (
        ({"type": "gift"}, "type[0]"),
        ({"type": ["grant"] * 50}, "type"),
        ({"cause": "x"}, "cause"),
        ({"asset": "XAU"}, "asset"),
        ({"asset": ""}, "asset"),
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-11-20"}, "until"),
        ({"cursor": "x"}, "cursor"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"format": "pdf"}, "format"),
        ({"format": "csv", "cursor": "WyIxIl0"}, "cursor"),
    ):
        refused = await ada.get(at("ada", "transactions"), params=query)
        assert (refused.status_code, refused.json()["field"]) == (422, field), (query, refused.text)
    for query in ({}, {"format": "csv"}):
        missing = await ada.get(at("nobody", "transactions"), params=query)
        assert (missing.status_code, missing.json()["detail"]) == (404, "there is no customer 'nobody'")


async def test_a_customer_without_a_wallet_has_an_empty_history(client: httpx.AsyncClient) -> None:
    await client.post(CUSTOMERS, json={"key": "new"})
    assert (await client.get(at("new", "transactions"))).json() == {
        "customer": "new",
        "payer": "new",
        "items": [],
        "next": None,
    }
    assert await file(client, "new") == []
    assert (await client.get(at("new", "balances"))).json()["balances"] == []


async def test_whoever_is_paid_for_sees_the_wallet_that_pays(ada: httpx.AsyncClient) -> None:
    await ada.post(CUSTOMERS, json={"key": "p/1", "payer": "ada"})
    await grant(ada, "p/1", "100", "for the project")
    await use(ada, "p/1", 1, number=2)
    answer = (await ada.get(at("p/1", "transactions"))).json()
    assert (answer["customer"], answer["payer"]) == ("p/1", "ada")
    assert [(item["type"], item["amount"], item["description"]) for item in answer["items"][:2]] == [
        ("usage", "-2", None),
        ("grant", "100", "for the project"),
    ]
    assert answer["items"] == await history(ada, "ada")
    balances = (await ada.get(at("p/1", "balances"))).json()
    assert (balances["payer"], balances["balances"][0]["balance"]) == ("ada", "90.5")


# Balances of the past


async def test_the_balance_at_every_instant(ada: httpx.AsyncClient, clock: TestClock) -> None:
    async def then(instant: str) -> list[tuple[str, ...]]:
        answer = await ada.get(at("ada", "balances"), params={"at": instant})
        assert answer.status_code == 200, answer.text
        facts = ("asset", "balance", "arrears", "used", "granted")
        return [tuple(one[name] for name in facts) for one in answer.json()["balances"]]

    nothing = ("USD", "0", "0", "0", "0")
    assert await then("1999-01-01T00:00:00Z") == [("CREDIT", "0", "0", "0", "0"), nothing]
    assert await then("2026-11-20T11:59:59.999999Z") == [("CREDIT", "0", "0", "0", "0"), nothing]
    assert await then("2026-11-20T12:00:00Z") == [("CREDIT", "10", "0", "0", "10"), nothing]
    assert await then("2026-11-20T13:00:01.5+01:00") == [("CREDIT", "15", "0", "0", "15"), nothing]
    assert await then("2026-11-20T12:00:02Z") == [("CREDIT", "12.5", "0", "2.5", "15"), nothing]
    assert await then("2026-11-20T12:00:03Z") == [("CREDIT", "-7.5", "7.5", "22.5", "15"), nothing]
    now = clock.now().isoformat()
    assert (await then(now))[1] == ("USD", "7", "0", "0", "7")
    live = (await ada.get(at("ada", "balances"))).json()
    assert live == (await ada.get(at("ada", "balances"), params={"at": now})).json()
    assert live["balances"][0] == {
        "asset": "CREDIT",
        "balance": "-7.5",
        "available": "-7.5",
        "held": "0",
        "arrears": "7.5",
        "used": "22.5",
        "granted": "15",
        "expired": "0",
        "exchanged": "0",
    }


async def test_only_the_past_is_known(ada: httpx.AsyncClient, clock: TestClock) -> None:
    for instant in ((clock.now() + timedelta(microseconds=1)).isoformat(), "9000-01-01T00:00:00Z"):
        refused = await ada.get(at("ada", "balances"), params={"at": instant})
        assert (refused.status_code, refused.json()["field"]) == (422, "at")
        assert refused.json()["detail"] == "at must not be in the future"
    refused = await ada.get(at("ada", "balances"), params={"at": "now"})
    assert (refused.status_code, refused.json()["field"]) == (422, "at")
    assert (await ada.get(at("nobody", "balances"))).status_code == 404


# CSV


async def test_a_file_has_all_rows_oldest_first(ada: httpx.AsyncClient) -> None:
    answer = await ada.get(at("ada", "transactions"), params={"format": "csv", "limit": "1"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    disposition = "attachment; filename=\"transactions.csv\"; filename*=UTF-8''transactions-ada.csv"
    assert answer.headers["content-disposition"] == disposition
    header, *rows = answer.text.split("\r\n")[:-1]
    assert header == "id,created_at,type,asset,amount,balance_after,cause,description"
    ids = [item["id"] for item in await history(ada, "ada")][::-1]
    assert rows == [
        f"{ids[0]},2026-11-20T12:00:00Z,top_up,CREDIT,10,10,,",
        f"{ids[1]},2026-11-20T12:00:01Z,grant,CREDIT,5,15,,welcome",
        f"{ids[2]},2026-11-20T12:00:02Z,bill,CREDIT,-2.5,12.5,,'=SUM(A1:A9)",
        f"{ids[3]},2026-11-20T12:00:03Z,usage,CREDIT,-20,-7.5,,",
        f"{ids[4]},2026-11-20T12:00:04Z,grant,USD,7,7,,",
    ]
    accepted = await ada.get(at("ada", "transactions"), headers={"Accept": "text/csv"})
    assert accepted.text == answer.text
    explicit = await ada.get(at("ada", "transactions"), params={"format": "json"}, headers={"Accept": "text/csv"})
    assert explicit.json()["next"] is None


async def test_filters_apply_to_files(ada: httpx.AsyncClient) -> None:
    assert [row["amount"] for row in await file(ada, "ada", type="grant")] == ["5", "7"]
    assert [row["balance_after"] for row in await file(ada, "ada", type="usage", asset="CREDIT")] == ["-7.5"]
    assert [row["amount"] for row in await file(ada, "ada", since="2026-11-20T12:00:03Z")] == ["-20", "7"]


async def test_whatever_was_said_is_one_harmless_cell(client: httpx.AsyncClient) -> None:
    said = [
        'a,"b"\r\nc;',
        "+1",
        "-1",
        "@x",
        "\ttab",
        "\rreturn",
        "\nline",
        "\uff1dwide",
        "it's",
        "ü 🙂",
        " =later",
        "'=",
    ]
    await client.post(CUSTOMERS, json={"key": 'k"ü'})
    for text in said:
        await grant(client, 'k"ü', "1", text)
    rows = await file(client, 'k"ü')
    assert [row["description"] for row in rows] == [
        f"'{text}" if text[0] in "+-@\t\r\n\uff1d" else text for text in said
    ]
    answer = await client.get(at('k"ü', "transactions"), params={"format": "csv"})
    assert answer.headers["content-disposition"].endswith("filename*=UTF-8''transactions-k%22%C3%BC.csv")


@pytest.fixture
async def busy(service: Service, client: httpx.AsyncClient) -> str:
    """A customer with 20,000 transactions of one microcredit each."""
    await client.post(CUSTOMERS, json={"key": "busy"})
    async with service.pool.connection() as conn:
        customer_id = (await service.customers.get(conn, "busy")).id
        movements = [Movement(UUID(int=number), Payer(customer_id, "postpaid"), 1, 1) for number in range(1, 20_001)]
        for start in range(0, len(movements), 5_000):
            async with conn.transaction():
                await service.wallets.grant(conn, movements[start : start + 5_000], TransferCode.TOP_UP)
    return "busy"


async def test_a_long_file_streams_in_chunks(server: str, busy: str) -> None:
    rows: list[str] = []
    chunks = 0
    async with httpx.AsyncClient(base_url=server) as client:
        async with client.stream("GET", at(busy, "transactions"), params={"format": "csv"}) as answer:
            assert answer.headers["transfer-encoding"] == "chunked"
            rest = ""
            async for text in answer.aiter_text():
                chunks += 1
                *whole, rest = (rest + text).split("\r\n")
                rows += whole
        assert rest == ""
        assert chunks >= 20_000 // ROWS_AT_ONCE
        assert rows[0] == ",".join(COLUMNS)
        assert [int(UUID(row.split(",")[0])) for row in rows[1:]] == list(range(1, 20_001))
        assert [row.split(",")[5] for row in (rows[1], rows[-1])] == ["0.000001", "0.02"]


async def test_clients_that_read_slowly_or_hang_up_keep_no_connection(server: str, service: Service, busy: str) -> None:
    """More of them than there are connections. Each reads the beginning of a file; then half of them go."""
    size = service.settings.database_pool_size
    readers = await asyncio.gather(*(begin_to_read(server, busy) for _ in range(2 * size)))
    for _, writer in readers[:size]:
        writer.transport.abort()
    async with AsyncExitStack() as stack:
        for _ in range(size):
            await stack.enter_async_context(service.pool.connection())
    for reader, writer in readers[size:]:  # whose files go on, to the last row
        text = b""
        while not text.endswith(b"\r\n0\r\n\r\n"):
            text += await reader.read(65_536)
        assert str(UUID(int=20_000)).encode() in text
        writer.close()


async def begin_to_read(server: str, key: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Asks for a file, with so little room for it that the service must wait, and reads its first row."""
    url = httpx.URL(server)
    receiver = socket.socket()
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receiver.connect((url.host, url.port))
    reader, writer = await asyncio.open_connection(sock=receiver, limit=4096)
    writer.write(f"GET {at(key, 'transactions')}?format=csv HTTP/1.1\r\nHost: tally\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n")
    await reader.readuntil(b"00000000-0000-0000-0000-000000000001")
    return reader, writer
