"""Who has died is told by a lock that only a living process holds, and signed off for certain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bgproxy.store.badge import Badges


class Host:
    """One runtime directory, and a store that lists who was signed off."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.left: list[str] = []
        self.failure: Exception | None = None
        self.badges = self.another()

    def another(self, fleet: str = "f") -> Badges:
        return Badges(self.directory, fleet)

    def process(self, node_id: str) -> subprocess.Popen[bytes]:
        """A process that wears a badge until it is killed."""
        lines = (
            "from bgproxy.store.badge import Badges; import pathlib, signal, sys",
            "Badges(pathlib.Path(sys.argv[1]), 'f').wear(sys.argv[2])",
            "print(flush=True); signal.pause()",
        )
        command = [sys.executable, "-c", "\n".join(lines), str(self.directory), node_id]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process

    def dies(self, node_id: str) -> None:
        """One that wore a badge, in this process; what its death does to the lock is done."""
        badges = self.another()
        badges.wear(node_id)
        assert badges._own is not None
        os.close(badges._own[1])

    async def leave(self, node_id: str) -> bool:
        if self.failure is not None:
            raise self.failure
        self.left.append(node_id)
        return True

    async def look(self) -> list[str]:
        """Who is signed off by it."""
        self.left = []
        await self.badges.sign_off_dead(self.leave)
        return self.left

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "nodes-f").iterdir())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def test_the_living_and_the_stopped_are_let_be_and_the_dead_signed_off(host: Host) -> None:
    assert await host.look() == []
    dead, stopped = host.process("dead"), host.process("stopped")
    try:
        host.badges.wear("own")
        stopped.send_signal(signal.SIGSTOP)
        assert await host.look() == []
        kill(dead)
        assert await host.look() == ["dead"]
    finally:
        kill(dead)
        kill(stopped)
    assert await host.look() == ["stopped"]
    host.badges.take_off()
    assert (await host.look(), host.files) == ([], [])


async def test_it_is_told_once(host: Host) -> None:
    host.dies("dead")
    assert (await host.look(), host.files) == (["dead"], [])
    assert await host.look() == []


async def test_a_store_that_is_away_is_told_later(host: Host) -> None:
    host.dies("dead")
    host.failure = ConnectionError("away")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await host.look()
    assert host.files == ["dead"]
    host.failure = None
    assert (await host.look(), host.files) == (["dead"], [])


async def test_one_looks_at_a_time(host: Host) -> None:
    host.dies("dead")
    others: list[str] = []

    async def leave(node_id: str) -> bool:
        others.extend(await host.look())
        return True

    await host.another().sign_off_dead(leave)
    assert others == []


async def test_another_fleet_s_nodes_are_not_ours(host: Host) -> None:
    host.dies("dead")
    await host.another("other").sign_off_dead(host.leave)
    assert host.left == []


async def test_who_has_left_by_itself_leaves_nothing(host: Host) -> None:
    host.badges.wear("own")
    assert host.files == ["own"]
    host.badges.take_off()
    host.badges.take_off()
    assert host.files == []


async def test_where_no_file_can_be_kept_it_goes_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    host = Host(tmp_path / "file")
    host.badges.wear("own")
    assert "nodes-f/own cannot be kept: " in caplog.text
    host.badges.take_off()
