"""Chains of linked transfers: what must not be torn apart when many transfers become several batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tallystick.ledger.contract import LedgerRefusal, Transfer, TransferFlags


def chains(transfers: Sequence[Transfer]) -> Iterator[tuple[int, int]]:
    """Where each chain starts and ends; a transfer that is not linked is a chain of its own."""
    start = 0
    for index, transfer in enumerate(transfers, start=1):
        if index == len(transfers) or not transfer.flags & TransferFlags.LINKED:
            yield start, index
            start = index


def chain_start(transfers: Sequence[Transfer], start: int, end: int) -> int:
    """Where to cut transfers, at ``end`` or before, so that no chain is cut.

    Raises ``LedgerRefusal`` if one chain is longer than that.
    """
    while end > start and transfers[end - 1].flags & TransferFlags.LINKED:
        end -= 1
    if end == start:
        raise LedgerRefusal("a chain of linked transfers is longer than what TigerBeetle takes at once")
    return end
