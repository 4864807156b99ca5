"""Addresses that no release may be staged on, by literal, by name and by disguise."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bgproxy.admin import targets
from bgproxy.admin.targets import refuse_targets
from bgproxy.errors import BadInput
from bgproxy.rules.release import Release, checked

RESERVED = (
    "127.0.0.1:9900",
    "0.0.0.0:8080",
    "localhost:7000",
    "[::1]:7001",
    "unix:/run/proxy.sock",
    "redis://user:word@redis.test:6379/0",
    "rediss://10.0.0.7/0",
    "unix:///run/redis.sock?db=1",
    "memory://",
    "memory:///var/lib/state.json",
    "redis://broken:port",
    "redis+sentinel://user:word@10.0.0.8,10.0.0.9:7/mymaster",
)


def staged(*urls: str, **routes: tuple[str, ...]) -> Release:
    return checked(Release("v1", urls, routes=routes))


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """A resolver of our own: no test asks the network."""
    known = {
        "localhost": "127.0.0.1",
        "metadata.test": "169.254.169.254",
        "sneaky.test": "127.0.0.1",
        "agent.test": "10.1.1.1",
        "redis.test": "10.0.0.5",
    }

    async def getaddrinfo(_self, host, port, **_more):
        address = known.get(host, host)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            socket.inet_pton(family, address)
        except OSError:
            raise socket.gaierror("unknown") from None
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://metadata.test",
        "http://[fe80::1]:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://[fd00:ec2::254]:80",
        "http://100.100.100.200:80",
        "http://0.0.0.0:9101",
        "http://[::]:9101",
        "http://224.0.0.1:80",
        "http://127.0.0.1:9900",
        "http://127.0.0.9:9900",
        "http://[::1]:9900",
        "http://[::ffff:127.0.0.1]:9900",
        "http://sneaky.test:9900",
        "http://127.0.0.1:8080",
        "http://10.0.0.5:6379",
        "http://127.0.0.1:7000",
        "http://127.0.0.1:7001",
        "http://10.0.0.7:6379",
        "http://redis.test:6379",
        "http://10.0.0.8:26379",
        "http://10.0.0.9:7",
        "unix:/run/redis.sock",
        "unix:/run/proxy.sock",
    ],
)
async def test_refused(url):
    with pytest.raises(BadInput, match="upstream"):
        await refuse_targets(staged(url), RESERVED)
    with pytest.raises(BadInput, match="upstream"):
        await refuse_targets(staged("http://10.1.1.1:80", chat=(url,)), RESERVED)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9101",
        "http://10.0.0.5:6380",
        "http://10.0.0.6:6379",
        "http://agent.test:9900",
        "http://unknown.test:9101",
        "http://[fd00::1]:9101",
        "unix:/run/agent.sock",
    ],
)
async def test_let_through(url):
    await refuse_targets(staged(url), RESERVED)


async def test_a_resolver_that_hangs_holds_nobody_up(monkeypatch):
    async def hang(*_args, **_more):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", hang)
    monkeypatch.setattr(targets, "RESOLVE_TIMEOUT", 0.001)
    await refuse_targets(staged("http://slow.test:80"), RESERVED)
