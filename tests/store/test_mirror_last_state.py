"""The last known state on the disk: a worker starts with it while the store is away."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson
import pytest

from bgproxy.rules.fleet import FleetState
from bgproxy.store.mirror import Mirror


@pytest.fixture
def states(flips: Any) -> list[FleetState]:
    return list(flips.states(6))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_it_is_kept_and_found_again(fake_store: Any, states: list[FleetState], tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    mirror = Mirror(fake_store, last_state_path=path)
    for state in states:
        mirror.apply(state)
    await mirror.stop()
    again = Mirror(fake_store, last_state_path=path)
    assert again.load()
    assert again.state == states[-1]


async def test_the_store_overrules_it_even_with_an_older_state(
    fake_store: Any, states: list[FleetState], tmp_path: Path
) -> None:
    path = tmp_path / "last.json"
    kept = Mirror(fake_store, last_state_path=path)
    kept.apply(states[5])
    await kept.stop()
    mirror = Mirror(fake_store, last_state_path=path)
    mirror.load()
    fake_store.state = states[1]
    assert await mirror.refresh() is states[1]
    assert mirror.state is states[1]
    assert mirror.alarms == 0


async def test_an_empty_store_does_not(fake_store: Any, states: list[FleetState], tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    kept = Mirror(fake_store, last_state_path=path)
    kept.apply(states[2])
    await kept.stop()
    mirror = Mirror(fake_store, last_state_path=path)
    mirror.load()
    assert await mirror.refresh() is None
    assert mirror.state == states[2]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", orjson.dumps({"schema": 2}), None])
async def test_a_file_that_cannot_be_used_is_no_state_and_no_error(
    fake_store: Any, tmp_path: Path, raw: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.json"
    mirror = Mirror(fake_store)
    if raw is not None:
        path.write_bytes(raw)
    assert not mirror.load(path)
    assert mirror.state is None
    assert len(warnings(caplog)) == (raw is not None)


async def test_what_is_held_is_not_replaced_by_a_file(
    fake_store: Any, states: list[FleetState], tmp_path: Path
) -> None:
    mirror = Mirror(fake_store)
    mirror.apply(states[0])
    assert not mirror.load(tmp_path / "last.json")


async def test_a_disk_that_refuses_is_told_once_and_harms_nothing(
    fake_store: Any, states: list[FleetState], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(fake_store, last_state_path=tmp_path / "nowhere" / "last.json")
    for state in states:
        mirror.apply(state)
        await asyncio.sleep(0.01)
    await mirror.stop()
    assert mirror.state is states[-1]
    assert len(warnings(caplog)) == 1


async def test_of_states_that_follow_one_another_at_once_only_the_last_is_written(
    fake_store: Any, states: list[FleetState], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flip over many nodes is two states within some milliseconds, in which nobody should wait for a disk."""
    written: list[int] = []
    monkeypatch.setattr("bgproxy.store.mirror.write_safely", lambda _, document: written.append(document["revision"]))
    mirror = Mirror(fake_store, last_state_path=tmp_path / "last.json")
    for state in states[:3]:
        mirror.apply(state)
        await asyncio.sleep(0.01)
    await mirror.stop()
    assert written == [states[2].revision]
