"""The snapshot file: what was answered survives a crash, and what cannot be understood is never written over."""
# ruff: noqa: ASYNC240 - small files, looked at by a test that nothing else waits for

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bgproxy.errors import ConfigError, SchemaTooNew, StoreBroken, StoreUnavailable
from bgproxy.store import document as document_module
from bgproxy.store import memory
from bgproxy.store.base import Store, StoreOptions, open_store
from bgproxy.store.document import release_document, release_from, write_safely

Opened = Callable[..., Awaitable[Store]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.mark.parametrize("by_option", [False, True])
async def test_what_was_committed_survives(path: Path, opened: Opened, flips: Any, by_option: bool) -> None:
    async def again() -> Store:
        return await (opened("memory://", snapshot=str(path)) if by_option else opened(f"memory://{path}"))

    store = await again()
    state, _ = await store.commit(flips.first(), create=True)
    state, _ = await store.commit(flips.flip(state))
    audit = await store.audit(limit=10)
    restarted = await again()
    assert await restarted.read() == state
    assert await restarted.audit(limit=10) == audit
    _, entry = await restarted.commit(flips.flip(state))
    assert (await restarted.audit(limit=10))[0] == entry
    assert int(entry.id) > int(audit[0].id)


async def test_only_its_owner_reads_it_and_nothing_else_stays(path: Path, opened: Opened, flips: Any) -> None:
    store = await opened(f"memory://{path}")
    await store.commit(flips.first(), create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.json", "state.json.lock", "state.json.pins"]


HOLDER = """
import asyncio, sys
from bgproxy.store.base import StoreOptions, open_store

async def hold():
    store = open_store(StoreOptions(url=f"memory://{sys.argv[1]}"))
    await store.open()
    print("holds", flush=True)
    if sys.stdin.readline() == "close\\n":
        await store.close()
        print("closed", flush=True)
        sys.stdin.readline()

asyncio.run(hold())
"""


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the file."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


async def test_a_file_that_another_process_uses_is_refused(
    path: Path, opened: Opened, flips: Any, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_LOCK_TIMEOUT", 0.0)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as refusal:
            await opened(f"memory://{path}")
        assert str(path) in str(refusal.value)
        assert f"process {holder.pid}" in str(refusal.value)
        assert "a file of its own" in str(refusal.value)
    unlocked = open_store(StoreOptions(url=f"memory://{path}"))
    with pytest.raises(StoreUnavailable):  # nor does it serve who did not open it
        await unlocked.commit(flips.first(), create=True)
    await opened(f"memory://{path.with_name('other.json')}")


@pytest.mark.parametrize("way", ["killed", "closed"])
async def test_the_next_one_takes_the_file_over(
    path: Path, opened: Opened, flips: Any, holder: subprocess.Popen[str], way: str
) -> None:
    coming = asyncio.ensure_future(opened(f"memory://{path}"))  # before the other one has gone
    await asyncio.sleep(0)
    if way == "killed":
        holder.kill()
        holder.wait()
    else:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("close\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "closed\n"
    await (await coming).commit(flips.first(), create=True)


async def test_where_nothing_can_be_locked_nothing_is_begun(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(memory.lock.fcntl, "lockf", unsupported)
    with pytest.raises(StoreUnavailable, match="cannot be locked: No locks available: choose a directory"):
        await opened(f"memory://{path}")


GOOD = {
    "schema": 1,
    "revision": 1,
    "colors": ["blue"],
    "pointer": {"active": "blue", "previous": None, "epoch": 1, "actor": "", "reason": "", "at": 1.0},
    "releases": {},
}

ENTRY = {"id": "1", "at": 1.0, "verb": "flip", "actor": "", "reason": "", "epoch": 1, "revision": 1, "facts": {}}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        orjson.dumps({}),
        orjson.dumps(GOOD)[:-20],
        orjson.dumps(GOOD | {"schema": "1"}),
        orjson.dumps(GOOD | {"schema": True}),
        orjson.dumps(GOOD | {"revision": None}),
        orjson.dumps(GOOD | {"revision": 1.5}),
        orjson.dumps(GOOD | {"colors": "blue"}),
        orjson.dumps(GOOD | {"colors": ["green"]}),
        orjson.dumps(GOOD | {"pointer": {"active": "blue"}}),
        orjson.dumps(GOOD | {"pointer": {**GOOD["pointer"], "epoch": "1"}}),  # type: ignore[dict-item]
        orjson.dumps(GOOD | {"releases": {"blue": {"label": "v1"}}}),
        orjson.dumps(GOOD | {"releases": []}),
        orjson.dumps(GOOD | {"audit": [{"id": "1"}]}),
        orjson.dumps(GOOD | {"audit": 5}),
        orjson.dumps(GOOD | {"audit": [ENTRY | {"id": "x"}]}),
        orjson.dumps(GOOD | {"audit": [ENTRY | {"facts": []}]}),
    ],
)
async def test_a_broken_file_stops_the_start_and_stays(path: Path, opened: Opened, raw: bytes) -> None:
    path.write_bytes(raw)
    with pytest.raises(StoreBroken, match=r"state\.json"):
        await opened(f"memory://{path}")
    assert path.read_bytes() == raw


async def test_a_broken_file_is_not_written_over_by_a_commit_either(path: Path, fleet_name: str, flips: Any) -> None:
    path.write_bytes(b"{")
    store = open_store(StoreOptions(url=f"memory://{path}", fleet=fleet_name))
    with pytest.raises(StoreBroken):
        await store.open()
    with pytest.raises(StoreUnavailable):
        await store.read()
    with pytest.raises(StoreUnavailable):
        await store.commit(flips.first(), create=True)
    assert path.read_bytes() == b"{"


async def test_a_newer_schema_stops_the_start_and_stays(path: Path, opened: Opened) -> None:
    raw = orjson.dumps(GOOD | {"schema": 2, "pointer": "of another shape"})
    path.write_bytes(raw)
    with pytest.raises(SchemaTooNew, match="newer bgproxy"):
        await opened(f"memory://{path}")
    assert path.read_bytes() == raw


async def test_a_directory_that_is_not_there(tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(StoreUnavailable, match="no directory"):
        await opened(f"memory://{tmp_path}/nowhere/state.json")


async def test_a_path_that_is_no_file(tmp_path: Path, opened: Opened) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await opened(f"memory://{tmp_path}")


async def test_a_write_that_fails_changes_nothing(
    path: Path, opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(f"memory://{path}")
    state, _ = await store.commit(flips.first(), create=True)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(document_module.os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space left on device; nothing changed"):
            await store.commit(flips.flip(state))
    assert await store.read() == state
    assert len(await store.audit(limit=10)) == 1
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.json", "state.json.lock", "state.json.pins"]
    assert (await store.commit(flips.flip(state)))[0].revision == 2


def test_a_crash_before_the_rename_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safely(path, {"n": 1})

    def crash(self: Path, target: Path) -> None:
        assert orjson.loads(self.read_bytes()) == {"n": 2}  # whole before it takes the name
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_safely(path, {"n": 2})
    assert orjson.loads(path.read_bytes()) == {"n": 1}


def test_file_and_directory_reach_the_disk_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(document_module.os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    write_safely(path, {})
    assert steps == ["file", "rename", "directory"]


async def test_a_caller_that_gives_up_leaves_file_and_memory_agreeing(
    path: Path, opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(f"memory://{path}")
    state, _ = await store.commit(flips.first(), create=True)
    writing, go_on = threading.Event(), threading.Event()

    def slow(target: Path, document: Any, **how: Any) -> None:
        writing.set()
        go_on.wait(5)
        write_safely(target, document, **how)

    monkeypatch.setattr(memory, "write_safely", slow)
    committing = asyncio.ensure_future(store.commit(flips.flip(state)))
    await asyncio.to_thread(writing.wait, 5)
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    assert await store.read() == state  # not before it is on the disk
    go_on.set()
    await store.close()
    held = await store.read()
    assert held is not None
    assert held.revision == orjson.loads(path.read_bytes())["revision"] == 2


async def test_the_file_keeps_the_newest_records_only(
    path: Path, opened: Opened, flips: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_SNAPSHOT_AUDIT", 3)
    store = await opened(f"memory://{path}")
    state, _ = await store.commit(flips.first(), create=True)
    for _ in range(5):
        state, _ = await store.commit(flips.flip(state))
    assert len(await store.audit(limit=10)) == 6
    restarted = await opened(f"memory://{path}")
    assert [entry.revision for entry in await restarted.audit(limit=10)] == [6, 5, 4]


@pytest.mark.parametrize("url", ["memory://host/path", "memory:///path?x=1", "memory:///path#x"])
def test_urls_that_say_too_much(url: str) -> None:
    with pytest.raises(ConfigError, match="memory:///absolute/path"):
        open_store(StoreOptions(url=url))


async def test_a_slow_watcher_skips_and_never_queues(opened: Opened, flips: Any) -> None:
    store = await opened("memory://")
    watching: Any = store.watch()
    assert await anext(watching) == 0
    state, _ = await store.commit(flips.first(), create=True)
    for _ in range(4):
        state, _ = await store.commit(flips.flip(state))
    assert await anext(watching) == 5
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()


def test_a_release_that_an_older_bgproxy_wrote(flips: Any) -> None:
    lived = {"rolled_back": 3, "left": 4, "deadline": 5.5, "ended": True, "ended_before": ("v0", "v-1")}
    release = flips.first().state.releases["blue"]
    document = release_document(replace(release, **lived))
    assert release_from(orjson.loads(orjson.dumps(document)), "here") == replace(release, **lived)
    for member in lived:
        del document[member]
    assert release_from(orjson.loads(orjson.dumps(document)), "here") == release


@pytest.mark.parametrize(("member", "bad"), [("ended", 1), ("left", True), ("ended_before", "v0"), ("deadline", "x")])
def test_a_release_that_nobody_can_have_written(flips: Any, member: str, bad: object) -> None:
    document = release_document(flips.first().state.releases["blue"]) | {member: bad}
    with pytest.raises(StoreBroken, match="here, release"):
        release_from(orjson.loads(orjson.dumps(document)), "here")
