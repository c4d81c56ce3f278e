"""What webhooks were told long ago is removed by a job."""

from __future__ import annotations

from uuid import UUID

from structlog.testing import capture_logs

from tallystick.database.pool import Pool
from tallystick.jobs.kinds import Run
from tallystick.jobs.webhooks import PruneWebhooks
from tests.outbox.endpoints import Room
from tests.outbox.events import event


async def test_old_deliveries_go_whatever_became_of_them(pool: Pool) -> None:
    room = Room(pool)
    endpoint, ada = await room.endpoint(), await room.customer("ada")
    await room.tell(*[event(number, ada) for number in range(4)])
    for number, (state, days) in enumerate((("delivered", 31), ("failed", 31), ("waiting", 31), ("delivered", 29))):
        await room.run(
            "update webhook_deliveries set state = %s, told_at = now() - make_interval(days => %s) where event_id = %s",
            state,
            days,
            UUID(int=number),
        )
    with capture_logs() as log:
        for _ in range(2):
            await PruneWebhooks(pool, keep_days=30).run(Run(1, 1, {}))
    assert [delivery.event_id.int for delivery in await room.deliveries(endpoint)] == [3]
    assert [(entry["event"], entry["deliveries"]) for entry in log] == [("webhook.pruned", 3)]
