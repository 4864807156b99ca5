"""Names of upstreams, resolved anew while running: every `dns_interval`, and soon after a failed connect."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from bgproxy.tasks import spawn, stop

if TYPE_CHECKING:
    from bgproxy.proxy.pool import Upstream

log = logging.getLogger(__name__)

SOONEST = 0.5  # seconds between two look-ups after failures: a dead agent is no reason to flood the name server


class Resolver:
    """Keeps the addresses of named upstreams up to date. Connections to an address that is gone are not used again."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._named: tuple[Upstream, ...] = ()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def watch(self, upstreams: Iterable[Upstream]) -> None:
        """Care for these from now on; the ones given by address need no care."""
        before = self._named
        self._named = tuple(u for u in upstreams if u.host and not is_address(u.host))
        if set(self._named) - set(before):
            self._wake.set()

    def again(self, upstream: Upstream) -> None:
        """A connect failed: the name may stand for something else by now."""
        if upstream in self._named:
            self._wake.set()

    def start(self) -> None:
        self._task = spawn(self._run(), "resolve upstreams")

    async def stop(self) -> None:
        await stop(self._task)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            await asyncio.gather(*(self._look_up(upstream) for upstream in self._named))
            await asyncio.sleep(SOONEST)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.interval):
                    await self._wake.wait()

    async def _look_up(self, upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(upstream.host, upstream.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            # The last known addresses stay: a name server that is away must not take the agents with it.
            log.warning("cannot resolve %s: %s", upstream.host, error)
            return
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        if addresses and addresses != upstream.addresses:
            upstream.addresses = addresses
            upstream.forget_other_addresses()


def is_address(host: str) -> bool:
    """Whether a host is given as an IP address."""
    with suppress(ValueError):
        ip_address(host)
        return True
    return False
