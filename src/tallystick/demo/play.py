"""``tally demo``: the story of a month, played through the public routes of a running service."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from tallystick.commands import console
from tallystick.commands.api import TIMEOUT, Api, Refusal
from tallystick.commands.options import ExitCode, Json
from tallystick.demo import story, tables
from tallystick.demo.expectation import Expectation
from tallystick.demo.senders import Post, cloud_events, influx_lines, json_lines
from tallystick.demo.server import running_service
from tallystick.demo.story import Day, Usage
from tallystick.kernel.calendar import Month, month_before, parse_month
from tallystick.kernel.clock import SystemClock
from tallystick.kernel.money import MICROUNITS, format_amount, parse_amount

BILLED = "acme-support"
"""Whose bill is shown: it has tiers, and usage without a price."""

Amounts = dict[tuple[str, str], int]
"""Microunits by customer and asset."""


def demo(
    month: Annotated[
        str | None, typer.Option(help="The month to play, as YYYY-MM.", show_default="the last one")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep the books here.", file_okay=False, show_default="a temporary folder")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show it: a month of usage in; balances, a bill, an explained charge and a proof out. Ends with 0 if all holds."""
    wanted = parse_month(month) if month else month_before(SystemClock().now())
    with _folder(data_dir) as folder:
        holds = asyncio.run(_demo(folder, wanted, keep=keep, as_json=json))
    if not holds:
        raise typer.Exit(ExitCode.NO)


async def _demo(folder: Path, month: Month, *, keep: bool, as_json: bool) -> bool:
    async with contextlib.AsyncExitStack() as resources:
        with console.messages.status("Starting the service and its database"):
            url = await resources.enter_async_context(running_service(folder))
        http = await resources.enter_async_context(httpx.AsyncClient(base_url=url, timeout=TIMEOUT))
        play = Play(Api(http), month)
        await play.prepare()
        await play.send()
        result = await play.look()
        if as_json:
            console.print_json({**result, "url": url if keep else None})
        else:
            _show(result)
        if keep:
            console.warn(f"The service runs at {url} until Ctrl-C. Its books are in {folder}.")
            await _interrupt()
    return bool(result["holds"])


@dataclass
class Play:
    """One performance: what has been sent so far, and what must come of it."""

    api: Api
    month: Month
    expectation: Expectation = field(default_factory=Expectation)
    sent: int = 0
    duplicates: int = 0

    async def prepare(self) -> None:
        """Meters, prices, customers, grants. What is there already, from an earlier demo, stays as it is."""
        for key, meter in story.METERS.items():
            await self.api.put("meters", key, json=meter)
        for price in story.PRICES:
            await self._create("prices", {**price, "effective_from": "2000-01-01T00:00:00Z"})
        for customer in story.CUSTOMERS:
            await self._create("customers", customer)
        for key, asset, amount in story.GRANTS:
            grant = {"asset": asset, "amount": amount, "reason": "demo"}
            once = {"Idempotency-Key": f"demo {key} {asset}"}
            await self.api.post("customers", key, "grants", json=grant, headers=once)

    async def _create(self, what: str, body: dict[str, Any]) -> None:
        try:
            await self.api.post(what, json=body)
        except Refusal as refusal:
            if refusal.status != httpx.codes.CONFLICT:
                raise

    async def send(self) -> None:
        """The month, day by day, all senders at once; then what comes late, and what cannot be read."""
        days = list(story.tell(self.month))
        with console.progress_bar("measurements") as progress:
            task = progress.add_task("", total=sum(map(len, days)))
            for day in days:
                progress.update(task, description=f"{day.start:%Y-%m-%d}")
                await self._send_day(day)
                progress.advance(task, len(day))
        await self._post(cloud_events, [story.late_request(self.month)])
        await self.api.send("/write", story.UNREADABLE_LINES, "text/plain")
        self.sent += story.UNREADABLE_LINES.count(b"\n")

    async def _send_day(self, day: Day) -> None:
        await asyncio.gather(
            self._post(influx_lines, day.counters),
            self._post(cloud_events, day.tokens),
            self._post(json_lines, day.memory),
        )
        if day.start.day == story.SENT_TWICE_ON:
            await self._post(cloud_events, day.tokens, again=True)

    async def _post(
        self, write: Callable[[Iterable[Usage]], Post], usages: list[Usage], *, again: bool = False
    ) -> None:
        post = write(usages)
        answer = await self.api.send(post.path, post.body, post.content_type)
        self.sent += len(usages)
        self.duplicates += answer["duplicates"] if answer else 0  # /write only says that it has the lines
        if not again:
            for usage in usages:
                self.expectation.add(usage)

    async def look(self) -> dict[str, Any]:
        """What there is to see now, and whether all of it is as it must be."""
        keys = [customer["key"] for customer in story.CUSTOMERS]
        bills = {key: await self.api.get("customers", key, "bill", month=str(self.month)) for key in keys}
        lines = [line for bill in bills.values() for line in bill["lines"]]
        charged = sum(line["measurements"] for line in lines if line["price"] is not None)
        unpriced = sum(line["measurements"] for line in lines if line["price"] is None)
        expected, billed = self._expected(), _billed(bills)
        verdict = await self.api.get("verify")
        complete = (charged, unpriced) == (self.expectation.priced, self.expectation.unpriced)
        return {
            "month": str(self.month),
            "customers": [await self.api.get("customers", key) for key in keys],
            "bill": bills[BILLED],
            "explanation": await self.api.get("charges", await self._dearest_charge()),
            "counts": {"sent": self.sent, "charged": charged, "duplicates": self.duplicates, "unpriced": unpriced},
            "quarantine": (await self.api.get("quarantine"))["items"],
            "expected": _by_asset(expected),
            "billed": _by_asset(billed),
            "verify": verdict,
            "holds": verdict["holds"] and complete and expected == billed,
        }

    def _expected(self) -> Amounts:
        return {place: int(cost * MICROUNITS) for place, cost in self.expectation.costs().items()}

    async def _dearest_charge(self) -> str:
        """Among the last thousand of the month."""
        span = {"since": self.month.start.isoformat(), "until": self.month.end.isoformat()}
        charges = (await self.api.get("customers", BILLED, "charges", limit=1000, **span))["items"]
        return str(max(charges, key=lambda charge: Decimal(charge["amount"] or 0))["id"])


def _billed(bills: dict[str, dict[str, Any]]) -> Amounts:
    return {
        (customer, total["asset"]): parse_amount(total["amount"], signed=True)
        for customer, bill in bills.items()
        for total in bill["totals"]
    }


def _by_asset(amounts: Amounts) -> dict[str, str]:
    sums: dict[str, int] = {}
    for (_, asset), amount in sorted(amounts.items()):
        sums[asset] = sums.get(asset, 0) + amount
    return {asset: format_amount(total) for asset, total in sums.items()}


def _show(result: dict[str, Any]) -> None:
    for part in (
        tables.customers(result["customers"]),
        tables.bill(result["bill"]),
        tables.explanation(result["explanation"]),
        tables.account_for(result["counts"], result["quarantine"]),
        tables.proof(result["verify"], result["expected"], result["billed"]),
    ):
        console.out.print(part, "")
    console.say("Everything holds." if result["holds"] else "Something does NOT hold: see above.")


@contextlib.contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is None:
        with tempfile.TemporaryDirectory(prefix="tallystick-demo-") as temporary:
            yield Path(temporary)
    else:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield data_dir


async def _interrupt() -> None:
    """Returns at Ctrl-C."""
    pressed = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, pressed.set)
    await pressed.wait()
