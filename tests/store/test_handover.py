"""What outlives a worker: a memory store's state for its successor, and a last known state that binds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bgproxy.errors import StoreUnavailable
from bgproxy.store import document
from bgproxy.store.base import StoreOptions, open_store
from bgproxy.store.handover import Handover, slots
from bgproxy.store.mirror import Mirror


@pytest.fixture
def synced(monkeypatch) -> list[int]:
    """Every fsync."""
    found: list[int] = []
    monkeypatch.setattr(document.os, "fsync", found.append)
    return found


async def test_a_successor_finds_state_and_record(tmp_path, flips, synced):
    options = StoreOptions(handover=str(tmp_path / "memory.json"))
    first = open_store(options)
    await first.open()
    state, _ = await first.commit(flips.first(), create=True)
    state, entry = await first.commit(flips.flip(state))
    successor = open_store(options)
    await successor.open()
    assert await successor.read() == state
    assert (await successor.audit(limit=1))[0] == entry
    assert await successor.commit(flips.flip(state))
    assert synced == [], "no flip waits for a disk that nobody asked for"


async def test_a_snapshot_that_was_asked_for_goes_first_and_is_synced(tmp_path, flips, synced):
    snapshot, handover = tmp_path / "snapshot.json", tmp_path / "memory.json"
    store = open_store(StoreOptions(url=f"memory://{snapshot}", handover=str(handover)))
    await store.open()
    await store.commit(flips.first(), create=True)
    assert [snapshot.exists(), *(path.exists() for path in slots(handover))] == [True, False, False]
    assert len(synced) == 2, "the file and its directory"


async def test_a_full_disk_stops_only_a_snapshot(tmp_path, flips, monkeypatch):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bgproxy.store.memory.write_safely", full)
    monkeypatch.setattr(Handover, "write", full)
    await _commits(tmp_path, flips)


def test_the_newest_whole_document_is_found_and_gone_on_from(tmp_path):
    first = Handover(tmp_path / "memory.json")
    with pytest.raises(FileNotFoundError):
        first.read()
    for number in range(5):
        first.write({"n": number, "long": "x" * (100 - 20 * number)})  # shorter ones leave no rest behind
    first.close()
    found = Handover(tmp_path / "memory.json")
    assert json.loads(found.read()) == {"n": 4, "long": "x" * 20}
    found.write({"n": 5})
    assert json.loads(Handover(tmp_path / "memory.json").read()) == {"n": 5}
    assert {path.stat().st_mode & 0o777 for path in slots(tmp_path / "memory.json")} == {0o600}


@pytest.mark.parametrize("left", [0, 1, 23, 24, 30])
def test_what_a_death_in_the_middle_left_is_passed_over(tmp_path, left):
    """The last document is written over the one before the last: bytes of both stand in that file."""
    store = Handover(tmp_path / "memory.json")
    for number in range(3):
        store.write({"n": number, "text": "abc"[number] * 9})
    store.close()
    [newest] = [path for path in slots(tmp_path / "memory.json") if b"ccc" in path.read_bytes()]
    whole = newest.read_bytes()
    older = whole.replace(b"ccc", b"aaa")
    newest.write_bytes(whole[:left] + older[left:])
    assert json.loads(Handover(tmp_path / "memory.json").read()) == {"n": 1, "text": "bbbbbbbbb"}


def test_of_a_disk_that_is_full_the_one_before_is_left(tmp_path, monkeypatch):
    store = Handover(tmp_path / "memory.json")
    store.write({"n": 1})
    pwrite = os.pwrite
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:-3], at))
        with pytest.raises(OSError, match="No space left"):
            store.write({"n": 2})
    assert json.loads(Handover(tmp_path / "memory.json").read()) == {"n": 1}
    store.write({"n": 3})
    assert json.loads(Handover(tmp_path / "memory.json").read()) == {"n": 3}


async def _commits(directory: Path, flips) -> None:
    handed = open_store(StoreOptions(handover=str(directory / "memory.json")))
    await handed.open()
    state, _ = await handed.commit(flips.first(), create=True)
    state, _ = await handed.commit(flips.flip(state))
    assert await handed.read() == state
    kept = open_store(StoreOptions(snapshot=str(directory / "snapshot.json")))
    await kept.open()
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await kept.commit(flips.first(), create=True)


@pytest.mark.parametrize(("binding", "alarms", "epoch"), [(False, 0, 1), (True, 1, 3)])
async def test_an_older_store_is_an_alarm_for_a_successor_and_the_truth_for_a_new_proxy(
    tmp_path, flips, fake_store, binding, alarms, epoch
):
    older, _, newer = flips.states(3)
    path = tmp_path / "state.json"
    document.write_safely(path, document.state_document(newer))
    mirror = Mirror(fake_store, last_state_path=path)
    assert mirror.load(binding=binding)
    fake_store.state = older
    await mirror.refresh()
    assert mirror.state is not None
    assert (mirror.alarms, mirror.state.pointer.epoch) == (alarms, epoch)
