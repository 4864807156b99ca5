"""The hosts under test: `bgproxy serve` with its workers, and a hand on each process.

Every process is ended by its pid when the fleet is closed, stopped ones too. A worker is told from its siblings by the
sockets that it has open: which of the clients' connections are its own is looked at while it is stopped, so that what
dies with it is known to the last connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.reliability.sockets import connections
from bench.reliability.stores import PATIENCE, DidNotStart

ROOT = Path(__file__).resolve().parents[2]
_LISTENING = re.compile(r"listening on (\S+), admin on (\S+), \d+ worker")


SECRET = secrets.token_hex(32)
"""Of the operator, for hosts whose admin API is not on loopback. Of this run."""

End = tuple[int, int]
"""A client's end of a connection: its port, and the one that it went to. One port may be used towards several."""


class Host:
    """One `bgproxy serve`."""

    def __init__(self, name: str, directory: Path, python: str, prefix: Sequence[str] = ()) -> None:
        """`python`: an interpreter that has bgproxy; `prefix`: words before the command, as those that enter a
        namespace."""
        self.name = name
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.address = ("", 0)
        self.admin = ("", 0)
        self._python = python
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: set[int] = set()

    async def start(self, config: str, workers: int) -> Host:
        """Start, and wait until all workers serve."""
        path = self.directory / "bgproxy.toml"
        path.touch(mode=0o600)  # there is a secret in it
        path.write_text(config)
        (self.directory / "run").mkdir()
        self._process = self._started(path)
        until = time.monotonic() + PATIENCE
        while (found := _LISTENING.search(self.log)) is None or self.log.count(" serves fleet ") < workers:
            if time.monotonic() > until or self._process.poll() is not None:
                raise DidNotStart(self.log)
            await asyncio.sleep(0.02)
        self.address, self.admin = _address(found[1]), _address(found[2])
        return self

    def _started(self, config: Path) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("wb") as written:
            return subprocess.Popen(
                [*self._prefix, self._python, "-m", "bgproxy", "serve", "--config", str(config)],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if not name.startswith("BGPROXY_")},
                stdout=subprocess.DEVNULL,
                stderr=written,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """All that it has said."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "log").read_text(errors="replace")
        return ""

    @property
    def workers(self) -> list[int]:
        """The pids of its living workers."""
        assert self._process is not None
        return [pid for pid in _children(self._process.pid) if _state(pid) not in ("Z", "")]

    def ends_of(self, worker: int) -> set[End]:
        """The clients' ends of the connections that a worker has open. Stop it first."""
        doors = {self.address[1], self.admin[1]}
        return {(there, here) for here, there in connections(worker) if here in doors and there}

    def worker_at(self, end: End) -> int | None:
        """The worker that has the connection whose client's end this is."""
        return next((worker for worker in self.workers if end in self.ends_of(worker)), None)

    def worker_with(self, port: int) -> int | None:
        """The worker that has opened a connection from this port."""
        return next((one for one in self.workers if any(port == here for here, _ in connections(one))), None)

    def stop_worker(self, worker: int) -> None:
        """SIGSTOP."""
        self._stopped.add(worker)
        os.kill(worker, signal.SIGSTOP)

    def go_on(self, worker: int) -> None:
        """SIGCONT."""
        self._stopped.discard(worker)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)

    def kill_worker(self, worker: int) -> tuple[set[End], float]:
        """SIGKILL; the clients' ends of the connections that died, and when."""
        os.kill(worker, signal.SIGSTOP)
        while _state(worker) not in ("T", "t", "Z", ""):  # until then it may accept another one
            time.sleep(0.0002)
        ends, at = self.ends_of(worker), time.monotonic()
        os.kill(worker, signal.SIGKILL)
        return ends, at

    def close(self) -> None:
        """End it, whatever it does."""
        if self._process is None:
            return
        for worker in [*self._stopped]:
            self.go_on(worker)
        workers = self.workers
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def config(
    *,
    listen: str,
    store: str,
    agents: dict[str, str],
    workers: int,
    directory: Path,
    outage: str,
    policy: str,
    on_rollback: str,
    keys: str = "",
) -> str:
    """A host's configuration. `agents`: URLs by color; `outage`: what becomes of sessions without the store, `policy`:
    at a flip, `on_rollback`: after one that was rolled back; `keys`: more of [store]."""
    colors = "\n".join(
        f"[colors.{color}]\nrelease = {json.dumps(release)}\nupstreams = [{json.dumps(url)}]"
        for (color, url), release in zip(agents.items(), ("v1", "v2"), strict=True)
    )
    return f"""
listen = ["{listen}:0"]
admin = "{listen}:0"
active = "blue"
workers = {workers}
grace_timeout = 1.0
runtime_dir = {json.dumps(str(directory / "run"))}
{colors}
[[token]]
name = "operator"
role = "operator"
secret = "{SECRET}"
[forwarding]
debug_header = true
[sessions]
presets = ["header:X-Session-Id", "websocket"]
policy = "{policy}"
on_rollback = "{on_rollback}"
on_store_outage = "{outage}"
[store]
url = {json.dumps(store)}
{keys}
"""


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _state(pid: int) -> str:
    """As proc(5) has it; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def directory() -> tempfile.TemporaryDirectory[str]:
    """Where all of it lives; short, as sockets' paths are."""
    return tempfile.TemporaryDirectory(prefix="rel-")
