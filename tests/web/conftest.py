"""The real application on a database of the test's own, asked in this process or, where it matters, through uvicorn."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from tallystick.kernel.clock import TestClock
from tallystick.operations.logconfig import LoggingState
from tallystick.service import Service, open_service
from tallystick.settings import Settings
from tallystick.web.app import create_app

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

SAYS_500 = {"/admin/usage/app/{guid}"}
"""Routes whose callers know one status for whatever cannot be done."""


def settings(**chosen: Any) -> Settings:
    """Settings of a service for everybody, except for what is chosen; nothing comes from the environment."""
    standard = {
        "dev": True,
        "api_keys": "",
        "admin_api_keys": "",
        "key_requests_per_minute": None,
        "cors_allowed_origins": "",
        "project_whitelist": None,
        "auth_token": None,
        "two_fa": None,
        "oidc_issuer": None,
        "cf_client_id": None,
        "cf_api_url": None,
    }
    return Settings(**{"business_zone": "America/New_York", "os_credits_precision": 2, **standard, **chosen})


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """``/logconfig`` changes the logging of the process: the tests' own."""
    before = LoggingState()
    yield
    before.restore()


@pytest.fixture
def clock() -> TestClock:
    return TestClock(NOW)


@pytest.fixture
async def service(database_url: str, clock: TestClock) -> AsyncIterator[Service]:
    async with open_service(settings(database_pool_size=4), database_url, clock) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the service without a network. An exception that leaves the application fails the test."""
    async with asking(service) as client:
        yield client


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to pytest and says when it is ready."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(app, port=0, http="httptools", lifespan="off", ws="none", log_config=None, access_log=False)
        )
        self.ready = asyncio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture
async def server(service: Service) -> AsyncIterator[str]:
    """The URL of the service behind uvicorn, on a free port of the loopback interface."""
    async with serving(create_app(service)) as url:
        yield url


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """The URL of an application behind uvicorn, on a free port of the loopback interface."""
    server = _Server(app)
    task = asyncio.create_task(server.serve())
    await server.ready.wait()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@asynccontextmanager
async def asking(service: Service, **chosen: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application over this service, as if it had been started with these settings."""
    app = create_app(dataclasses.replace(service, settings=settings(**chosen)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tally") as client:
        yield client
