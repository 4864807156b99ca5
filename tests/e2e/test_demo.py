"""The demo as a user runs it: it succeeds where nothing is lost, fails where something is, and leaves nobody behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "bgproxy", "demo", "--flips", "2", "--seconds", "3", "--clients", "2"]
LAST_LINE = re.compile(r"demo: (\d+) requests, (\d+) streams, (\d+) websockets, (\d+) flips, (\d+) lost")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


class Demo:
    """A demo that runs, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Read on to a line that has the pattern."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))

    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r", pid (\d+)", "\n".join(self.lines))]

    def end(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait()


def _heed_interrupts() -> None:
    """As in a terminal: what a shell has sent to the background ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(*more: str) -> Iterator[Demo]:
    with subprocess.Popen(
        [*DEMO, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heed_interrupts,
    ) as process:
        try:
            yield Demo(process)
        finally:
            process.terminate()  # it ends its own processes; nothing happens where it has ended already


def lost(demo: Demo) -> int:
    found = LAST_LINE.fullmatch(demo.lines[-1])
    assert found, "\n".join(demo.lines)
    return int(found[5])


def ended(pid: int) -> bool:
    """Whether the process is gone, or is no more than a name that its parent has yet to read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def all_ended(pids: list[int]) -> bool:
    """Whether they end soon: a process that has been killed is not gone in the same instant."""
    deadline = time.monotonic() + 5
    while not all(map(ended, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return all(map(ended, pids))


def test_nothing_is_lost_and_the_last_line_says_so() -> None:
    with running() as demo:
        code = demo.end()
    found = LAST_LINE.fullmatch(demo.lines[-1])
    assert found, "\n".join(demo.lines)
    requests, streams, websockets, flips, losses = map(int, found.groups())
    assert (flips, losses, code) == (2, 0, 0), "\n".join(demo.lines)
    assert min(requests, streams, websockets) > 0
    assert len(demo.pids()) == 3
    assert all_ended(demo.pids())


def test_an_agent_that_dies_under_the_load_is_seen_and_the_demo_fails() -> None:
    with running() as demo:
        agent = int(demo.until(r"agent v2 \(green\).*, pid (\d+)")[1])
        demo.until("flip blue → green took")
        os.kill(agent, signal.SIGKILL)  # green is active and has streams and WebSockets open
        code = demo.end()
    assert lost(demo) > 0
    assert code == 1
    assert any(f"(pid {agent}): it ended during the run" in line for line in demo.lines), "\n".join(demo.lines)
    assert all_ended(demo.pids())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_everything_that_it_has_started(number: signal.Signals) -> None:
    with running() as demo:
        demo.until("flip blue → green took")
        demo.process.send_signal(number)
        code = demo.end()
    assert code == 130, "\n".join(demo.lines)
    assert len(demo.pids()) == 3
    assert all_ended(demo.pids())


def test_a_proxy_that_does_not_start_is_shown_with_its_own_words() -> None:
    with running("--workers", "2") as demo:  # with the memory store, which the proxy refuses
        code = demo.end()
    said = "\n".join(demo.lines)
    assert code == 1
    assert "bgproxy serve (pid " in said
    assert "redis" in said.lower()
    assert len(demo.pids()) == 2
    assert all_ended(demo.pids())


def test_as_json_it_prints_one_document_with_every_figure() -> None:
    with running("--json") as demo:
        code = demo.end()
    document = json.loads("\n".join(demo.lines))
    assert (document["ok"], document["lost"], document["flips"], document["rollbacks"], code) == (True, 0, 2, 1, 0)
    assert {kind["kind"] for kind in document["kinds"]} >= {"mcp call", "chat", "chat stream", "websocket"}
    assert [move["verb"] for move in document["moves"]] == ["flip", "flip", "rollback"]
