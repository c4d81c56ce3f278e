"""Cases of pending transfers, of what posts or voids them, and of closed accounts."""

from __future__ import annotations

from typing import Any

from tallystick.ledger.contract import AMOUNT_MAX, Status
from tests.ledger.conformance import (
    BALANCING_DEBIT,
    CLOSING_CREDIT,
    CLOSING_DEBIT,
    EXISTS,
    FUND,
    MAX,
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

# Pending

_HOLD = step(OK, 90, "bank", "shop", 5, PENDING, cause=1)
case(
    "a pending transfer reserves",
    [_HOLD, step(EXISTS, 90, "bank", "shop", 5, PENDING, cause=1)],
    bank=(5, 0, 0, 0),
    shop=(0, 0, 5, 0),
)
case(
    "what is reserved cannot be spent, nor what has not come",
    [FUND, step(OK, 1, "purse", "shop", 7, PENDING), step(Status.EXCEEDS_CREDITS, 2, "purse", "shop", 4)],
    [step(Status.EXCEEDS_CREDITS, 3, "purse", "shop", 4, PENDING), step(OK, 4, "bank", "purse", 1, PENDING)],
    [step(Status.EXCEEDS_CREDITS, 5, "purse", "shop", 4), step(OK, 6, "purse", "shop", 3)],
    bank=(1, 10, 0, 0),
    purse=(7, 3, 1, 10),
    shop=(0, 0, 7, 3),
)
case(
    "what is reserved cannot be given back, nor what has not gone",
    [step(OK, 1, "debt", "shop", 10), step(OK, 2, "bank", "debt", 7, PENDING)],
    [step(Status.EXCEEDS_DEBITS, 3, "bank", "debt", 4), step(OK, 4, "debt", "shop", 1, PENDING)],
    [step(Status.EXCEEDS_DEBITS, 5, "bank", "debt", 4, PENDING), step(OK, 6, "bank", "debt", 3)],
    bank=(7, 3, 0, 0),
    debt=(1, 10, 7, 3),
    shop=(0, 0, 1, 10),
)
for word, post_step, posted in (
    ("all of it, by its amount", post(OK, 1, 90, 5, moves=5), 5),
    ("all of it, by the greatest amount", post(OK, 1, 90, AMOUNT_MAX, moves=5), 5),
    ("less, the rest is free", post(OK, 1, 90, 3, moves=3), 3),
    ("nothing, and all is free", post(OK, 1, 90, 0, moves=0), 0),
    ("all of it, with every field repeated", step(OK, 1, "bank", "shop", 5, POST, pending=90, cause=2), 5),
):
    case(f"post {word}", [_HOLD], [post_step], bank=(0, posted, 0, 0), shop=(0, 0, 0, posted))
    case(f"in one batch: post {word}", [_HOLD, post_step], bank=(0, posted, 0, 0), shop=(0, 0, 0, posted))
for word, void_step in (
    ("by nothing", void(OK, 1, 90, moves=5)),
    ("by its amount", void(OK, 1, 90, 5, moves=5)),
    ("with every field repeated", step(OK, 1, "bank", "shop", 5, VOID, pending=90, cause=2)),
):
    case(f"void {word}", [_HOLD], [void_step])
    case(f"in one batch: void {word}", [_HOLD, void_step])
case(
    "a void moves all or nothing",
    [
        _HOLD,
        void(Status.EXCEEDS_PENDING_TRANSFER_AMOUNT, 1, 90, 6),
        void(Status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT, 2, 90, 4),
        void(Status.EXCEEDS_PENDING_TRANSFER_AMOUNT, 3, 90, AMOUNT_MAX),
    ],
    bank=(5, 0, 0, 0),
    shop=(0, 0, 5, 0),
)
case(
    "a post moves no more than was reserved",
    [_HOLD, post(Status.EXCEEDS_PENDING_TRANSFER_AMOUNT, 1, 90, 6)],
    [post(Status.EXCEEDS_PENDING_TRANSFER_AMOUNT, 1, 90, AMOUNT_MAX - 1), post(OK, 1, 90, 5, moves=5)],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
case(
    "a pending transfer of nothing is posted or voided once as well",
    [step(OK, 90, "bank", "shop", 0, PENDING), step(OK, 91, "bank", "shop", 0, PENDING)],
    [post(OK, 1, 90, AMOUNT_MAX, moves=0), void(OK, 2, 91, moves=0)],
    [post(Status.PENDING_TRANSFER_ALREADY_POSTED, 3, 90, 0), void(Status.PENDING_TRANSFER_ALREADY_VOIDED, 4, 91)],
)
for within in ("one batch", "several batches"):
    steps = [
        [_HOLD, step(OK, 91, "bank", "shop", 7, PENDING)],
        [post(OK, 1, 90, 4, moves=4), void(OK, 2, 91, moves=7)],
        [post(Status.PENDING_TRANSFER_ALREADY_POSTED, 3, 90, 4), void(Status.PENDING_TRANSFER_ALREADY_POSTED, 4, 90)],
        [post(Status.PENDING_TRANSFER_ALREADY_VOIDED, 5, 91, 7), void(Status.PENDING_TRANSFER_ALREADY_VOIDED, 6, 91)],
        [post(EXISTS, 1, 90, 4, moves=4), void(EXISTS, 2, 91, moves=7)],
    ]
    case(
        f"a pending transfer is posted or voided once, in {within}",
        *([[step for batch in steps for step in batch]] if within == "one batch" else steps),
        bank=(0, 4, 0, 0),
        shop=(0, 0, 0, 4),
    )
case(
    "what is posted of a limited account needs no further credits",
    [FUND, step(OK, 1, "purse", "shop", 10, PENDING)],
    [step(Status.EXCEEDS_CREDITS, 2, "purse", "shop", 1), post(OK, 3, 1, AMOUNT_MAX, moves=10)],
    [step(Status.EXCEEDS_CREDITS, 4, "purse", "shop", 1)],
    bank=(0, 10, 0, 0),
    purse=(0, 10, 0, 10),
    shop=(0, 0, 0, 10),
)
case(
    "what a post leaves is free for another",
    [FUND, step(OK, 1, "purse", "shop", 10, PENDING), post(OK, 2, 1, 6, moves=6), step(OK, 3, "purse", "mint", 4)],
    bank=(0, 10, 0, 0),
    purse=(0, 10, 0, 10),
    shop=(0, 0, 0, 6),
    mint=(0, 0, 0, 4),
)

# Precedence of what is wrong with a post or void; 92 is posted already, 94 voided

_RESOLVED = [
    step(OK, 92, "bank", "shop", 5, PENDING, cause=1),
    post(OK, 93, 92, 5, moves=5),
    step(OK, 94, "bank", "shop", 5, PENDING),
    void(OK, 95, 94, moves=5),
]
for resolving in (POST, VOID):
    for status, pending, wrongs in (
        (Status.PENDING_ID_MUST_NOT_BE_ZERO, NIL, {}),
        (Status.PENDING_ID_MUST_NOT_BE_INT_MAX, MAX, {}),
        (Status.PENDING_ID_MUST_BE_DIFFERENT, 1, {}),
        (Status.PENDING_TRANSFER_NOT_FOUND, 99, {}),
        (Status.PENDING_TRANSFER_NOT_PENDING, 93, {}),
        (Status.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID, 92, {}),
        (Status.PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID, 92, {"debit": "shop", "credit": "bank"}),
        (Status.PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID, 92, {"debit": "bank"}),
        (Status.PENDING_TRANSFER_HAS_DIFFERENT_LEDGER, 92, {"debit": "bank", "credit": "shop"}),
        (Status.PENDING_TRANSFER_HAS_DIFFERENT_CODE, 92, {"debit": "bank", "credit": NIL, "ledger": 1}),
        (Status.EXCEEDS_PENDING_TRANSFER_AMOUNT, 92, {"debit": NIL, "credit": NIL, "ledger": 0, "code": 0}),
        (
            Status.PENDING_TRANSFER_ALREADY_POSTED,
            92,
            {"debit": NIL, "credit": "shop", "ledger": 1, "code": 7, "amount": 5},
        ),
        (
            Status.PENDING_TRANSFER_ALREADY_VOIDED,
            94,
            {"debit": "bank", "credit": "shop", "ledger": 0, "code": 7, "amount": 5},
        ),
    ):
        fields: dict[str, Any] = {
            "debit": "nobody",
            "credit": "shut",
            "amount": 6,
            "ledger": 9,
            "code": 9,
            "pending": pending,
        } | wrongs
        case(
            f"first of all that is wrong with {resolving.name}: {status.value} ({' '.join(map(str, wrongs.values()))})",
            _RESOLVED,
            [step(OK, 98, "bank", "shop", 0, PENDING | CLOSING_DEBIT | CLOSING_CREDIT)],
            [step(status, 1, flags=resolving, **fields)],
            closed=["bank", "shop"],
            bank=(0, 5, 0, 0),
            shop=(0, 0, 0, 5),
        )
case(
    "first of all that is wrong with a void: pending_transfer_has_different_amount",
    _RESOLVED,
    [void(Status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT, 1, 92, 4)],
    [void(Status.PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT, 1, 94, 4)],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
case(
    "only what is pending is posted or voided, not what posted or voided",
    _RESOLVED,
    [
        post(Status.PENDING_TRANSFER_NOT_PENDING, 1, 93, 5),
        void(Status.PENDING_TRANSFER_NOT_PENDING, 2, 95),
        step(OK, 3, "bank", "shop", 1),
        post(Status.PENDING_TRANSFER_NOT_PENDING, 4, 3, 1),
    ],
    bank=(0, 6, 0, 0),
    shop=(0, 0, 0, 6),
)

# A post or void again: what it leaves out, it takes from the pending transfer

for word, again in {
    "repeated": post(EXISTS, 93, 92, 5, moves=5),
    "by the greatest amount": post(EXISTS, 93, 92, AMOUNT_MAX, moves=5),
    "with every field filled in": step(EXISTS, 93, "bank", "shop", 5, POST, pending=92, cause=1),
    "with other flags": step(Status.EXISTS_WITH_DIFFERENT_FLAGS, 93, "mint", "mint", 4, VOID, pending=94, ledger=9),
    "of another pending transfer": step(
        Status.EXISTS_WITH_DIFFERENT_PENDING_ID, 93, "mint", "mint", 4, POST, pending=94, ledger=9
    ),
    "of none": step(Status.EXISTS_WITH_DIFFERENT_PENDING_ID, 93, NIL, NIL, 5, POST),
    "from elsewhere": step(
        Status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID,
        93,
        "mint",
        "mint",
        4,
        POST,
        pending=92,
        cause=2,
        ledger=9,
        code=9,
    ),
    "to elsewhere": step(
        Status.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID, 93, NIL, "mint", 4, POST, pending=92, cause=2, ledger=9, code=9
    ),
    "with less": step(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 93, NIL, NIL, 4, POST, pending=92, cause=2, ledger=9),
    "with nothing": post(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 93, 92, 0),
    "with more": post(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 93, 92, 6),
    "with another cause": step(
        Status.EXISTS_WITH_DIFFERENT_USER_DATA, 93, NIL, NIL, 5, POST, pending=92, cause=2, ledger=9, code=9
    ),
    "in another ledger": step(Status.EXISTS_WITH_DIFFERENT_LEDGER, 93, NIL, NIL, 5, POST, pending=92, ledger=9, code=9),
    "with another code": step(Status.EXISTS_WITH_DIFFERENT_CODE, 93, NIL, NIL, 5, POST, pending=92, ledger=0, code=9),
}.items():
    case(f"a post again, {word}", _RESOLVED, [again], bank=(0, 5, 0, 0), shop=(0, 0, 0, 5))
    case(f"a post again in the same batch, {word}", [*_RESOLVED, again], bank=(0, 5, 0, 0), shop=(0, 0, 0, 5))
case(
    "a post of less again",
    [_HOLD, post(OK, 1, 90, 3, moves=3), post(EXISTS, 1, 90, 3, moves=3)],
    [post(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 1, 90, AMOUNT_MAX), post(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 1, 90, 5)],
    bank=(0, 3, 0, 0),
    shop=(0, 0, 0, 3),
)
case(
    "a post with a cause of its own again",
    [_HOLD, step(OK, 1, NIL, NIL, 5, POST, pending=90, cause=2, ledger=0, code=0)],
    [
        step(EXISTS, 1, NIL, NIL, 5, POST, pending=90, cause=2, ledger=0, code=0),
        step(Status.EXISTS_WITH_DIFFERENT_USER_DATA, 1, NIL, NIL, 5, POST, pending=90, ledger=0, code=0),
        step(Status.EXISTS_WITH_DIFFERENT_USER_DATA, 1, NIL, NIL, 5, POST, pending=90, cause=1, ledger=0, code=0),
    ],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
case(
    "a void again",
    _RESOLVED,
    [
        void(EXISTS, 95, 94, moves=5),
        void(EXISTS, 95, 94, 5, moves=5),
        void(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 95, 94, 4),
        void(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 95, 94, AMOUNT_MAX),
        step(Status.EXISTS_WITH_DIFFERENT_USER_DATA, 95, NIL, NIL, 0, VOID, pending=94, cause=9, ledger=0, code=0),
    ],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)

# Closing

case(
    "a closing debit closes its account until it is voided",
    [step(OK, 1, "bank", "shop", 5), step(OK, 2, "bank", "shop", 3, PENDING | CLOSING_DEBIT)],
    [step(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 3, "bank", "shop", 1)],
    [step(Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 4, "shop", "bank", 0), step(OK, 5, "mint", "shop", 1)],
    [void(OK, 6, 2, moves=3), step(OK, 7, "bank", "shop", 1)],
    bank=(0, 6, 0, 0),
    shop=(0, 0, 0, 7),
    mint=(0, 1, 0, 0),
)
case(
    "a closing credit closes its account until it is voided",
    [step(OK, 1, "bank", "shop", 0, PENDING | CLOSING_CREDIT), step(OK, 2, "bank", "mint", 1)],
    [step(Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 3, "bank", "shop", 1)],
    [step(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 4, "shop", "bank", 1), void(OK, 5, 1, moves=0)],
    [step(OK, 6, "bank", "shop", 1)],
    bank=(0, 2, 0, 0),
    shop=(0, 0, 0, 1),
    mint=(0, 0, 0, 1),
)
case(
    "a transfer may close both",
    [step(OK, 1, "bank", "shop", 2, PENDING | CLOSING_DEBIT | CLOSING_CREDIT)],
    [step(EXISTS, 1, "bank", "shop", 2, PENDING | CLOSING_DEBIT | CLOSING_CREDIT)],
    [step(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 2, "bank", "shop", 2, PENDING | CLOSING_DEBIT | CLOSING_CREDIT)],
    [post(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 3, 1, 2)],
    closed=["bank", "shop"],
    bank=(2, 0, 0, 0),
    shop=(0, 0, 2, 0),
)
case(
    "a closing transfer cannot be posted, for its account is closed",
    [step(OK, 1, "bank", "shop", 2, PENDING | CLOSING_DEBIT), step(OK, 2, "mint", "shop", 2, PENDING | CLOSING_CREDIT)],
    [post(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 3, 1, 2), post(Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 4, 2, 2)],
    [post(Status.ID_ALREADY_FAILED, 3, 1, 2), void(OK, 5, 1, moves=2), void(OK, 6, 2, moves=2)],
)
case(
    "in a closed account a pending transfer can be voided, not posted",
    [step(OK, 1, "bank", "shop", 2, PENDING), step(OK, 2, "mint", "bank", 3, PENDING)],
    [step(OK, 3, "bank", "mint", 0, PENDING | CLOSING_DEBIT)],
    [post(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 4, 1, 2), post(Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 5, 2, 3)],
    [void(OK, 6, 1, moves=2), void(OK, 7, 2, moves=3)],
    closed=["bank"],
)
case(
    "an account that was reopened may be closed again, and what came before be posted",
    [step(OK, 1, "bank", "shop", 2, PENDING), step(OK, 2, "bank", "shop", 0, PENDING | CLOSING_DEBIT)],
    [void(OK, 3, 2, moves=0), post(OK, 4, 1, 2, moves=2), step(OK, 5, "shop", "bank", 1, PENDING | CLOSING_CREDIT)],
    closed=["bank"],
    bank=(0, 2, 1, 0),
    shop=(1, 0, 0, 2),
)
case(
    "only the transfer that closed an account reopens it",
    [step(OK, 1, "bank", "shop", 2, PENDING), step(OK, 2, "bank", "mint", 0, PENDING | CLOSING_DEBIT | CLOSING_CREDIT)],
    [void(OK, 3, 1, moves=2), step(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 4, "bank", "shop", 1)],
    closed=["bank", "mint"],
)
case(
    "a closing transfer respects limits, and may balance",
    [FUND, step(Status.EXCEEDS_CREDITS, 1, "purse", "bank", 11, PENDING | CLOSING_DEBIT)],
    [step(OK, 2, "purse", "bank", AMOUNT_MAX, PENDING | CLOSING_DEBIT | BALANCING_DEBIT, moves=10)],
    closed=["purse"],
    bank=(0, 10, 10, 0),
    purse=(10, 0, 0, 10),
)
case(
    "an account may be opened closed",
    [step(Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 1, "shut", "bank", 0)],
    [step(Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 2, "bank", "sealed", 0, PENDING)],
)
