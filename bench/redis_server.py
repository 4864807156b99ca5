"""A Redis of a bench's own, with nothing in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from bench.processes import Cores, Stage, free_ports


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Where it is, and what it is charged to."""

    url: str
    pid: int


def start_redis(stage: Stage) -> RedisServer | None:
    """Start one on the first core, that writes nothing to the disk; None where there is no redis-server."""
    server = shutil.which("redis-server")
    if server is None:
        return None
    (port,) = free_ports(1)
    argv = [server, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    running = stage.start("redis", argv, core=Cores.of_this_machine().proxy, ports=[port])
    return RedisServer(f"redis://127.0.0.1:{port}/0", running.pid)
