"""``tally usage``: what a customer used, rolled up along the paths of its resources."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from tallystick.billing.periods import Unit
from tallystick.commands import console
from tallystick.commands.api import Api, ask
from tallystick.commands.options import DataDir, InvalidUsage, Json, Url, read_settings
from tallystick.kernel.errors import TallyError
from tallystick.metering.paths import ORGANIZATION, PLATFORM_ROOT, SPACE

CUSTOMER_VARIABLE = "CG_USAGE_CUSTOMER_ID"
"""Names the customer if no option does."""
MAX_NAMED = 1000
"""So many customers are looked at for one that is meant by its name."""

_NOT_WORD = re.compile(r"[^A-Za-z0-9_%]")


class CustomersFound(TallyError):
    """A name means no customer, or several."""

    code = "customers_found"
    status = 404

    def __init__(self, name: str, found: list[dict[str, Any]], *, more: bool) -> None:
        number = f"{len(found)} or more" if more else str(len(found))
        lines = [f"found {number} customers for '{name}', need 1"]
        if len(found) > 1:
            lines += ["name\tid", *(f"{one['name'] or one['key']}\t{one['id']}" for one in found)]
        super().__init__("\n".join(lines), field="name")


def _whole_number(text: str) -> int:
    """Also reads ``-a=-1``, of which ``=-1`` arrives here; and the default, which is a number already."""
    try:
        return int(str(text).removeprefix("="))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def _unit(text: str) -> Unit:
    match text.removeprefix("="):
        case "day" | "week" | "month" | "year" as unit:
            return unit
    raise typer.BadParameter(f"{text!r} is none of day, week, month, year")


def usage(
    customer: Annotated[
        str | None,
        typer.Option("-cid", "--customer", help="Id or key of the customer.", show_default=f"${CUSTOMER_VARIABLE}"),
    ] = None,
    name: Annotated[
        str | None, typer.Option("-cname", "--name", help="Or its name: a regular expression that fits one only.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "-lq", "--pattern", help=f"Paths to show; what begins with a dot is below {PLATFORM_ROOT}. '*' is all."
        ),
    ] = None,
    org: Annotated[str | None, typer.Option("-org", "--org", help="Only this organization; % is any text.")] = None,
    space: Annotated[
        str | None, typer.Option("-space", "--space", help="Only this space, and those whose names go on after a _.")
    ] = None,
    after: Annotated[
        int, typer.Option("-a", "--after", parser=_whole_number, metavar="N", help="First period, counted from now.")
    ] = -1,
    before: Annotated[
        int, typer.Option("-b", "--before", parser=_whole_number, metavar="N", help="The period before which it ends.")
    ] = 0,
    period: Annotated[
        str, typer.Option("-p", "--period", metavar="day|week|month|year", help="What these count.", parser=_unit)
    ] = "month",
    depth: Annotated[int | None, typer.Option(min=0, help="How many levels to show.", show_default="all")] = None,
    descendants: Annotated[bool, typer.Option("--descendants", help="With all customers below this one.")] = False,
    display: Annotated[str, typer.Option(help="The asset in which costs are shown.")] = "USD",
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what a customer used: by period, organization, family of spaces, space and leaf. The last month, by default.

    What is used at other paths, and without a path, has lines of its own; the total is the bill of the month.
    """
    query: dict[str, str | int | None] = {
        "pattern": _pattern(pattern, org, space),
        "period": period,
        "after": after,
        "before": before,
        "depth": depth,
        "descendants": "true" if descendants else None,
        "display": display,
    }

    async def report(api: Api) -> Any:
        return await api.get("customers", await _whose(api, customer, name), "usage", "tree", **query)

    document = ask(read_settings(data_dir=data_dir), url, report)
    if json:
        console.print_json(document)
    else:
        for one in document["periods"]:
            console.out.print(_table(document["name"] or document["customer"], one, display))
        _say_what_lacks_a_rate(document, display)


def _pattern(pattern: str | None, org: str | None, space: str | None) -> str:
    """The paths that are asked for. A pattern counts more than the names of an organization and a space."""
    if pattern is not None:
        return f"{PLATFORM_ROOT}{pattern}" if pattern.startswith(".") else pattern
    org_label = ORGANIZATION + _word(org or "%")
    space_label = SPACE + _word(space or "%")
    if space:
        space_label = f"{space_label}|{space_label}_%"
    return f"{PLATFORM_ROOT}.{org_label}.{space_label}.*{{1,}}"


def _word(name: str) -> str:
    """The name as it stands in a label."""
    return _NOT_WORD.sub("_", name)


async def _whose(api: Api, customer: str | None, name: str | None) -> str:
    """The key of the customer that is meant."""
    if not customer and not name:
        customer = os.environ.get(CUSTOMER_VARIABLE)
    if customer:
        return await _by_id(api, customer)
    if not name:
        raise InvalidUsage(f"say whose usage: -cid, -cname or ${CUSTOMER_VARIABLE}", field="customer")
    page = await api.get("customers", name=name, limit=MAX_NAMED)
    found = page["items"]
    if len(found) != 1:
        raise CustomersFound(name, found, more=page["next"] is not None)
    key: str = found[0]["key"]
    return key


async def _by_id(api: Api, text: str) -> str:
    """The key of the customer with this id, or else this key: ids of organizations are keys here."""
    try:
        found = (await api.get("customers", id=str(UUID(text))))["items"]
    except ValueError:
        found = []
    if found:
        key: str = found[0]["key"]
        return key
    return text


# The report as a table


def _table(whose: str, period: dict[str, Any], display: str) -> Table:
    columns = ("what", "measured>", "unpriced>", "asset", "microunits>", "amount>", f"{display}>")
    table = console.table(f"Usage of {whose} in {period['period']}", *columns)
    for node in period["tree"]:
        _add_node(table, node, 0)
    for apart in (period["elsewhere"], period["unplaced"]):
        if apart["measurements"]:
            _add_node(table, apart, 0)
    _add(table, "total", period["total"])
    return table


def _add_node(table: Table, node: dict[str, Any], level: int) -> None:
    _add(table, "  " * level + node["name"], node)
    for child in node["children"]:
        _add_node(table, child, level + 1)


def _add(table: Table, name: str, used: dict[str, Any]) -> None:
    """One line for each asset; what has none yet, or was not used at all, has one without amounts."""
    counts = (used["measurements"], used["unpriced"] or None)
    for number, amount in enumerate(used["amounts"] or [{}]):
        shown = amount.get("display", {}).get("amount")
        facts = (amount.get("asset"), amount.get("microunits"), amount.get("rounded"), shown)
        console.add_row(table, (name, *(counts if number == 0 else (None, None)), *facts))


def _say_what_lacks_a_rate(document: dict[str, Any], display: str) -> None:
    amounts = [amount for period in document["periods"] for amount in period["total"]["amounts"]]
    for asset in sorted({amount["asset"] for amount in amounts if "display" not in amount}):
        console.warn(f"There is no rate to show {asset} in {display}: POST /api/v1/assets/{asset}/rates sets one.")
