"""The HTTP surface, put together."""

from __future__ import annotations

import psycopg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import tallystick
from tallystick.kernel.errors import TallyError
from tallystick.service import Service
from tallystick.web import (
    account_management,
    credits_service,
    docs,
    events,
    native_agents,
    native_agreements,
    native_assets,
    native_catalogue,
    native_customers,
    native_exchange,
    native_grants,
    native_holds,
    native_jobs,
    native_keys,
    native_kinds,
    native_notices,
    native_operations,
    native_postings,
    native_pulls,
    native_quarantine,
    native_readings,
    native_resources,
    native_test_clock,
    native_transactions,
    native_webhooks,
    openstack_credits,
    operations_surface,
    platform_admin,
    platform_billing,
    platform_customers,
    prometheus,
)
from tallystick.web.edge import Edge
from tallystick.web.gate import Gate
from tallystick.web.problems import answer

ROUTERS = (
    events.router,
    credits_service.router,
    credits_service.users,
    openstack_credits.router,
    account_management.router,
    prometheus.router,
    native_catalogue.router,
    native_kinds.router,
    native_customers.router,
    native_agents.router,
    native_resources.router,
    native_postings.router,
    native_postings.months,
    native_grants.router,
    native_agreements.router,
    native_holds.router,
    native_operations.router,
    native_quarantine.router,
    native_readings.router,
    native_pulls.router,
    native_jobs.router,
    native_keys.router,
    native_test_clock.router,
    native_assets.router,
    native_exchange.router,
    native_transactions.router,
    native_webhooks.router,
    native_notices.router,
    native_notices.of_customers,
    native_webhooks.of_customers,
    platform_billing.router,
    platform_admin.router,
    platform_customers.admin,
    platform_customers.customers,
    operations_surface.router,
    docs.router,
)
"""The busiest first: routes are tried in this order."""


EXPOSED = ("X-Request-ID", "Retry-After", "WWW-Authenticate")
"""Headers of answers that pages of other origins may read."""


def create_app(service: Service) -> FastAPI:
    """The application over an open service. Opening and closing the service is the caller's business."""
    settings = service.settings
    middleware = [
        Middleware(Edge, traffic=service.traffic),
        Middleware(Gate, settings=settings, clock=service.clock, directory=service.access.directory),
    ]
    if origins := [origin.strip() for origin in settings.cors_allowed_origins.split(",") if origin.strip()]:
        # Outside the gate: a preflight carries no key.
        middleware.insert(
            1,
            Middleware(
                CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
            ),
        )
    app = FastAPI(
        title="Tallystick",
        description="Usage in, money out, nothing lost.",
        version=tallystick.__version__,
        middleware=middleware,
        exception_handlers=dict.fromkeys(
            (TallyError, HTTPException, RequestValidationError, psycopg.OperationalError, psycopg.InterfaceError),
            answer,
        ),
        openapi_url=None,  # FastAPI's page takes its scripts from a foreign host; ``docs`` has ours
        redirect_slashes=False,
    )
    app.state.service = service
    for router in ROUTERS:
        for route in router.routes:
            app.router.routes.append(route)
    return app
