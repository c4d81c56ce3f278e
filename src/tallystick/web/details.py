"""Refusals as ``{"detail": ...}``: what OpenAPI says of them on the surfaces whose callers know them so."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Detail(BaseModel):
    detail: str


class Fault(BaseModel):
    type: str
    loc: list[str | int]
    msg: str


class Faults(BaseModel):
    detail: list[Fault] | str


def details(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These refusals, and those of any request that has a body or parameters."""
    models: dict[int | str, dict[str, Any]] = {422: {"model": Faults}}
    return models | {status: {"model": Detail} for status in (*statuses, 413, 429, 503)}
