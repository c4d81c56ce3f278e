"""The customer-success desk: accounts that are looked after (VIP), in any region, and when their credits run low."""

from __future__ import annotations

from desk import Event, run

BINDINGS = ["account.*.*.vip", "account.changed.*.standard", "balance.*.*.vip"]


def handle(event: Event) -> None:
    kind, customer, data = event["type"].removeprefix("tallystick."), event["subject"], event["data"]
    match kind:
        case "account.created":
            print(f"welcome {data['name'] or customer}, {data['email'] or 'no e-mail yet'}", flush=True)
        case "account.changed" if event["vip"] and not data["before"]["vip"]:
            print(f"look after {data['name'] or customer} from now on", flush=True)
        case "account.changed" if not event["vip"] and data["before"]["vip"]:
            print(f"{data['name'] or customer} is looked after no more", flush=True)
        case "account.deleted":
            print(f"farewell {customer}", flush=True)
        case "balance.low":
            print(f"call {customer}: {data['balance']} {data['asset']} left", flush=True)
        case "balance.exhausted":
            print(f"call {customer} now: nothing is left of {data['asset']}", flush=True)


if __name__ == "__main__":
    run("success", BINDINGS, handle)
