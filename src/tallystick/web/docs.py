"""The description of the routes, and its page: Swagger UI, whose files all come from here, none from a foreign host."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tallystick.access.callers import Scope
from tallystick.settings import Settings
from tallystick.web.gate import is_open
from tallystick.web.permissions import PERMISSIONS
from tallystick.web.problems import Surface, surface_of
from tallystick.web.routes import LeanRoute

PACKAGE = "fastapi_offline"
"""Brings the files of Swagger UI in its folder ``static``."""

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; "  # Swagger UI sets style attributes
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "max-age=3600",
}

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tallystick: routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"><noscript>The routes are described in <a href="/openapi.json">/openapi.json</a>.</noscript></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

START = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true });\n'

_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "start.js": "text/javascript"}

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "one sentence that names the field and the rule"},
        "code": {"type": "string", "description": "stable, for programs"},
        "field": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"field": {"type": "string"}, "detail": {"type": "string"}}},
        },
    },
}

router = APIRouter(route_class=LeanRoute, include_in_schema=False)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    state = request.app.state
    if not hasattr(state, "openapi"):  # it takes a moment, which starting the service need not wait for
        state.openapi = msgspec.json.encode(describe(request.app, state.service.settings))
    return Response(state.openapi, media_type="application/json")


@router.get("/docs")
async def page(request: Request) -> Response:
    return Response(PAGE, headers=HEADERS, media_type="text/html")


@router.get("/api/doc")
async def old_page(request: Request) -> Response:
    """The same, where the OpenStack credits service had it."""
    return Response(PAGE, headers=HEADERS, media_type="text/html")


@router.get("/docs/{name}")
async def asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _TYPES:
        raise HTTPException(404)
    return Response(_content(name), headers=HEADERS, media_type=_TYPES[name])


@cache
def _content(name: str) -> bytes:
    return START.encode() if name == "start.js" else files(PACKAGE).joinpath("static", name).read_bytes()


def describe(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document of the routes; which of them ask for a key depends on the settings."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["components"]["schemas"]["Problem"] = PROBLEM
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer"},
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "account_token": {"type": "apiKey", "in": "header", "name": "X-Token"},
        "second_factor": {"type": "apiKey", "in": "header", "name": "TWO-FA"},
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if security := _security(settings, method.upper(), path):
                operation["security"] = security
    return document


def _security(settings: Settings, method: str, path: str) -> list[dict[str, list[str]]]:
    """What a caller shows, and which scope it must have; of several, one is enough."""
    permission, surface = PERMISSIONS.of_route(method, path), surface_of(path)
    if permission is None or permission.scope is None or is_open(settings, surface):
        return []
    scope = permission.scope
    shown: list[tuple[str, ...]] = [("key",), ("token",)] if settings.oidc_issuer is not None else [("key",)]
    match surface:
        case Surface.ACCOUNTS:
            shown = [("account_token", "second_factor")] if scope is Scope.WIPE else [("account_token",)]
        case Surface.CREDITS_SERVICE:
            shown = [("key",)]
        case Surface.PLATFORM:
            shown = [("token",), ("key",)]
    return [{scheme: [str(scope)] for scheme in schemes} for schemes in shown]
