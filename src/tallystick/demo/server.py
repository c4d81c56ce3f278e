"""The service that the demo talks to: ``tally serve --dev`` in a process of its own, as ``make run`` would start it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tallystick.database import launch
from tallystick.kernel.errors import TallyError
from tallystick.settings import Settings

START_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 90
LOG_LINES = 10


class ServiceFailed(TallyError):
    """The service did not start."""

    code = "service_failed"
    status = 503


@asynccontextmanager
async def running_service(data_dir: Path) -> AsyncIterator[str]:
    """The URL of a service on a free loopback port with its books in ``data_dir``; stopped in the end.

    It gets none of our settings, so that the demo never reaches books that are not its own; and should the demo be
    killed, the kernel stops it. Raises ``ServiceFailed`` with the end of its log.
    """
    serve = ["serve", "--dev", "--port", "0", "--data-dir", str(data_dir), "--json"]
    tally = [sys.executable, "-m", "tallystick.cli", *serve]
    command = launch.command(tally, uid=os.geteuid(), gid=os.getegid(), death_signal=signal.SIGTERM)
    log = data_dir / "service.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=_without_settings(dict(os.environ)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops the service
        )
    try:
        yield await _url(process.stdout, log)
    finally:
        await _stop(process)


async def _url(output: asyncio.StreamReader | None, log: Path) -> str:
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            ready = await output.readline() if output else b""
        return str(json.loads(ready)["url"])
    except (TimeoutError, ValueError, KeyError):
        raise ServiceFailed(f"the service did not start; its log ends with\n{_tail(log)}") from None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _without_settings(environment: dict[str, str]) -> dict[str, str]:
    """The environment without any variable that a setting is read from."""
    for field in Settings.model_fields.values():
        for name in getattr(field.validation_alias, "choices", ()):
            environment.pop(name, None)
    return environment
