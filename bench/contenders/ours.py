"""bgproxy: one contender per build, so that interpreted and compiled ones can stand in one run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from bench.contenders.base import Contender, Flip, NotInstalled, Place
from bench.processes import DidNotStart, free_ports
from bench.wire import Line, answer_is_whole, parse_answer, post_json

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT = 10.0

_ABOUT = """
import importlib.machinery, pathlib, bgproxy
home = pathlib.Path(bgproxy.__file__).parent
suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
built = len(list(home.rglob("*" + suffix)))
print(bgproxy.__version__, "compiled, %d modules" % built if built else "interpreted")
"""


@dataclass(frozen=True, slots=True)
class Build:
    """One build of the package: an interpreter, and the directory that is put first on its import path, if any."""

    name: str
    python: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Build:
        """`NAME=PYTHON` (an interpreter that has the package) or `NAME=DIRECTORY` (that holds the package)."""
        name, equals, where = text.partition("=")
        if not (name and equals and where):
            raise ValueError(f"--bgproxy {text!r}: give NAME=PYTHON or NAME=DIRECTORY")
        if Path(where).is_dir():
            return cls(name, sys.executable, str(Path(where).resolve()))
        if Path(where).exists():
            return cls(name, str(Path(where).absolute()))
        raise ValueError(f"--bgproxy {text!r}: {where} does not exist; give an interpreter or a directory")

    @classmethod
    def of_this_checkout(cls) -> Build:
        return cls("bgproxy", sys.executable, str(ROOT))

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": self.path} if self.path else {}


def _version(place: Place, build: Build) -> str:
    argv = [build.python, "-c", _ABOUT]
    env = {**os.environ, **build.environment()}
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=30, cwd=place.stage.directory, env=env
    )
    if done.returncode != 0:
        raise NotInstalled(f"`{build.python}` cannot import bgproxy: {done.stderr.strip().splitlines()[-1]}")
    number, _, how = done.stdout.strip().partition(" ")
    return f"{number} ({how})"


def bgproxy(place: Place, build: Build) -> Contender:
    """One worker on the memory store, metrics on, access log off: the defaults."""
    version = _version(place, build)
    port, admin = free_ports(2)
    argv = [build.python, "-m", "bgproxy", "serve", "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"]
    argv += ["--blue", f"http://127.0.0.1:{place.backends.blue}"]
    argv += ["--green", f"http://127.0.0.1:{place.backends.green}"]
    argv += ["--active", "blue", "--store", "memory://"]
    env = build.environment()
    running = place.stage.start(build.name, argv, core=place.core, ports=[port, admin], env=env)
    wait_until_ready(admin)
    return Contender(build.name, version, running, port, admin, flip=_flip(admin))


def wait_until_ready(admin: int) -> None:
    """Raises `DidNotStart`."""
    deadline = time.monotonic() + READY_TIMEOUT
    why = ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1.0):
                return
        except (urllib.error.URLError, OSError) as error:
            why = str(error)
        time.sleep(0.05)
    raise DidNotStart(f"/readyz is not well after {READY_TIMEOUT:g} s: {why}")


def _flip(admin: int) -> Flip:
    """By `POST /v1/flip`. Its connection is kept from one flip to the next, as a release job's would be."""
    lines: list[Line] = []

    async def flip(to: str) -> float:
        if not lines or lines[0].closed:
            _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", admin)
            lines[:] = [line]
        request = post_json("/v1/flip", {"to": to, "reason": "bench"}, f"127.0.0.1:{admin}")
        status, body = parse_answer(await lines[0].ask(request, answer_is_whole))
        if status != 200 or json.loads(body)["active"] != to:
            raise RuntimeError(f"bench: the flip to {to} was answered {status}: {body.decode(errors='replace')}")
        return lines[0].answered_at

    return flip
