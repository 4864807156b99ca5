"""The verb upgrade: whom it asks, and how it ends."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DONE = {"done": True, "before": "0.1.0", "version": "0.2.0", "finishing": 3}


class Supervisor:
    """Answers one request at a Unix socket with what it was told to; `asked` is what came."""

    def __init__(self, directory: Path, answer: bytes) -> None:
        self.asked: Any = None
        self._answer = answer
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(f"{directory}/supervisor.sock")
        self._door.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        line, _ = self._door.accept()
        with line:
            self.asked = json.loads(line.makefile().readline())
            line.sendall(self._answer)

    def close(self) -> None:
        self._thread.join(5)
        self._door.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short one: a Unix socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bgp-") as name:
        yield Path(name)


@pytest.fixture
def supervisor(directory) -> Iterator[Callable[[bytes], Supervisor]]:
    started: list[Supervisor] = []

    def start(answer: bytes) -> Supervisor:
        started.append(one := Supervisor(directory, answer))
        return one

    yield start
    for one in started:
        one.close()


def test_the_admin_api_says_where_the_supervisor_is(run, admin, directory, supervisor):
    asked = supervisor(json.dumps(DONE).encode() + b"\n")
    admin.answers["GET", "/v1/status"] = {"runtime_dir": str(directory)}
    result = run("upgrade")
    assert (result.exit_code, result.output) == (0, "upgraded from 0.1.0 to 0.2.0; 3 worker(s) finish what they hold\n")
    assert asked.asked == {"verb": "upgrade", "program": ""}


def test_a_directory_that_is_given_is_taken_and_a_program_s_link_stays_one(
    run, admin, directory, supervisor, monkeypatch
):
    (directory / "new").symlink_to("/opt/bgproxy-2")
    monkeypatch.chdir(directory)
    asked = supervisor(json.dumps(DONE).encode() + b"\n")
    result = run("upgrade", "--runtime-dir", str(directory), "--program", "new/bin/bgproxy", "--json")
    assert json.loads(result.output) == DONE
    assert asked.asked["program"] == f"{directory}/new/bin/bgproxy"
    assert admin.asked == []


def test_a_failure_is_a_refusal_with_the_reason(run, directory, supervisor):
    supervisor(b'{"done": false, "why": "the upgrade failed: listen: no"}\n')
    result = run("upgrade", "--runtime-dir", str(directory))
    assert result.exit_code == 1
    assert result.stderr == (
        "bgproxy: the upgrade failed: listen: no\n"
        "  the running proxy is untouched; mend what is named, then try again\n"
    )


def test_a_failure_as_json_has_a_type(run, directory, supervisor):
    supervisor(b'{"done": false, "why": "no"}\n')
    result = run("upgrade", "--runtime-dir", str(directory), "--json")
    problem = json.loads(result.stdout)
    assert (result.exit_code, problem["type"], problem["detail"]) == (1, "urn:bgproxy:problem:not_upgraded", "no")


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b'{"done": tr'])
def test_a_supervisor_that_goes_without_an_answer(run, directory, supervisor, answer):
    supervisor(answer)
    result = run("upgrade", "--runtime-dir", str(directory))
    assert (result.exit_code, "gone without an answer" in result.stderr) == (3, True)


def test_where_no_supervisor_is_the_signal_is_named(run, directory):
    result = run("upgrade", "--runtime-dir", str(directory))
    assert result.exit_code == 3
    assert f"no supervisor answers at {directory}/supervisor.sock: No such file or directory" in result.stderr
    assert "SIGUSR2" in result.stderr
