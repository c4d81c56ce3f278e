"""What a rule must be before it is kept: pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tallystick.customers.service import check_email
from tallystick.kernel.errors import InvalidInput
from tallystick.kernel.money import MAX_AMOUNT, format_amount
from tallystick.notices.model import GOVERNANCE, MAINTAINERS, NewRule
from tallystick.notices.placeholders import check_placeholders, check_template

MAX_RECIPIENTS: Final = 50
MAX_SHARE_DECIMALS: Final = 6
MAX_DAYS: Final = 366
MAX_FACTOR: Final = 1_000


def check_rule(new: NewRule) -> None:
    """Raises ``InvalidInput`` naming the field of a definition that breaks its rule."""
    _check_threshold(new)
    if new.kind == "balance" and new.asset is None:
        raise InvalidInput("asset must be given for a rule of the kind balance", field="asset")
    if not new.recipients:
        raise InvalidInput("recipients must not be empty", field="recipients")
    check_recipients(new.recipients, "recipients")
    check_recipients(new.copies, "copies")
    check_placeholders(new.placeholders)
    if new.subject is None and new.body is None:
        if new.placeholders:
            raise InvalidInput("placeholders need a subject and a body that name them", field="placeholders")
        return
    if new.subject is None:
        raise InvalidInput("subject must be given with a body", field="subject")
    if new.body is None:
        raise InvalidInput("body must be given with a subject", field="body")
    check_template(new.subject, new.body, new.placeholders)


def check_recipients(names: Iterable[str], field: str) -> None:
    """Raises ``InvalidInput`` unless these are different addresses, or ``maintainers`` and ``governance``."""
    known: set[str] = set()
    for name in names:
        if name not in (MAINTAINERS, GOVERNANCE):
            try:
                check_email(name)
            except InvalidInput:
                raise InvalidInput(
                    f"{field} must be e-mail addresses, {MAINTAINERS!r} or {GOVERNANCE!r}: {name!r} is none",
                    field=field,
                ) from None
        if name.lower() in known:
            raise InvalidInput(f"{field} must name everybody once: {name!r} is there twice", field=field)
        known.add(name.lower())
    if len(known) > MAX_RECIPIENTS:
        raise InvalidInput(f"{field} must be at most {MAX_RECIPIENTS}", field=field)


def _check_threshold(new: NewRule) -> None:
    threshold = new.threshold
    match new.kind:
        case "share":
            if not 0 <= threshold <= 1:
                raise InvalidInput("threshold of a share must be from 0 to 1", field="threshold")
            _check_decimals(threshold)
        case "balance":
            if abs(threshold) > MAX_AMOUNT or threshold != int(threshold):
                raise InvalidInput(f"threshold must not exceed {format_amount(MAX_AMOUNT)}", field="threshold")
        case "forecast":
            if not 1 <= threshold <= MAX_DAYS or threshold != int(threshold):
                raise InvalidInput(f"threshold of a forecast must be 1 to {MAX_DAYS} whole days", field="threshold")
        case "unusual":
            if not 1 < threshold <= MAX_FACTOR:
                raise InvalidInput(f"threshold must be a factor above 1, at most {MAX_FACTOR}", field="threshold")
            _check_decimals(threshold)


def _check_decimals(threshold: Decimal) -> None:
    if threshold != round(threshold, MAX_SHARE_DECIMALS):
        raise InvalidInput(f"threshold must have at most {MAX_SHARE_DECIMALS} decimal places", field="threshold")
