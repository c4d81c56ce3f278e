"""Whatever comes in, nothing breaks: every answer is a refusal that says why, never a 500."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest
from structlog.testing import capture_logs

from tallystick.web.app import ROUTERS
from tests.web.conftest import SAYS_500

NIL = "00000000-0000-0000-0000-000000000000"

TEXTS = [
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff x",
    "x" * 10_000,
    "é" * 300,
    "\u202e\u200b\ufeff",
    "🙂" * 256,
    "'; drop table customers; --",
    "%s%(name)s{0}{{}}",
    "\\N\t\n\r\\.",
    "../../etc/passwd",
    "{project_name}",
    "<script>alert(1)</script>",
]

NUMBERS = [
    "1e999999",
    "-1e999999",
    "1e-999999",
    "1e99999999999999999999",
    "9" * 400,
    "9" * 5000,
    "0." + "9" * 400,
    "-0",
    "-0.0",
    "NaN",
    "Infinity",
    "1E400",
    "0e999999",
]

BODIES = [
    b"",
    b"\x00",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"{",
    b"null",
    b"[]",
    b"[[]]",
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b'[{"a":' * 5_000 + b"1" + b"}]" * 5_000,
    b'{"key":"a","key":"b","key":null}',
    b"{" + b",".join(b'"%d":1' % number for number in range(5_000)) + b"}",
    '{"key":"a"}'.encode("utf-16"),
]

FIELDS = re.findall(
    r"\w+",
    "id key subject source type specversion time data value kind resource agent unit_price user_id amount description "
    "initial_balance name email parent payer credit_policy asset reason meter customer effective_from quantum model "
    "aggregation on_drop unit ids cursor cpu credits kind_natural_id microcredits_per_unit unit_of_measure valid_from",
)


def objects() -> Iterator[bytes]:
    """Objects in which every field that any route knows has the same odd value."""
    for text in TEXTS:
        value = json.dumps(text)
        yield b"{%s}" % ",".join(f'"{name}":{value}' for name in FIELDS).encode()
        yield b'{"id":%s,"subject":"s","type":"t","data":{"value":1,"kind":%s}}' % (value.encode(), value.encode())
        yield json.dumps({text: text}).encode()
    for number in NUMBERS:
        yield b"{%s}" % ",".join(f'"{name}":{number}' for name in FIELDS).encode()
        yield b'{"id":"1","subject":"s","type":"t","data":{"value":%s,"unit_price":%s}}' % (
            number.encode(),
            number.encode(),
        )
        yield b'{"user_id":"u","amount":%s,"initial_balance":%s}' % (number.encode(), number.encode())
        yield (
            b'{"meter":"t","effective_from":"2026-01-01T00:00:00Z","model":{"type":"per_unit","amount":%s}}'
            % number.encode()
        )
        yield b'{"asset":"CREDIT","amount":%s}' % number.encode()
        yield b'{"cpu":%s}' % number.encode()
    for value in ("true", "{}", "[]", '[{"a":1}]', "null"):
        yield b"{%s}" % ",".join(f'"{name}":{value}' for name in FIELDS).encode()


def routes(method: str) -> list[str]:
    """The paths of all routes, with a customer that exists in them."""
    paths = [
        route.path_format  # type: ignore[attr-defined]
        for router in ROUTERS
        for route in router.routes
        if method in route.methods and route.path_format not in SAYS_500  # type: ignore[attr-defined]
    ]
    return [filled(path) for path in paths]


def filled(path: str) -> str:
    return (
        path.replace("{key}", "s")
        .replace("{project_name}", "s")
        .replace("{piece_id}", NIL)
        .replace("{charge_id}", f"{NIL}.{NIL}")
    )


async def queries(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """All routes that answer a GET, with each name that stands in their queries, and with one that no route knows."""
    described = (await client.get("/openapi.json")).json()["paths"]
    return [(path, "nobody") for path in routes("GET")] + [
        (filled(path), parameter["name"])
        for path, operations in described.items()
        for parameter in operations.get("get", {}).get("parameters", ())
        if parameter["in"] == "query"
    ]


@pytest.fixture(autouse=True)
def nothing_comes_as_a_surprise() -> Iterator[None]:
    """An exception that nobody foresaw is logged as a failure, however well it is answered."""
    with capture_logs() as logs:
        yield
    assert not [log for log in logs if log["event"] == "http.failure"]


async def hold(answer: httpx.Response, sent: object) -> None:
    assert answer.status_code < 500, (sent, answer.text)
    if answer.is_error:
        assert answer.content, sent
        if "json" in answer.headers["content-type"]:
            answer.json()


async def test_odd_bodies(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/customers", json={"key": "s"})
    bodies = [*BODIES, *objects()]
    for method in ("POST", "PUT"):
        for path in routes(method):
            for body in bodies:
                answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
                await hold(answer, (method, path, body[:200]))
    verdict = (await client.get("/api/v1/verify")).json()
    assert verdict["holds"], verdict


async def test_odd_events_in_an_array_harm_no_other(client: httpx.AsyncClient) -> None:
    good = {"id": "good", "subject": "s", "type": "t", "data": {"value": 1}}
    for number, odd in enumerate(objects()):
        body = b"[%s,%s]" % (odd, json.dumps(good | {"id": f"good-{number}"}).encode())
        answer = await client.post("/api/v1/events", content=body, headers={"Content-Type": "application/json"})
        if answer.status_code == 200:
            assert answer.json()["accepted"] + answer.json()["duplicates"] >= 1, odd
        else:  # Python reads no integer of thousands of digits, nor what is no JSON
            assert answer.status_code == 400, odd


async def test_odd_lines(client: httpx.AsyncClient) -> None:
    for text in TEXTS:
        raw = text.encode(errors="surrogatepass")
        for body in (
            raw,
            b"m,project_name=%s,location_id=1 value=1" % raw,
            b"%s,project_name=p,location_id=1 value=1" % raw,
            b'm,project_name=p,location_id=1 value="%s"' % raw,
            b"m,project_name=p,location_id=1 value=1 %s" % raw,
        ):
            assert (await client.post("/write", content=body)).status_code == 202, body[:200]
    for number in NUMBERS:
        for line in (
            f"project_vcpu_usage,project_name=p,location_id=1 value={number}",
            f"m,project_name=p value=1 {number}",
        ):
            assert (await client.post("/write", content=line)).status_code == 202, line[:200]


async def test_odd_paths_and_queries(client: httpx.AsyncClient) -> None:
    odd = [
        b"%00",
        b"%FF",
        b"%ED%A0%80",
        b"%",
        b"%zz",
        b"%u0041",
        b"x" * 10_000,
        b"%2F",
        b"..%2F..",
        b"9" * 5000,
        b"%20",
        b"%0A",
    ]
    for template in (
        b"/api/v1/meters/?",
        b"/api/v1/customers/?",
        b"/api/v1/customers/?/usage",
        b"/api/v1/customers/?/bill",
        b"/api/v1/customers/?/charges",
        b"/api/v1/charges/?",
        b"/api/v1/charges/?.?",
        b"/api/v1/quarantine/?",
        b"/api/credits_history/?",
        b"/api/v1/kinds/?",
        b"/admin/kind/?",
        b"/admin/org/?",
        b"/admin/price/?",
        b"/admin/tier/?",
        b"/admin/customer/?/transaction",
        b"/customer/?/usage",
        b"/docs/?",
        b"/?",
    ):
        for value in odd:
            url = httpx.URL("http://tally").copy_with(raw_path=template.replace(b"?", value))
            await hold(await client.get(url), (template, value[:50]))
    asked = await queries(client)
    assert {"cursor", "month", "start_date", "display", "nobody"} <= {name for _, name in asked}
    for path, name in asked:
        for value in odd:
            raw_path = b"%s?%s=%s" % (path.encode(), name.encode(), value)
            answer = await client.get(httpx.URL("http://tally").copy_with(raw_path=raw_path))
            await hold(answer, raw_path[:80])


async def test_odd_headers(client: httpx.AsyncClient) -> None:
    body = json.dumps({"user_id": "u", "amount": 1}).encode()
    for value in (b"\xff\xfe", b"x" * 5000, b"a\tb", b"%00", b"\xc3\xa9", b'"', b","):
        for name in (
            b"Content-Type",
            b"Content-Encoding",
            b"Idempotency-Key",
            b"X-Request-ID",
            b"Authorization",
            b"Accept",
        ):
            for path in ("/api/v1/bill", "/api/v1/events", "/api/v1/customers", "/write"):
                await hold(await client.post(path, content=body, headers=[(name, value)]), (path, name, value))
        headers = [
            (b"ce-id", value),
            (b"ce-type", value),
            (b"ce-source", value),
            (b"ce-subject", value),
            (b"ce-specversion", b"1.0"),
        ]
        await hold(await client.post("/api/v1/events", content=b'{"value":1}', headers=headers), value)


async def test_odd_bytes_on_the_wire(server: str) -> None:
    url = httpx.URL(server)

    async def ask(sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        writer.write_eof()
        received = await reader.read()
        writer.close()
        return received

    for sent in (
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/customers/%ff%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /ping?\xff=\x01 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET http://elsewhere/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ):
        status = (await ask(sent))[9:12]
        assert status == b"" or status < b"500", (sent, status)
    async with httpx.AsyncClient(base_url=server) as client:
        assert (await client.get("/ping")).text == "Pong"
