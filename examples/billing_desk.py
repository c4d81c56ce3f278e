"""The billing desk of a region: who came and went, what was given, and what a month has come to.

Usage: billing_desk.py emea|nam|apac
"""

from __future__ import annotations

import sys

from desk import Event, run


def handle(event: Event) -> None:
    kind, customer, data = event["type"].removeprefix("tallystick."), event.get("subject"), event["data"]
    match kind:
        case "account.created":
            line = f"open an account for {data['name'] or customer}, {data['email'] or 'no e-mail yet'}"
        case "account.deleted":
            line = f"close the account of {customer}"
        case "grant.made":
            line = f"{customer} has got {data['amount']} {data['asset']} ({data['category']})"
        case "grant.expired" | "grant.voided":
            line = f"{customer} has lost {data['left']} {data['asset']} of {data['amount']}"
        case "usage.posted":
            line = f"{customer} has used {data['amount']} {data['asset']} in {data['month']}"
        case "price.changed":
            line = f"{data['meter']} {data['kind']} costs something else from {data['effective_from']} on"
        case _:
            line = f"nothing to do about {kind}"
    print(line, flush=True)


if __name__ == "__main__":
    region = sys.argv[1] if len(sys.argv) == 2 else ""
    if region not in ("emea", "nam", "apac"):
        sys.exit(__doc__)
    kinds = ("account.created", "account.deleted", "grant.*", "usage.posted", "price.changed")
    everybodys = "price.changed.all.*"
    run(f"billing-{region}", [*(f"{kind}.{region}.*" for kind in kinds), everybodys], handle)
