"""Lines of the line protocol, and who reads them."""

from __future__ import annotations

from datetime import UTC, datetime

from tallystick.metering.model import Batch
from tallystick.metering.sources.line_protocol import LineMapping, read

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ANY = LineMapping(customer_tag="c", resource_tag="")


def read_text(text: str, mapping: LineMapping = ANY, precision: str = "ns") -> Batch:
    return read(text.encode(), NOW, precision=precision, mapping=mapping)
