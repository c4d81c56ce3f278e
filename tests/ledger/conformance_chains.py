"""Cases of linked transfers, which stand or fall together."""

from __future__ import annotations

from tallystick.ledger.contract import AMOUNT_MAX, Status
from tests.ledger.conformance import (
    BALANCING_DEBIT,
    CLOSING_CREDIT,
    CLOSING_DEBIT,
    EXISTS,
    FUND,
    LINKED,
    NIL,
    OK,
    PENDING,
    POST,
    VOID,
    Cases,
    post,
    step,
    void,
)

CASES = Cases()
case = CASES.add

# Chains

_NEXT = LINKED | PENDING
case(
    "a chain succeeds as a whole, and each member sees those before it",
    [
        step(OK, 1, "bank", "purse", 5, LINKED),
        step(OK, 2, "purse", "shop", 3, LINKED),
        step(OK, 3, "purse", "shop", 2),
        step(OK, 4, "bank", "shop", 1),
    ],
    bank=(0, 6, 0, 0),
    purse=(0, 5, 0, 5),
    shop=(0, 0, 0, 6),
)
case(
    "a chain whose middle fails leaves nothing, its neighbours stand",
    [
        step(OK, 1, "bank", "shop", 1),
        step(Status.LINKED_EVENT_FAILED, 2, "bank", "shop", 10, LINKED),
        step(Status.LINKED_EVENT_FAILED, 3, "bank", "shop", 10, LINKED),
        step(Status.CODE_MUST_NOT_BE_ZERO, 4, "bank", "shop", 10, LINKED, code=0),
        step(Status.LINKED_EVENT_FAILED, 5, "bank", "shop", 10, LINKED),
        step(Status.LINKED_EVENT_FAILED, 6, "bank", "shop", 10),
        step(OK, 7, "bank", "shop", 1),
    ],
    bank=(0, 2, 0, 0),
    shop=(0, 0, 0, 2),
)
case(
    "a chain that fails at once, or at its end",
    [
        step(Status.CODE_MUST_NOT_BE_ZERO, 1, "bank", "shop", 10, LINKED, code=0),
        step(Status.LINKED_EVENT_FAILED, 2, "bank", "shop", 10),
        step(Status.LINKED_EVENT_FAILED, 3, "bank", "shop", 10, LINKED),
        step(Status.CODE_MUST_NOT_BE_ZERO, 4, "bank", "shop", 10, code=0),
    ],
)
case(
    "a chain that never ends fails with the batch",
    [
        step(OK, 1, "bank", "shop", 1),
        step(Status.LINKED_EVENT_FAILED, 2, "bank", "shop", 10, LINKED),
        step(Status.LINKED_EVENT_CHAIN_OPEN, 3, "bank", "shop", 10, LINKED),
    ],
    [step(Status.LINKED_EVENT_CHAIN_OPEN, 4, "bank", "shop", 10, LINKED)],
    [step(OK, 2, "bank", "shop", 1), step(OK, 3, "bank", "shop", 1)],
    bank=(0, 3, 0, 0),
    shop=(0, 0, 0, 3),
)
case(
    "a broken chain that never ends is both",
    [
        step(Status.LINKED_EVENT_FAILED, 1, "bank", "shop", 10, LINKED),
        step(Status.CODE_MUST_NOT_BE_ZERO, 2, "bank", "shop", 10, LINKED, code=0),
        step(Status.LINKED_EVENT_FAILED, 3, "bank", "shop", 10, LINKED),
        step(Status.LINKED_EVENT_CHAIN_OPEN, 4, "bank", "shop", 10, LINKED),
    ],
)
case(
    "an open chain is found before anything else is wrong",
    [step(Status.LINKED_EVENT_CHAIN_OPEN, NIL, NIL, NIL, 10, LINKED | POST | VOID, ledger=0, code=0)],
    [
        step(Status.CODE_MUST_NOT_BE_ZERO, 1, "bank", "shop", 1, LINKED, code=0),
        step(Status.LINKED_EVENT_FAILED, NIL, NIL, NIL, 10, POST | VOID, ledger=0, code=0),
    ],
)
case(
    "a transfer that exists breaks the chain it stands in",
    [step(OK, 1, "bank", "shop", 1)],
    [
        step(Status.LINKED_EVENT_FAILED, 2, "bank", "shop", 10, LINKED),
        step(EXISTS, 1, "bank", "shop", 1),
        step(OK, 3, "bank", "shop", 2, LINKED),
        step(OK, 4, "bank", "shop", 2),
    ],
    [
        step(Status.EXISTS, 3, "bank", "shop", 2, LINKED),
        step(Status.LINKED_EVENT_FAILED, 4, "bank", "shop", 2),
        step(EXISTS, 4, "bank", "shop", 2),
    ],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
case(
    "the same transfer twice in a chain breaks it, and leaves no trace of the first",
    [
        step(Status.LINKED_EVENT_FAILED, 1, "bank", "shop", 10, LINKED),
        step(EXISTS, 1, "bank", "shop", 10, LINKED, moves=0),
        step(Status.LINKED_EVENT_FAILED, 2, "bank", "shop", 10),
        step(OK, 1, "bank", "shop", 3),
    ],
    [step(EXISTS, 1, "bank", "shop", 3)],
    bank=(0, 3, 0, 0),
    shop=(0, 0, 0, 3),
)
case(
    "what a chain made itself is gone with it, so that nothing stands",
    [FUND, step(OK, 91, "bank", "shop", 5, PENDING)],
    [
        step(Status.LINKED_EVENT_FAILED, 1, "purse", "shop", 99, LINKED | BALANCING_DEBIT),
        step(Status.LINKED_EVENT_FAILED, 2, "bank", "shop", 1, LINKED),
        step(EXISTS, 1, "purse", "shop", 99, LINKED | BALANCING_DEBIT, moves=0),
        step(Status.LINKED_EVENT_FAILED, 3, "bank", "shop", 1),
        step(Status.LINKED_EVENT_FAILED, 4, NIL, NIL, 0, LINKED | VOID, pending=91, ledger=0, code=0),
        step(EXISTS, 4, NIL, NIL, 0, LINKED | VOID, pending=91, ledger=0, code=0, moves=0),
        step(Status.LINKED_EVENT_FAILED, 5, "bank", "shop", 1),
        step(OK, 1, "purse", "shop", 4, BALANCING_DEBIT),
        step(Status.LINKED_EVENT_FAILED, 6, "bank", "shop", 1, LINKED),
        step(EXISTS, 1, "purse", "shop", 99, BALANCING_DEBIT, moves=4),
    ],
    bank=(5, 10, 0, 0),
    purse=(0, 4, 0, 10),
    shop=(0, 0, 5, 4),
)
case(
    "in a broken chain only the one that failed for a passing reason stays failed",
    [
        step(Status.LINKED_EVENT_FAILED, 1, "bank", "shop", 10, LINKED),
        step(Status.EXCEEDS_CREDITS, 2, "purse", "shop", 10, LINKED),
        step(Status.LINKED_EVENT_FAILED, 3, "purse", "shop", 10),
        step(Status.ID_ALREADY_FAILED, 2, "bank", "shop", 1),
    ],
    [
        step(OK, 1, "bank", "shop", 1),
        step(Status.ID_ALREADY_FAILED, 2, "bank", "shop", 1),
        step(OK, 3, "bank", "shop", 1),
    ],
    [
        step(Status.LINKED_EVENT_FAILED, 4, "bank", "shop", 1, LINKED),
        step(Status.ID_ALREADY_FAILED, 2, "bank", "shop", 1),
    ],
    bank=(0, 2, 0, 0),
    shop=(0, 0, 0, 2),
)
case(
    "a broken chain takes back reservations, posts, voids, closings and reopenings",
    [
        step(OK, 90, "bank", "shop", 5, PENDING),
        step(OK, 91, "bank", "shop", 7, PENDING),
        step(OK, 92, "mint", "shop", 0, PENDING | CLOSING_DEBIT),
    ],
    [
        step(Status.LINKED_EVENT_FAILED, 1, "bank", "shop", 2, _NEXT),
        step(Status.LINKED_EVENT_FAILED, 2, NIL, NIL, 5, LINKED | POST, pending=90, ledger=0, code=0),
        step(Status.LINKED_EVENT_FAILED, 3, NIL, NIL, 7, LINKED | VOID, pending=91, ledger=0, code=0),
        step(Status.LINKED_EVENT_FAILED, 4, NIL, NIL, 0, LINKED | VOID, pending=92, ledger=0, code=0),
        step(Status.LINKED_EVENT_FAILED, 5, "mint", "shop", 4, LINKED),
        step(Status.LINKED_EVENT_FAILED, 6, "bank", "shop", 0, _NEXT | CLOSING_CREDIT),
        step(Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 7, "bank", "shop", 1),
        step(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 8, "mint", "shop", 4),
        step(OK, 9, "bank", "shop", 1),
    ],
    [post(OK, 2, 90, 5, moves=5), void(OK, 3, 91, moves=7), post(Status.PENDING_TRANSFER_NOT_FOUND, 10, 1, 2)],
    closed=["mint"],
    bank=(0, 6, 0, 0),
    shop=(0, 0, 0, 6),
)
case(
    "a chain posts what it has reserved itself",
    [
        step(OK, 1, "bank", "shop", 5, _NEXT),
        step(OK, 2, NIL, NIL, 4, LINKED | POST, pending=1, ledger=0, code=0),
        step(OK, 3, "shop", "mint", AMOUNT_MAX, BALANCING_DEBIT, moves=4),
    ],
    bank=(0, 4, 0, 0),
    shop=(0, 4, 0, 4),
    mint=(0, 0, 0, 4),
)
case(
    "linked is a part of what a transfer says",
    [step(OK, 1, "bank", "shop", 5, LINKED), step(OK, 2, "bank", "shop", 5)],
    [step(Status.EXISTS_WITH_DIFFERENT_FLAGS, 1, "bank", "shop", 5)],
    [
        step(Status.EXISTS_WITH_DIFFERENT_FLAGS, 2, "bank", "shop", 5, LINKED),
        step(Status.LINKED_EVENT_FAILED, 3, "bank", "shop", 5),
    ],
    bank=(0, 10, 0, 0),
    shop=(0, 0, 0, 10),
)
