"""The one shape of every refusal: a stable code, an HTTP status and a sentence.

A surface decides how to say it (problem+json, ``detail``, reason phrase); the rule that was broken is stated once,
where it is enforced.
"""

from __future__ import annotations


class TallyError(Exception):
    """Base of all refusals.

    ``str(error)`` is one sentence that names the field and the rule, fit to be shown to the caller.
    """

    code: str = "internal_error"
    status: int = 500

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class InvalidInput(TallyError):
    """A field breaks its rule; nothing was changed."""

    code = "invalid_input"
    status = 422


class NotFound(TallyError):
    """The named thing does not exist."""

    code = "not_found"
    status = 404


class Conflict(TallyError):
    """The request contradicts what is already stored; nothing was changed."""

    code = "conflict"
    status = 409


class TooLarge(TallyError):
    """A body, batch or nesting exceeds its limit; nothing was read."""

    code = "too_large"
    status = 413


class Overloaded(TallyError):
    """A bounded queue is full; the same request may be sent again after ``retry_after_seconds``."""

    code = "overloaded"
    status = 429

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(TallyError):
    """Something this request needs (database, ledger) cannot be reached at the moment."""

    code = "unavailable"
    status = 503
