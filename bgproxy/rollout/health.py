"""Active health checks: each upstream is asked at every interval, and its Health is told what came of it.

A path is asked for with GET and any 2xx or 3xx is well; without a path a connection that opens is enough. What the
answers mean over time (rise, fall) is decided in `rules/health.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from bgproxy.rules.health import OUR_FAULT, Health, HealthOptions
from bgproxy.tasks import spawn, stop

log = logging.getLogger(__name__)


class Target(Protocol):
    """What is checked: an upstream of the data path."""

    url: str
    health: Health


class HealthChecker:
    """Checks every target that `targets` names, from `start` to `stop`."""

    def __init__(self, options: HealthOptions, targets: Callable[[], Iterable[Target]]) -> None:
        self.options = options
        self._targets = targets
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = spawn(self._run(), "health checks")

    async def stop(self) -> None:
        await stop(self._task)

    async def check(self, target: Target) -> str:
        """Ask one target once, and tell its Health; returns what was wrong, or nothing.

        What was wrong on our own side (no descriptor left) says nothing about the target: its Health stays as it is.
        """
        reason, ours = await look(target.url, self.options)
        if ours:
            log.warning("upstream %s could not be checked: %s", target.url, reason)
            return reason
        was_up = target.health.up
        if reason:
            target.health.check_failed(reason)
        else:
            target.health.check_passed()
        if was_up is not target.health.up:
            log.warning("upstream %s is %s %s", target.url, "up" if target.health.up else "down:", reason)
        return reason

    async def _run(self) -> None:
        while True:
            targets = list(self._targets())
            for result in await asyncio.gather(*map(self.check, targets), return_exceptions=True):
                if isinstance(result, Exception):  # the other targets, and the next round, must not suffer for it
                    log.error("a health check failed in itself", exc_info=result)
            # Jittered, so that many workers do not ask one agent in step.
            await asyncio.sleep(self.options.interval * random.uniform(0.9, 1.1))


async def look(url: str, options: HealthOptions) -> tuple[str, bool]:
    """What is wrong with an upstream at this moment, or nothing; and whether that is our own fault."""
    try:
        async with asyncio.timeout(options.timeout):
            return await (_get(url, options.path) if options.path else _connect(url)), False
    except TimeoutError:
        return f"no answer within {options.timeout:g} s", False
    except (OSError, aiohttp.ClientError) as error:
        return words(error), getattr(error, "errno", None) in OUR_FAULT


async def _get(url: str, path: str) -> str:
    parts = urlsplit(url)
    unix = parts.scheme == "unix"
    connector = aiohttp.UnixConnector(parts.path) if unix else aiohttp.TCPConnector(force_close=True)
    base = "http://localhost" if unix else url.rstrip("/")
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(base + path, allow_redirects=False) as answer,
    ):
        return "" if answer.status < 400 else f"{path} answered {answer.status}"


async def _connect(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        _, writer = await asyncio.open_unix_connection(parts.path)
    else:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    writer.close()
    return ""


def words(error: Exception) -> str:
    """What went wrong on the way to an agent, without the library's names for it."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, aiohttp.ClientConnectorError):
        return words(error.os_error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
