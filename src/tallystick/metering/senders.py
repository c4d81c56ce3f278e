"""Who may send what: a key of a customer sends usage of that customer, and one of an agent only as that agent.

Pure. What somebody may not send is kept like other input that cannot be recorded, with the one who sent it; nobody
can have it recorded for others by having it replayed.
"""

from __future__ import annotations

import msgspec

from tallystick.metering.model import Batch, Measurement, Sender, Unreadable

FOREIGN_CUSTOMER = "other_customer"
FOREIGN_AGENT = "other_agent"
NEGATIVE = "negative_usage"


def limited(batch: Batch, sender: Sender | None) -> Batch:
    """The batch with what ``sender`` may send, ``None`` being whoever may send everything.

    Usage that names no agent is that of the sender's agent. All the rest becomes unreadable, in its place. Meters are
    everybody's, so that none is created for it. What is negative gives credits back, which is not the sender's to say.
    """
    if sender is None:
        return batch
    measurements: list[Measurement] = []
    indexes: list[int] = []
    unreadable = [msgspec.structs.replace(piece, sender=sender) for piece in batch.unreadable]
    for measurement, index in zip(batch.measurements, batch.indexes, strict=True):
        if (refusal := _refusal(measurement, sender)) is not None:
            raw = msgspec.json.encode(measurement)
            unreadable.append(Unreadable(index, raw, *refusal, reader="measurement", sender=sender))
            continue
        measurements.append(_signed(measurement, sender))
        indexes.append(index)
    unreadable.sort(key=lambda piece: piece.index)
    return Batch(batch.source, measurements, indexes, unreadable, creates_meters=False)


def _refusal(measurement: Measurement, sender: Sender) -> tuple[str, str] | None:
    """Code and sentence."""
    if measurement.customer != sender.customer:
        return FOREIGN_CUSTOMER, f"the key that sent it stands for {sender.customer!r}, not {measurement.customer!r}"
    if sender.agent_id is not None and measurement.agent and not sender.is_agent(measurement.agent):
        return FOREIGN_AGENT, f"the key that sent it stands for another agent than {measurement.agent!r}"
    if measurement.value < 0 or (measurement.unit_price or 0) < 0:
        return NEGATIVE, "value and unit_price must not be negative: an operator's key takes usage back"
    return None


def _signed(measurement: Measurement, sender: Sender) -> Measurement:
    if sender.agent_id is None or measurement.agent:
        return measurement
    return msgspec.structs.replace(measurement, agent=str(sender.agent_id))
