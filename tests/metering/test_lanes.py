"""Small batches and large ones go different ways through the queue; nobody must be able to tell."""

from __future__ import annotations

import asyncio
import random

import pytest

from tallystick.metering.model import Batch, Receipt
from tallystick.metering.service import LANES, SMALL_BATCH
from tallystick.service import Service
from tests.metering.books import batch, charged, create_price, measurement, quantity

SIZES = (1, SMALL_BATCH - 1, SMALL_BATCH, 3 * SMALL_BATCH)


async def test_the_same_usage_in_small_and_large_batches_at_once_counts_once(service: Service) -> None:
    """Whole batches, halves and single events of the same ids, of ten customers, from thirty senders."""
    await create_price(service)
    sent = [measurement(f"customer-{number % 10}", number % 7) for number in range(2 * SMALL_BATCH)]
    middle = len(sent) // 2
    batches = [batch(sent), batch(sent[:middle]), batch(sent[middle:]), *(batch([each]) for each in sent[::8])]
    random.Random(4).shuffle(batches)

    receipts = await asyncio.gather(*(service.intake.submit(each) for each in batches))
    assert sum(receipt.accepted for receipt in receipts) == len(sent)
    assert sum(receipt.duplicates for receipt in receipts) == sum(len(each.measurements) for each in batches) - len(
        sent
    )
    for number in range(10):
        expected = sum(int(each.value) for each in sent if each.customer == f"customer-{number}")
        assert await quantity(service, f"customer-{number}") == expected
        assert await charged(service, f"customer-{number}") == 2_000_000 * expected


@pytest.mark.parametrize("size", SIZES)
async def test_what_could_not_be_read_is_told_by_its_place_whatever_the_size(service: Service, size: int) -> None:
    sent = [measurement(f"customer-{number % (2 * LANES)}") for number in range(size)]
    receipt = await service.intake.submit(batch(sent, creates_meters=False))
    assert receipt == Receipt(0, 0, 0, receipt.rejected)
    assert [(each.index, each.code) for each in receipt.rejected] == [(n, "unknown_meter") for n in range(size)]


async def test_nothing_sent_is_nothing_recorded(service: Service) -> None:
    assert await service.intake.submit(Batch("events", [], [], [])) == Receipt(0, 0, 0, [])
