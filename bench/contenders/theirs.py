"""nginx, HAProxy and Envoy: found, configured, started, flipped in the way that each of them offers."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.contenders.base import Contender, Flip, NotInstalled, Place, fill
from bench.processes import free_ports
from bench.wire import Line


def _find(program: str) -> str:
    """The path of a program: beside this interpreter (Envoy's package puts it there), on PATH, or in /usr/sbin."""
    beside = Path(sys.executable).parent / program
    found = str(beside) if beside.exists() else shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if not found:
        raise NotInstalled(f"no `{program}` on this machine")
    return found


def _version(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    number = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return number.group() if number else "?"


def nginx(place: Place) -> Contender:
    """Master and one worker: the master is what makes `nginx -s reload` possible."""
    program = _find("nginx")
    (port,) = free_ports(1)
    config = place.stage.directory / "nginx.conf"

    def write(active: str) -> None:
        backend = getattr(place.backends, active)
        fill("nginx.conf", config, dir=place.stage.directory, listen=port, active=f"127.0.0.1:{backend}")

    async def reload(to: str) -> float:
        write(to)
        argv = (program, "-c", str(config), "-s", "reload")
        command = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
        if await command.wait() != 0:
            raise RuntimeError("bench: `nginx -s reload` failed")
        return time.perf_counter()

    write("blue")
    running = place.stage.start("nginx", [program, "-c", str(config)], core=place.core, ports=[port])
    return Contender("nginx", _version(program, "-v"), running, port, flip=reload)


def haproxy(place: Place) -> Contender:
    """One thread; where it has to flip, the backend is looked up in a runtime map."""
    program = _find("haproxy")
    (port,) = free_ports(1)
    directory = place.stage.directory
    colors = directory / "colors.map"
    colors.write_text("active blue\n")
    values = {"blue": f"127.0.0.1:{place.backends.blue}", "green": f"127.0.0.1:{place.backends.green}"}
    looked_up = f"use_backend %[str(active),map({colors})]"
    routing = looked_up if place.flippable else "default_backend blue"
    config = fill("haproxy.cfg", directory / "haproxy.cfg", dir=directory, listen=port, routing=routing, **values)
    running = place.stage.start("haproxy", [program, "-db", "-f", str(config)], core=place.core, ports=[port])
    flip = _set_map(directory / "haproxy.sock", colors)
    return Contender("haproxy", _version(program, "-v"), running, port, flip=flip)


def _set_map(socket: Path, colors: Path) -> Flip:
    async def flip(to: str) -> float:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_unix_connection(Line, str(socket))
        answer = await line.ask(f"set map {colors} active {to}\n".encode(), lambda held: held.endswith(b"\n"))
        line.close()
        if answer.strip():
            raise RuntimeError(f"bench: HAProxy refused the map: {answer.decode().strip()}")
        return line.answered_at

    return flip


def envoy(place: Place) -> Contender:
    """One worker thread (the process has a dozen others, idle)."""
    program = _find("envoy")
    (port,) = free_ports(1)
    config = place.stage.directory / "envoy.yaml"
    fill("envoy.yaml", config, listen=port, active_port=place.backends.blue)
    argv = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    running = place.stage.start("envoy", argv, core=place.core, ports=[port])
    return Contender("envoy", _version(program, "--version"), running, port)
