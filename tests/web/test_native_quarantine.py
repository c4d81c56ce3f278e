"""What could not be read: listed, shown, mended and replayed."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx

from tallystick.kernel.clock import TestClock

QUARANTINE = "/api/v1/quarantine"


async def kept(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await client.get(QUARANTINE, params=query)).json()["items"]
    return items


async def replay(client: httpx.AsyncClient, *ids: str) -> dict[str, Any]:
    answer = await client.post(f"{QUARANTINE}/replay", json={"ids": list(ids) or None})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_piece_is_mended_and_replayed(client: httpx.AsyncClient) -> None:
    broken = b'{"id":"1","subject":"ada","type":"tokens","data":{"value":"many"}}'
    await client.post("/api/v1/events", content=broken, headers={"Content-Type": "application/json"})
    (piece,) = await kept(client)
    assert (piece["source"], piece["code"], piece["size"]) == ("events", "invalid_value", len(broken))
    shown = (await client.get(f"{QUARANTINE}/{piece['id']}")).json()
    assert (shown["raw"].encode(), base64.b64decode(shown["raw_base64"]), shown["repaired"]) == (broken, broken, None)

    stays = await replay(client)
    assert (stays["recorded"], stays["pieces"][0]["code"]) == (0, "invalid_value")
    mended = broken.replace(b'"many"', b"42")
    put = await client.put(f"{QUARANTINE}/{piece['id']}", content=mended)
    assert (put.status_code, put.json()["repaired"].encode(), put.json()["raw"].encode()) == (200, mended, broken)

    done = await replay(client, piece["id"])
    assert done["pieces"] == [
        {"id": piece["id"], "recorded": True, "accepted": 1, "duplicates": 0, "code": None, "detail": None}
    ]
    assert await kept(client) == []
    (closed,) = await kept(client, replayed="true")
    assert closed["replayed_at"] == "2026-11-20T12:00:00Z"
    again = await replay(client, piece["id"])
    assert (again["pieces"][0]["accepted"], again["pieces"][0]["duplicates"]) == (0, 1)
    (usage,) = (await client.get("/api/v1/customers/ada/usage")).json()["lines"]
    assert usage["quantity"] == "42"


async def test_a_whole_body_can_be_mended(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/events", content=b'[{"id":"1",', headers={"Content-Type": "application/json"})
    (piece,) = await kept(client)
    events = [{"id": str(n), "subject": "ada", "type": "tokens", "data": {"value": 1}} for n in range(3)]
    await client.put(f"{QUARANTINE}/{piece['id']}", content=json.dumps([*events, {"id": "bad"}]).encode())
    partly = (await replay(client))["pieces"][0]
    assert (partly["recorded"], partly["accepted"], partly["code"]) == (False, 3, "missing_field")
    await client.put(f"{QUARANTINE}/{piece['id']}", content=json.dumps(events).encode())
    whole = (await replay(client))["pieces"][0]
    assert (whole["recorded"], whole["accepted"], whole["duplicates"]) == (True, 0, 3)
    assert len(await kept(client, replayed="true")) == 1


async def test_a_line_is_replayed_at_the_time_at_which_it_came(client: httpx.AsyncClient, clock: TestClock) -> None:
    line = "project_vcpu_usage,location_id=1,project_name=p value={}"
    await client.post("/write", content=line.format("one"))
    (piece,) = await kept(client)
    clock.advance(clock.now() - clock.now().replace(hour=0))
    await client.put(f"{QUARANTINE}/{piece['id']}", content=line.format(1))
    assert (await replay(client))["recorded"] == 1
    (charge,) = (await client.get("/api/v1/customers/p/charges")).json()["items"]
    assert charge["at"] == piece["received_at"] == "2026-11-20T12:00:00Z"


async def test_a_line_is_replayed_with_the_precision_it_was_sent_with(client: httpx.AsyncClient) -> None:
    line = "project_vcpu_usage,location_id=1,project_name=p value={} 1546905600"
    await client.post("/write?precision=s", content=line.format("one"))
    (piece,) = await kept(client)
    await client.put(f"{QUARANTINE}/{piece['id']}", content=line.format(1))
    assert (await replay(client))["recorded"] == 1
    (charge,) = (await client.get("/api/v1/customers/p/charges")).json()["items"]
    assert charge["at"] == "2019-01-08T00:00:00Z"


async def test_a_mended_measurement_is_checked_like_any_other(client: httpx.AsyncClient) -> None:
    await client.post("/write", content=b"steps,location_id=1,project_name=p value=1 1546905600000000000")
    (piece,) = await kept(client)
    measurement = json.loads((await client.get(f"{QUARANTINE}/{piece['id']}")).json()["raw"])
    await client.put("/api/v1/meters/steps", json={})
    for change, code in (
        ({"value": "1e999"}, "invalid_value"),
        ({"value": "NaN"}, "invalid_value"),
        ({"value": [1]}, "invalid_measurement"),
        ({"customer": ""}, "text_empty"),
        ({"customer": "a\0"}, "text_not_storable"),
        ({"kind": "k" * 257}, "text_too_long"),
        ({"at": "2019-01-08T00:00:00"}, "invalid_time"),
        ({"at": "0001-01-01T00:00:00+23:00"}, "invalid_measurement"),
        ({"unit_price": "Infinity"}, "invalid_value"),
        ({"unit_price": "1000000000001"}, "invalid_value"),
    ):
        mended = json.dumps(measurement | change).encode()
        assert (await client.put(f"{QUARANTINE}/{piece['id']}", content=mended)).status_code == 200
        outcome = (await replay(client))["pieces"][0]
        assert (outcome["recorded"], outcome["code"]) == (False, code), (change, outcome)
    for mended in (b"", b"{", b"[" * 100_000, b"\xff", b"null"):
        await client.put(f"{QUARANTINE}/{piece['id']}", content=mended)
        assert (await replay(client))["pieces"][0]["code"] == "invalid_measurement", mended[:10]
    await client.put(f"{QUARANTINE}/{piece['id']}", content=json.dumps(measurement).encode())
    assert (await replay(client))["recorded"] == 1


async def test_pieces_come_in_pages(client: httpx.AsyncClient) -> None:
    await client.post("/write", content="\n".join(f"broken{number}" for number in range(5)))
    first = (await client.get(QUARANTINE, params={"limit": "3"})).json()
    second = (await client.get(QUARANTINE, params={"limit": "3", "cursor": first["next"]})).json()
    assert len({piece["id"] for piece in first["items"] + second["items"]}) == 5
    assert second["next"] is None


async def test_bytes_that_are_no_text_are_shown_as_base64(client: httpx.AsyncClient) -> None:
    await client.post("/write", content=b"\xff\x00")
    (piece,) = await kept(client)
    shown = (await client.get(f"{QUARANTINE}/{piece['id']}")).json()
    assert (shown["raw"], base64.b64decode(shown["raw_base64"])) == (None, b"\xff\x00")


async def test_what_is_not_there_cannot_be_shown_mended_or_replayed(client: httpx.AsyncClient) -> None:
    nil = "00000000-0000-0000-0000-000000000000"
    assert (await client.get(f"{QUARANTINE}/{nil}")).status_code == 404
    assert (await client.put(f"{QUARANTINE}/{nil}", content=b"x")).status_code == 404
    assert (await client.post(f"{QUARANTINE}/replay", json={"ids": [nil]})).status_code == 404
    assert (await client.get(f"{QUARANTINE}/nothing")).status_code == 422
    assert (await client.put(f"{QUARANTINE}/{nil}", content=b"x" * ((1 << 20) + 1))).status_code == 413
    for body in ({"ids": "all"}, {"ids": ["x"]}, {"ids": [nil] * 1001}, {"id": nil}, {"cursor": "x"}):
        refused = await client.post(f"{QUARANTINE}/replay", json=body)
        assert refused.status_code == 422, body
