"""Cases of single transfers: ids, limits, balancing, overflow, and what is wrong first."""

from __future__ import annotations

from typing import Any

from tallystick.ledger.contract import AMOUNT_MAX, Result, Status
from tests.ledger.conformance import (
    BALANCING_CREDIT,
    BALANCING_DEBIT,
    CLOSING_CREDIT,
    CLOSING_DEBIT,
    EXISTS,
    FUND,
    MAX,
    NIL,
    NONE,
    OK,
    PENDING,
    POST,
    VOID,
    Cases,
    Step,
    post,
    step,
    void,
)

CASES = Cases()
case = CASES.add

# One transfer

case(
    "a transfer raises the debits of one account and the credits of the other",
    [step(OK, 1, "bank", "shop", 5)],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
case(
    "a transfer of nothing stands and moves nothing",
    [step(OK, 1, "bank", "shop", 0), step(EXISTS, 1, "bank", "shop", 0)],
)
case(
    "debits may reach the credits and not exceed them",
    [step(OK, 1, "bank", "purse", 10), step(OK, 2, "purse", "shop", 4)],
    [step(Status.EXCEEDS_CREDITS, 3, "purse", "shop", 7), step(OK, 4, "purse", "shop", 6)],
    [step(Status.EXCEEDS_CREDITS, 5, "purse", "shop", 1), step(OK, 6, "purse", "shop", 0)],
    bank=(0, 10, 0, 0),
    purse=(0, 10, 0, 10),
    shop=(0, 0, 0, 10),
)
case(
    "credits may reach the debits and not exceed them",
    [step(OK, 1, "debt", "shop", 10), step(OK, 2, "bank", "debt", 4)],
    [step(Status.EXCEEDS_DEBITS, 3, "bank", "debt", 7), step(OK, 4, "bank", "debt", 6)],
    [step(Status.EXCEEDS_DEBITS, 5, "bank", "debt", 1), step(OK, 6, "bank", "debt", 0)],
    bank=(0, 10, 0, 0),
    debt=(0, 10, 0, 10),
    shop=(0, 0, 0, 10),
)
case(
    "the limits of both accounts hold at once",
    [step(OK, 1, "bank", "purse", 10), step(OK, 2, "debt", "shop", 4)],
    [step(Status.EXCEEDS_DEBITS, 3, "purse", "debt", 5), step(OK, 4, "purse", "debt", 4)],
    [step(Status.EXCEEDS_DEBITS, 5, "purse", "debt", 6)],
    bank=(0, 10, 0, 0),
    purse=(0, 4, 0, 10),
    debt=(0, 4, 0, 4),
    shop=(0, 0, 0, 4),
)

# Ids

case(
    "the same transfer again changes nothing, within a batch and after it",
    [step(OK, 1, "bank", "shop", 5, cause=3), step(EXISTS, 1, "bank", "shop", 5, cause=3)],
    [step(EXISTS, 1, "bank", "shop", 5, cause=3)],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
case(
    "nil and the greatest id name no transfer",
    [
        step(Status.ID_MUST_NOT_BE_ZERO, NIL, "bank", "shop", 5),
        step(Status.ID_MUST_NOT_BE_INT_MAX, MAX, "bank", "shop", 5),
    ],
)
_DIFFERENCES: dict[str, tuple[Status, dict[str, Any]]] = {
    "everything": (Status.EXISTS_WITH_DIFFERENT_FLAGS, {"flags": POST | VOID, "pending": 9}),
    "all but the flags": (Status.EXISTS_WITH_DIFFERENT_PENDING_ID, {"pending": 9}),
    "all from the debit account on": (Status.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID, {}),
    "all from the credit account on": (Status.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID, {"debit": "bank"}),
    "all from the amount on": (Status.EXISTS_WITH_DIFFERENT_AMOUNT, {"debit": "bank", "credit": "shop"}),
    "all from the cause on": (
        Status.EXISTS_WITH_DIFFERENT_USER_DATA,
        {"debit": "bank", "credit": "shop", "amount": 5},
    ),
    "ledger and code": (
        Status.EXISTS_WITH_DIFFERENT_LEDGER,
        {"debit": "bank", "credit": "shop", "amount": 5, "cause": 3},
    ),
    "the code": (
        Status.EXISTS_WITH_DIFFERENT_CODE,
        {"debit": "bank", "credit": "shop", "amount": 5, "cause": 3, "ledger": 1},
    ),
}
_UNLIKE: dict[str, Any] = {"debit": NIL, "credit": NIL, "amount": 4, "ledger": 0, "code": 0, "cause": 4}
for later, (status, changes) in _DIFFERENCES.items():
    batch = [
        step(OK, 1, "bank", "shop", 5, cause=3),
        step(status, 1, **_UNLIKE | changes),
    ]
    case(
        f"a known id with another value in {later}: {status.value}",
        [*batch[:1], step(EXISTS, 1, "bank", "shop", 5, cause=3)],
        batch[1:],
        bank=(0, 5, 0, 0),
        shop=(0, 0, 0, 5),
    )
    case(f"the same within one batch: {status.value}", batch, bank=(0, 5, 0, 0), shop=(0, 0, 0, 5))
for word, amount in (("more", 6), ("nothing", 0), ("the greatest amount", AMOUNT_MAX)):
    case(
        f"a known id with {word}",
        [step(OK, 1, "bank", "shop", 5), step(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 1, "bank", "shop", amount)],
        bank=(0, 5, 0, 0),
        shop=(0, 0, 0, 5),
    )
case(
    "a cause is neither added nor taken away later",
    [step(OK, 1, "bank", "shop", 5), step(OK, 2, "bank", "shop", 5, cause=1)],
    [
        step(Status.EXISTS_WITH_DIFFERENT_USER_DATA, 1, "bank", "shop", 5, cause=1),
        step(Status.EXISTS_WITH_DIFFERENT_USER_DATA, 2, "bank", "shop", 5),
    ],
    bank=(0, 10, 0, 0),
    shop=(0, 0, 0, 10),
)

# An id that failed for a reason that may pass stays failed

for failed, repaired in {
    step(Status.EXCEEDS_CREDITS, 1, "purse", "shop", 5): [FUND],
    step(Status.EXCEEDS_DEBITS, 1, "bank", "debt", 5): [step(OK, 91, "debt", "bank", 10)],
    step(Status.PENDING_TRANSFER_NOT_FOUND, 1, NIL, NIL, 5, POST, pending=92, ledger=0, code=0): [
        step(OK, 92, "bank", "shop", 5, PENDING)
    ],
}.items():
    sums: dict[str, Any] = {
        Status.EXCEEDS_CREDITS: {"bank": (0, 10, 0, 0), "purse": (0, 0, 0, 10)},
        Status.EXCEEDS_DEBITS: {"debt": (0, 10, 0, 0), "bank": (0, 0, 0, 10)},
        Status.PENDING_TRANSFER_NOT_FOUND: {"bank": (5, 0, 0, 0), "shop": (0, 0, 5, 0)},
    }[failed.expected.status]
    again = Step(Result(Status.ID_ALREADY_FAILED), *list(vars(failed).values())[1:])
    case(f"{failed.expected.status.value}, and again in the next batches", [failed], repaired, [again], [again], **sums)
    case(f"{failed.expected.status.value}, and again in the same batch", [failed, *repaired, again, again], **sums)
for status, debit, credit in (
    (Status.DEBIT_ACCOUNT_NOT_FOUND, "nobody", "shop"),
    (Status.CREDIT_ACCOUNT_NOT_FOUND, "bank", "nobody"),
    (Status.DEBIT_ACCOUNT_ALREADY_CLOSED, "shut", "shop"),
    (Status.CREDIT_ACCOUNT_ALREADY_CLOSED, "bank", "shut"),
):
    case(
        f"{status.value} stays failed, whatever comes under its id",
        [step(status, 1, debit, credit, 5), step(Status.ID_ALREADY_FAILED, 1, "bank", "shop", 5)],
        [step(Status.ID_ALREADY_FAILED, 1, "bank", "shop", 5), step(OK, 2, "bank", "shop", 1)],
        [step(Status.ID_ALREADY_FAILED, 1, NIL, NIL, 5, POST | VOID, ledger=0)],
        bank=(0, 1, 0, 0),
        shop=(0, 0, 0, 1),
    )
for status, wrong in {
    Status.CODE_MUST_NOT_BE_ZERO: step(Status.CODE_MUST_NOT_BE_ZERO, 1, "bank", "shop", 5, code=0),
    Status.ACCOUNTS_MUST_BE_DIFFERENT: step(Status.ACCOUNTS_MUST_BE_DIFFERENT, 1, "bank", "bank", 5),
    Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER: step(Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER, 1, "bank", "dollars", 5),
    Status.EXCEEDS_PENDING_TRANSFER_AMOUNT: post(Status.EXCEEDS_PENDING_TRANSFER_AMOUNT, 1, 90, 6),
}.items():
    case(
        f"{status.value} leaves no trace: the id may come again",
        [step(OK, 90, "bank", "shop", 5, PENDING), wrong],
        [step(OK, 1, "bank", "shop", 5)],
        bank=(5, 5, 0, 0),
        shop=(0, 0, 5, 5),
    )
case(
    "an overflow leaves no trace: the id may come again",
    [step(OK, 90, "bank", "shop", AMOUNT_MAX), step(Status.OVERFLOWS_DEBITS_POSTED, 1, "bank", "mint", 1)],
    [step(OK, 1, "bank", "mint", 0)],
    bank=(0, AMOUNT_MAX, 0, 0),
    shop=(0, 0, 0, AMOUNT_MAX),
)

# Precedence of what is wrong with a new transfer: each is wrong in the named way and in all that may come after it

_ALL_WRONG: dict[str, Any] = {
    "amount": AMOUNT_MAX,
    "flags": CLOSING_DEBIT | CLOSING_CREDIT,
    "pending": 9,
    "ledger": 0,
    "code": 0,
}
_NOT_PENDING = _ALL_WRONG | {"pending": NIL}
_NO_LEDGER = _NOT_PENDING | {"flags": NONE}
_NO_CODE = _NO_LEDGER | {"ledger": 978}
_BELIEVABLE = _NO_CODE | {"code": 7}
for status, id_, debit, credit, wrongs in (
    (Status.ID_MUST_NOT_BE_ZERO, NIL, NIL, NIL, _ALL_WRONG | {"flags": POST | VOID}),
    (Status.ID_MUST_NOT_BE_INT_MAX, MAX, NIL, NIL, _ALL_WRONG | {"flags": POST | VOID}),
    (Status.FLAGS_ARE_MUTUALLY_EXCLUSIVE, 1, NIL, NIL, _ALL_WRONG | {"flags": POST | VOID, "pending": NIL}),
    (Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO, 1, NIL, NIL, _ALL_WRONG),
    (Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX, 1, MAX, NIL, _ALL_WRONG),
    (Status.DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX, 1, MAX, MAX, _ALL_WRONG),
    (Status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO, 1, "nobody", NIL, _ALL_WRONG),
    (Status.CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX, 1, "nobody", MAX, _ALL_WRONG),
    (Status.ACCOUNTS_MUST_BE_DIFFERENT, 1, "nobody", "nobody", _ALL_WRONG),
    (Status.PENDING_ID_MUST_BE_ZERO, 1, "nobody", "no one", _ALL_WRONG),
    (Status.PENDING_ID_MUST_BE_ZERO, 1, "nobody", "no one", _ALL_WRONG | {"pending": MAX}),
    (Status.PENDING_ID_MUST_BE_ZERO, 1, "nobody", "no one", _ALL_WRONG | {"pending": 1, "flags": PENDING}),
    (Status.CLOSING_TRANSFER_MUST_BE_PENDING, 1, "nobody", "no one", _NOT_PENDING),
    (Status.CLOSING_TRANSFER_MUST_BE_PENDING, 1, "nobody", "no one", _NOT_PENDING | {"flags": CLOSING_CREDIT}),
    (Status.LEDGER_MUST_NOT_BE_ZERO, 1, "nobody", "no one", _NO_LEDGER),
    (Status.CODE_MUST_NOT_BE_ZERO, 1, "nobody", "no one", _NO_CODE),
    (Status.DEBIT_ACCOUNT_NOT_FOUND, 1, "nobody", "no one", _BELIEVABLE),
    (Status.DEBIT_ACCOUNT_NOT_FOUND, 1, "nobody", "shut", _BELIEVABLE),
    (Status.CREDIT_ACCOUNT_NOT_FOUND, 1, "shut", "nobody", _BELIEVABLE),
    (Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER, 1, "shut", "dollars", _BELIEVABLE),
    (Status.ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER, 1, "dollars", "shut", _BELIEVABLE),
    (Status.TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS, 1, "sealed", "shut", _BELIEVABLE),
    (Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 1, "sealed", "shut", _BELIEVABLE | {"ledger": 1}),
    (Status.DEBIT_ACCOUNT_ALREADY_CLOSED, 1, "shut", "sealed", _BELIEVABLE | {"ledger": 1, "flags": PENDING}),
    (Status.CREDIT_ACCOUNT_ALREADY_CLOSED, 1, "purse", "shut", _BELIEVABLE | {"ledger": 1}),
    (Status.EXCEEDS_CREDITS, 1, "purse", "debt", _BELIEVABLE | {"ledger": 1, "amount": 1}),
    (Status.EXCEEDS_CREDITS, 1, "purse", "debt", _BELIEVABLE | {"ledger": 1}),
    (Status.EXCEEDS_DEBITS, 1, "bank", "debt", _BELIEVABLE | {"ledger": 1}),
):
    words = " ".join(str(word) for word in (id_, debit, credit, *wrongs.values()))
    case(
        f"first of all that is wrong: {status.value} ({words})",
        [step(status, id_, debit, credit, **wrongs)],
    )
case(
    "a known id is looked at before all else",
    [step(OK, 1, "bank", "shop", 5)],
    [step(Status.EXISTS_WITH_DIFFERENT_FLAGS, 1, NIL, NIL, 5, POST | VOID, ledger=0, code=0)],
    [step(Status.EXISTS_WITH_DIFFERENT_PENDING_ID, 1, NIL, NIL, 5, pending=1, ledger=0, code=0)],
    bank=(0, 5, 0, 0),
    shop=(0, 0, 0, 5),
)
for flags in (PENDING, BALANCING_DEBIT, BALANCING_CREDIT, CLOSING_DEBIT, CLOSING_CREDIT):
    for resolving in (POST, VOID):
        case(
            f"{resolving.name} does not go with {flags.name}",
            [step(OK, 90, "bank", "shop", 5, PENDING)],
            [
                step(
                    Status.FLAGS_ARE_MUTUALLY_EXCLUSIVE, 1, NIL, NIL, 5, resolving | flags, pending=90, ledger=0, code=0
                )
            ],
            bank=(5, 0, 0, 0),
            shop=(0, 0, 5, 0),
        )

# Balancing

case(
    "a balancing debit moves what the debit account has",
    [
        FUND,
        step(OK, 1, "purse", "shop", 7, BALANCING_DEBIT),
        step(OK, 2, "purse", "shop", 7, BALANCING_DEBIT, moves=3),
    ],
    [step(OK, 3, "purse", "shop", 7, BALANCING_DEBIT, moves=0)],
    bank=(0, 10, 0, 0),
    purse=(0, 10, 0, 10),
    shop=(0, 0, 0, 10),
)
case(
    "a balancing credit moves what the credit account lacks",
    [step(OK, 1, "debt", "shop", 10), step(OK, 2, "bank", "debt", 7, BALANCING_CREDIT)],
    [step(OK, 3, "bank", "debt", AMOUNT_MAX, BALANCING_CREDIT, moves=3)],
    [step(OK, 4, "bank", "debt", AMOUNT_MAX, BALANCING_CREDIT, moves=0)],
    bank=(0, 10, 0, 0),
    debt=(0, 10, 0, 10),
    shop=(0, 0, 0, 10),
)
case(
    "balancing on both sides moves the lesser of both",
    [FUND, step(OK, 1, "shop", "mint", 4)],
    [step(OK, 2, "purse", "shop", AMOUNT_MAX, BALANCING_DEBIT | BALANCING_CREDIT, moves=4)],
    [step(OK, 3, "shop", "mint", 20), step(OK, 4, "purse", "shop", 9, BALANCING_DEBIT | BALANCING_CREDIT, moves=6)],
    bank=(0, 10, 0, 0),
    purse=(0, 10, 0, 10),
    shop=(0, 24, 0, 10),
    mint=(0, 0, 0, 24),
)
case(
    "balancing works on accounts without limits, and moves nothing beyond",
    [step(OK, 1, "bank", "shop", 5), step(OK, 2, "shop", "mint", AMOUNT_MAX, BALANCING_DEBIT, moves=5)],
    [
        step(OK, 3, "bank", "mint", 9, BALANCING_DEBIT, moves=0),
        step(OK, 4, "bank", "mint", 9, BALANCING_CREDIT, moves=0),
    ],
    bank=(0, 5, 0, 0),
    shop=(0, 5, 0, 5),
    mint=(0, 0, 0, 5),
)
case(
    "balancing leaves what pending debits have reserved, and counts no pending credits",
    [FUND, step(OK, 1, "purse", "shop", 4, PENDING), step(OK, 2, "bank", "purse", 50, PENDING)],
    [step(OK, 3, "purse", "mint", AMOUNT_MAX, BALANCING_DEBIT, moves=6)],
    [void(OK, 4, 1, moves=4), step(OK, 5, "purse", "mint", AMOUNT_MAX, BALANCING_DEBIT, moves=4)],
    bank=(50, 10, 0, 0),
    purse=(0, 10, 50, 10),
    mint=(0, 0, 0, 10),
)
case(
    "balancing a credit counts its pending credits, and no pending debits",
    [
        step(OK, 1, "debt", "shop", 10),
        step(OK, 2, "bank", "debt", 4, PENDING),
        step(OK, 3, "debt", "shop", 50, PENDING),
    ],
    [step(OK, 4, "mint", "debt", AMOUNT_MAX, BALANCING_CREDIT, moves=6)],
    bank=(4, 0, 0, 0),
    debt=(50, 10, 4, 6),
    shop=(0, 0, 50, 10),
    mint=(0, 6, 0, 0),
)
case(
    "a balancing transfer may be pending: it reserves what there is",
    [FUND, step(OK, 1, "purse", "shop", 99, PENDING | BALANCING_DEBIT, moves=10)],
    [step(EXISTS, 1, "purse", "shop", 99, PENDING | BALANCING_DEBIT, moves=10)],
    [step(OK, 2, "purse", "shop", 99, PENDING | BALANCING_DEBIT, moves=0), post(OK, 3, 1, AMOUNT_MAX, moves=10)],
    bank=(0, 10, 0, 0),
    purse=(0, 10, 0, 10),
    shop=(0, 0, 0, 10),
)
case(
    "a balancing debit does not excuse the other account's limit",
    [FUND, step(Status.EXCEEDS_DEBITS, 1, "purse", "debt", 5, BALANCING_DEBIT)],
    [step(OK, 2, "debt", "bank", 4), step(OK, 3, "purse", "debt", 99, BALANCING_CREDIT, moves=4)],
    bank=(0, 10, 0, 4),
    purse=(0, 4, 0, 10),
    debt=(0, 4, 0, 4),
)
case(
    "a balancing credit does not excuse the other account's limit",
    [step(OK, 1, "debt", "bank", 4), step(Status.EXCEEDS_CREDITS, 2, "purse", "debt", 99, BALANCING_CREDIT)],
    bank=(0, 0, 0, 4),
    debt=(0, 4, 0, 0),
)
case(
    "a balancing transfer again: any amount that allows for what it moved",
    [FUND, step(OK, 1, "purse", "shop", 12, BALANCING_DEBIT, moves=10), step(OK, 91, "bank", "purse", 50)],
    [
        step(EXISTS, 1, "purse", "shop", 12, BALANCING_DEBIT, moves=10),
        step(EXISTS, 1, "purse", "shop", 10, BALANCING_DEBIT, moves=10),
        step(EXISTS, 1, "purse", "shop", AMOUNT_MAX, BALANCING_DEBIT, moves=10),
        step(Status.EXISTS_WITH_DIFFERENT_AMOUNT, 1, "purse", "shop", 9, BALANCING_DEBIT),
        step(Status.EXISTS_WITH_DIFFERENT_FLAGS, 1, "purse", "shop", 10),
        step(Status.EXISTS_WITH_DIFFERENT_FLAGS, 1, "purse", "shop", 12, BALANCING_CREDIT),
    ],
    bank=(0, 60, 0, 0),
    purse=(0, 10, 0, 60),
    shop=(0, 0, 0, 10),
)

# Overflow

NEAR = AMOUNT_MAX - 10
case(
    "sums reach the greatest amount and no further",
    [step(OK, 1, "bank", "shop", AMOUNT_MAX), step(OK, 2, "bank", "shop", 0)],
    [
        step(Status.OVERFLOWS_DEBITS_POSTED, 3, "bank", "shop", 1),
        step(Status.OVERFLOWS_CREDITS_POSTED, 4, "mint", "shop", 1),
        step(Status.OVERFLOWS_DEBITS_POSTED, 5, "bank", "mint", AMOUNT_MAX),
        step(OK, 6, "shop", "bank", AMOUNT_MAX),
    ],
    bank=(0, AMOUNT_MAX, 0, AMOUNT_MAX),
    shop=(0, AMOUNT_MAX, 0, AMOUNT_MAX),
)
case(
    "posted sums overflow, whether the next is pending or not",
    [step(OK, 1, "bank", "shop", NEAR)],
    [
        step(Status.OVERFLOWS_DEBITS_POSTED, 2, "bank", "shop", 11, PENDING),
        step(Status.OVERFLOWS_CREDITS_POSTED, 3, "mint", "shop", 11, PENDING),
        step(Status.OVERFLOWS_CREDITS_POSTED, 4, "mint", "shop", 11),
        step(OK, 5, "bank", "shop", 10, PENDING),
        step(Status.OVERFLOWS_DEBITS, 6, "bank", "mint", 1),
        step(Status.OVERFLOWS_CREDITS, 7, "mint", "shop", 1),
    ],
    bank=(10, NEAR, 0, 0),
    shop=(0, 0, 10, NEAR),
)
case(
    "pending sums overflow",
    [step(OK, 1, "bank", "shop", NEAR, PENDING)],
    [
        step(Status.OVERFLOWS_DEBITS_PENDING, 2, "bank", "shop", 11, PENDING),
        step(Status.OVERFLOWS_CREDITS_PENDING, 3, "mint", "shop", 11, PENDING),
        step(Status.OVERFLOWS_DEBITS, 4, "bank", "shop", 11),
        step(Status.OVERFLOWS_CREDITS, 5, "mint", "shop", 11),
        step(OK, 6, "bank", "shop", 10),
        step(OK, 7, NIL, NIL, AMOUNT_MAX, POST, pending=1, ledger=0, code=0, moves=NEAR),
    ],
    bank=(0, AMOUNT_MAX, 0, 0),
    shop=(0, 0, 0, AMOUNT_MAX),
)
case(
    "pending credits overflow before posted debits",
    [step(OK, 1, "bank", "mint", NEAR), step(OK, 2, "mint", "shop", NEAR, PENDING)],
    [step(Status.OVERFLOWS_CREDITS_PENDING, 3, "bank", "shop", 11, PENDING)],
    [step(Status.OVERFLOWS_DEBITS_POSTED, 4, "bank", "shop", 11)],
    bank=(0, NEAR, 0, 0),
    mint=(NEAR, 0, 0, NEAR),
    shop=(0, 0, NEAR, 0),
)
case(
    "posted credits overflow before debits altogether",
    [step(OK, 1, "bank", "mint", NEAR, PENDING), step(OK, 2, "mint", "shop", NEAR)],
    [step(Status.OVERFLOWS_CREDITS_POSTED, 3, "bank", "shop", 11)],
    bank=(NEAR, 0, 0, 0),
    mint=(0, NEAR, NEAR, 0),
    shop=(0, 0, 0, NEAR),
)
case(
    "an overflow is found before a limit",
    [step(OK, 1, "bank", "purse", AMOUNT_MAX), step(OK, 2, "purse", "debt", 0), step(OK, 3, "purse", "shop", NEAR)],
    [step(Status.OVERFLOWS_DEBITS_POSTED, 4, "purse", "debt", 11), step(Status.EXCEEDS_DEBITS, 5, "purse", "debt", 10)],
    [
        step(Status.OVERFLOWS_CREDITS_POSTED, 6, "mint", "purse", 1),
        step(Status.OVERFLOWS_CREDITS_POSTED, 7, "mint", "shop", 11),
    ],
    bank=(0, AMOUNT_MAX, 0, 0),
    purse=(0, NEAR, 0, AMOUNT_MAX),
    shop=(0, 0, 0, NEAR),
)
case(
    "balancing comes before overflow: what is not moved cannot overflow",
    [step(OK, 1, "bank", "purse", 5), step(OK, 2, "mint", "shop", NEAR)],
    [step(OK, 3, "purse", "shop", AMOUNT_MAX, BALANCING_DEBIT, moves=5)],
    [step(OK, 4, "bank", "purse", 50), step(Status.OVERFLOWS_CREDITS_POSTED, 5, "purse", "shop", 99, BALANCING_DEBIT)],
    bank=(0, 55, 0, 0),
    purse=(0, 5, 0, 55),
    mint=(0, NEAR, 0, 0),
    shop=(0, 0, 0, AMOUNT_MAX - 5),
)
