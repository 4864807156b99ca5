"""Pins of a memory store in a file: what a successor finds, what a torn or foreign file does, how large one grows."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from bgproxy.errors import SchemaTooNew, StoreBroken
from bgproxy.store import pin_log
from bgproxy.store.base import Store, StoreOptions, open_store
from bgproxy.store.handover import slots
from bgproxy.store.memory_pins import MemoryPins
from bgproxy.store.pinning import KEPT_ALIASES, Learned, Want

Until = Callable[..., Awaitable[float]]


def key(name: object) -> bytes:
    return str(name).encode().rjust(16, b"-")


def want(*names: object, **more: Any) -> Want:
    return Want(tuple(map(key, names)), **{"route": "chat", "preset": "mcp", "ttl": 600.0, **more})


class Place:
    """Where one store after the other stands."""

    def __init__(self, directory: Path, flips: Any) -> None:
        self.state = directory / "memory.json"
        self.path = directory / "memory.json.pins"
        self.stores: list[Store] = []
        self._flips = flips

    async def open(self, fleet: str = "agents") -> Any:
        store = open_store(StoreOptions(handover=str(self.state), fleet=fleet))
        await store.open()
        if await store.read() is None:
            await store.commit(self._flips.first(), create=True)
        self.stores.append(store)
        return store

    def lines(self) -> list[Any]:
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines()]


@pytest.fixture
async def place(tmp_path: Path, flips: Any) -> Any:
    place = Place(tmp_path, flips)
    yield place
    for store in place.stores:
        await store.close()


async def has(place: Place, until: Until, *said: str) -> None:
    """So many lines, by their kinds, are in the file."""
    await until(lambda: [line[0] for line in place.lines()[1:]] == [*said])


async def test_a_successor_finds_every_session_where_it_was(place: Place, flips: Any, until: Until) -> None:
    store = await place.open()
    names = [f"n{number}" for number in range(KEPT_ALIASES + 3)]
    a = (await store.pins.resolve([want("a", *names, offer=("blue", "http://h:1"))]))[0].pin
    b = (await store.pins.learn([Learned((key("b"),), None, "green", "v2", "u", 1, "chat", "a2a", 60.0, 900.0)]))[0].pin
    await store.pins.resolve([want("c")])
    await has(place, until, "pin", "pin", "pin", *["alias"] * 3)
    await store.commit(flips.flip(await store.read()))
    await store.pins.end([key("c")])
    again = (await store.pins.learn([Learned((key("late"),), a.id, "blue", "v1", "", 1, "chat", "mcp", 600.0)]))[0].pin
    await has(place, until, "pin", "pin", "pin", *["alias"] * 3, "end", "pin", "alias")

    successor = await place.open()  # the first one has not been closed: it was killed

    assert [await successor.pins.find(key(name)) for name in "abc"] == [again, b, None]
    assert (again.id, again.upstream, again.epoch) == (a.id, "http://h:1", 1)
    assert [await successor.pins.find(key(name)) for name in (*names, "late")] == [a] * (len(names) + 1)
    assert await successor.pins.look(a.id) == await store.pins.look(a.id)
    assert await successor.pins.counts() == await store.pins.counts()
    assert (await successor.pins.resolve([want("new")]))[0].pin.color == "green"


async def test_moves_places_and_use_are_written_too(place: Place, flips: Any, until: Until) -> None:
    store = await place.open()
    pin = (await store.pins.resolve([want("a")]))[0].pin
    placed = await store.pins.place(pin, "http://h:2")
    assert (await (await _reopened(place, until)).pins.find(pin.id)) == placed
    await store.commit(flips.order(await store.read(), pin, "green"))
    moved = await store.pins.move(pin.id)
    assert moved.color == "green"
    assert (await (await _reopened(place, until)).pins.find(pin.id)) == moved
    await store.pins.resolve([want("a", ttl=6_000.0)])
    successor = await _reopened(place, until)
    assert await successor.pins.look(pin.id) == await store.pins.look(pin.id)


async def _reopened(place: Place, until: Until) -> Any:
    """What a successor of a process that is killed now finds."""
    await until(lambda: not place.stores[0]._pin_log._changed)  # type: ignore[attr-defined]
    return await place.open()


async def test_one_write_takes_all_of_a_moment(place: Place, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await place.open()
    writes: list[int] = []
    write = os.write
    monkeypatch.setattr(pin_log.os, "write", lambda file, data: writes.append(len(data)) or write(file, data))
    monkeypatch.setattr(pin_log.os, "fsync", lambda _: pytest.fail("nothing here waits for the disk"), raising=False)
    for number in range(100):
        await store.pins.resolve([want(number)])
    assert writes == [], "no request waits for a write"
    await until(lambda: len(place.lines()) == 101)
    assert len(writes) == 1


async def test_an_orderly_end_writes_what_is_left(place: Place) -> None:
    store = await place.open()
    pin = (await store.pins.resolve([want("a")]))[0].pin
    await store.close()
    assert await (await place.open()).pins.find(pin.id) == pin


@pytest.mark.parametrize("torn", [b"", b'{"schema":1,"fl', b'["pin","61', b"\xff\x00"])
async def test_a_last_line_that_was_never_finished_says_nothing(place: Place, until: Until, torn: bytes) -> None:
    store = await place.open()
    pin = (await store.pins.resolve([want("a")]))[0].pin
    await store.close()
    whole = place.path.read_bytes() if not torn.startswith(b"{") else b""
    place.path.write_bytes(whole + torn)
    successor = await place.open()
    assert await successor.pins.find(pin.id) == (pin if whole else None)
    other = (await successor.pins.resolve([want("b")]))[0].pin
    await successor.close()
    assert await (await place.open()).pins.find(other.id) == other


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        ({"schema": 2, "fleet": "agents"}, SchemaTooNew, "written by a newer bgproxy"),
        (
            {"schema": 1, "fleet": "others"},
            StoreBroken,
            "holds the sessions of fleet 'others', and this one is 'agents'",
        ),
        ({"schema": 1}, StoreBroken, "cannot be understood"),
        ([], StoreBroken, "cannot be understood"),
    ],
)
async def test_a_file_that_is_not_ours_stops_the_start_and_is_left_alone(
    place: Place, head: Any, error: type[Exception], words: str
) -> None:
    await (await place.open()).close()
    raw = orjson.dumps(head) + b"\n"
    place.path.write_bytes(raw)
    with pytest.raises(error, match=words):
        await place.open()
    assert place.path.read_bytes() == raw


@pytest.mark.parametrize(
    "line", [b"{}", b"x", b'["pin","zz",[],1,[]]', b'["pin","61",["blue"],1,[]]', b'["what"]', b'["end",7]']
)
async def test_a_line_in_the_middle_that_is_not_understood(place: Place, line: bytes) -> None:
    store = await place.open()
    await store.pins.resolve([want("a")])
    await store.close()
    raw = place.path.read_bytes() + line + b"\n"
    place.path.write_bytes(raw)
    with pytest.raises(StoreBroken, match=r"memory\.json\.pins cannot be understood"):
        await place.open()
    assert place.path.read_bytes() == raw


async def test_without_its_state_a_file_of_pins_says_nothing(place: Place) -> None:
    store = await place.open()
    pin = (await store.pins.resolve([want("a")]))[0].pin
    await store.close()
    for state in slots(place.state):
        state.unlink(missing_ok=True)
    assert await (await place.open()).pins.find(pin.id) is None


async def test_what_has_expired_meanwhile_is_not_taken_over(place: Place) -> None:
    store = await place.open()
    await store.pins.resolve([want("a", "alias", ttl=0.1), want("b")])
    await store.close()
    await asyncio.sleep(1.2)
    successor = await place.open()
    assert [await successor.pins.find(key(name)) is None for name in ("a", "alias", "b")] == [True, True, False]


async def test_a_session_that_began_anew_has_no_aliases_of_its_earlier_life(place: Place, until: Until) -> None:
    store = await place.open()
    await store.pins.resolve([want("a", "old")])
    await has(place, until, "pin")
    await store.pins.end([key("a")])
    pin = (await store.pins.resolve([want("a", "new")]))[0].pin
    await has(place, until, "pin", "pin")
    successor = await place.open()
    assert [await successor.pins.find(key(name)) for name in ("a", "new", "old")] == [pin, pin, None]


class TestSize:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pin_log, "LEAST", 2_000)
        monkeypatch.setattr(pin_log, "PIECE", 7)
        monkeypatch.setattr(pin_log, "INTERVAL", 0.001)

    async def test_a_file_is_written_anew_at_twice_what_lives(self, place: Place, until: Until) -> None:
        store = await place.open()
        names = [f"n{number}" for number in range(KEPT_ALIASES + 3)]
        await store.pins.resolve([want(number) for number in range(40)])
        await store.pins.resolve([want("chain", *names)])
        sizes = []
        for number in range(60):
            await store.pins.resolve([want(f"new-{number}")])
            await store.pins.end([key(f"new-{number}")])
            await store.pins.refresh([key(number) for number in range(20)])
            await until(lambda: not store._pin_log._changed and store._pin_log._next is None)
            sizes.append(place.path.stat().st_size)
        assert any(after < before for before, after in pairwise(sizes))
        line = place.path.stat().st_size / len(place.lines())
        assert max(sizes) < 4 * line * 55
        await store.close()
        successor = await place.open()
        assert await successor.pins.counts() == await store.pins.counts()
        assert {pin.id for pin, _ in (await successor.pins.page("", 100))[0]} == {
            *(key(number) for number in range(40)),
            key("chain"),
        }
        assert [(await successor.pins.find(key(name))).id for name in names] == [key("chain")] * len(names)
        assert [*place.path.parent.glob(".*")] == []

    async def test_a_kill_while_it_is_written_anew_loses_nothing(self, place: Place, until: Until) -> None:
        store = await self.changed_while_it_is_written_anew(place)
        await until(lambda: not store._pin_log._changed)
        await self.stands(await place.open())

    async def test_what_changes_while_it_is_written_anew_is_in_the_new_one(self, place: Place, until: Until) -> None:
        store = await self.changed_while_it_is_written_anew(place)
        await until(lambda: store._pin_log._next is None)
        await store.close()
        await self.stands(await place.open())

    async def changed_while_it_is_written_anew(self, place: Place) -> Any:
        """Of forty sessions one has ended since the new file was begun, and another began."""
        store = await place.open()
        await store.pins.resolve([want(number) for number in range(40)])
        while store._pin_log._next is None:
            await store.pins.refresh([key(number) for number in range(40)])
            await asyncio.sleep(0.002)
        await store.pins.resolve([want("meanwhile")])
        await store.pins.end([key(3)])
        return store

    async def stands(self, successor: Any) -> None:
        assert (await successor.pins.counts())["blue", "v1"].live == 40
        assert await successor.pins.find(key("meanwhile")) is not None
        assert await successor.pins.find(key(3)) is None


class TestDisk:
    @pytest.mark.parametrize("half", [False, True])
    async def test_a_full_disk_is_told_once_and_tried_again(
        self, place: Place, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: Any, half: bool
    ) -> None:
        monkeypatch.setattr(pin_log, "PAUSE", 0.01)
        store = await place.open()
        write, tried = os.write, []

        def full(file: int, data: bytes) -> int:
            tried.append(1)
            if half:
                return write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pin_log.os, "write", full)
        pin = (await store.pins.resolve([want("a")]))[0].pin
        await until(lambda: len(tried) > 2)
        assert len(place.lines()) == 1
        monkeypatch.setattr(pin_log.os, "write", write)
        await has(place, until, "pin")
        assert caplog.text.count("cannot be written") == 1
        assert await (await place.open()).pins.find(pin.id) == pin

    async def test_a_file_that_cannot_be_read(self, place: Place) -> None:
        await (await place.open()).close()
        place.path.unlink()
        place.path.mkdir()
        with pytest.raises(Exception, match=r"memory\.json\.pins cannot be used"):
            await place.open()


async def test_without_a_file_nothing_is_logged() -> None:
    assert type(open_store(StoreOptions()).pins) is MemoryPins
