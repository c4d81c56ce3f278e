"""The documents of a Cloud Foundry platform, as far as they are looked at: Cloud Controller API v3, and UAA's tokens.

Everything that may be absent is optional. A resource that is not even this stops no other one of its page.

Source: "Cloud Foundry API", v3-apidocs.cloudfoundry.org; "UAA API Reference", docs.cloudfoundry.org/api/uaa.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tallystick.kernel.errors import TallyError

Shape = TypeVar("Shape")


class PlatformRefuses(TallyError):
    """The platform does not answer, or not as it must, and would not if it were asked again."""

    code = "platform_refuses"
    status = 502


# Resources


class _Named(msgspec.Struct):
    guid: str


class _ToOne(msgspec.Struct):
    data: _Named | None = None


class _Relationships(msgspec.Struct):
    app: _ToOne | None = None
    space: _ToOne | None = None
    organization: _ToOne | None = None
    service_plan: _ToOne | None = None
    service_offering: _ToOne | None = None


class Resource(msgspec.Struct):
    """What all resources have. Organizations, spaces, plans and offerings are no more than this here."""

    guid: str
    name: str | None = None
    relationships: _Relationships | None = None

    def related(self, name: str) -> str | None:
        """The guid of the one resource to which this relationship leads, if it does."""
        to_one: _ToOne | None = getattr(self.relationships, name, None)
        return to_one.data.guid if to_one is not None and to_one.data is not None else None


class App(Resource):
    """An app; only in the state ``STARTED`` it uses anything."""

    state: str = ""


class Process(Resource):
    """A process of an app: so many instances, each with so much memory, in MB as the platform counts them."""

    instances: int | None = None
    memory_in_mb: int | None = None


class ServiceInstance(Resource):
    """An instance of a service: ``managed`` by a broker, or ``user-provided``."""

    type: str = ""


# Pages


class Link(msgspec.Struct):
    """Where something is."""

    href: str


class Pagination(msgspec.Struct):
    """Where a page stands in its list: how long that is now, and where it goes on."""

    total_results: int
    next: Link | None = None


class Included(msgspec.Struct):
    """Resources beside those that were asked for, each as it came."""

    spaces: list[msgspec.Raw] = []
    organizations: list[msgspec.Raw] = []
    service_plans: list[msgspec.Raw] = []
    service_offerings: list[msgspec.Raw] = []


class Page(msgspec.Struct):
    """A page of a list."""

    pagination: Pagination
    resources: list[msgspec.Raw]
    included: Included | None = None


class Single(msgspec.Struct):
    """A resource that was asked for alone: what came beside it."""

    included: Included | None = None


# What stands at the entrance


class _Links(msgspec.Struct):
    uaa: Link | None = None
    login: Link | None = None


class Root(msgspec.Struct):
    """What the platform says about itself."""

    links: _Links


class Token(msgspec.Struct):
    """A token with its scopes, separated by spaces, and for how many seconds it counts."""

    access_token: str
    expires_in: int | None = None
    scope: str = ""


# Errors


class _Error(msgspec.Struct):
    title: str = ""


class Errors(msgspec.Struct):
    """Why the Cloud Controller refuses (``errors``), or UAA (``error``)."""

    errors: list[_Error] = []
    error: str = ""


def read(body: bytes, shape: type[Shape]) -> Shape:
    """A document of the platform. Raises ``PlatformRefuses``."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (ValueError, RecursionError) as error:  # msgspec's text says what and where, and repeats no content
        raise PlatformRefuses(f"the platform answered what is no {shape.__name__}: {error}") from None


def reason(body: bytes) -> str:
    """Why the platform refused, in its own one word, or nothing. Never more: what it says could repeat what we sent."""
    try:
        errors = msgspec.json.decode(body, type=Errors)
    except (ValueError, RecursionError):
        return ""
    word = errors.errors[0].title if errors.errors else errors.error
    return word if word.isascii() and word.replace("-", "").replace("_", "").isalnum() and len(word) <= 64 else ""
