"""A memory store that changes hands between processes: nothing is lost, nobody has it twice, and it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from bgproxy.errors import BadInput, CannotJoin, StoreUnavailable
from bgproxy.store import host
from bgproxy.store.base import Conflict, NodeReport, StoreOptions
from bgproxy.store.calls import call_of, error_read, error_written, next_message, packed, plain
from bgproxy.store.host import NAME, HostStore
from bgproxy.store.memory import MemoryStore
from bgproxy.store.once import AlreadyDone, Done, Once
from bgproxy.store.pinning import Learned, Turn, Want
from bgproxy.store.store_door import HAND_OVER

Opened = Callable[..., Awaitable[HostStore]]
NODE = NodeReport("host-1", "host", 12, "0.1", 1, {"blue": 1}, {}, {}, revision=1, serial=3)


def want(name: str) -> Want:
    return Want((key(name),), "default", "mcp", 600.0)


def key(name: str) -> bytes:
    return name.encode().ljust(16, b".")


@pytest.fixture
async def processes(short_directory: Path) -> AsyncIterator[Opened]:
    """Stores as one process after another opens them on one host."""
    stores: list[HostStore] = []

    async def start(**options: Any) -> HostStore:
        told = StoreOptions(**{"handover": f"{short_directory}/memory.json", **options})
        stores.append(store := HostStore(told, short_directory, successor=bool(stores)))
        await store.open()
        return store

    yield start
    for store in reversed(stores):
        await store.close()


def has_it(store: HostStore) -> bool:
    return repr(store) == "<HostStore here>"


async def dies(store: HostStore) -> None:
    """Its process is gone, without a word."""
    assert isinstance(store._owner, MemoryStore)
    assert store._door is not None
    if store._owner._pin_log is not None:
        store._owner._pin_log.close()
    await store._door.close()
    if store._asked is not None:
        await store._asked.close()


# What changes hands


@pytest.mark.parametrize("kind", ["handover", "snapshot"])
async def test_all_that_was_known_goes_along(processes, flips, short_directory, kind, monkeypatch):
    """More of the audit too than a file has while one process keeps it."""
    monkeypatch.setattr("bgproxy.store.memory._HANDOVER_AUDIT", 3)
    monkeypatch.setattr("bgproxy.store.memory._SNAPSHOT_AUDIT", 3)
    options = {"snapshot": f"{short_directory}/state.json"} if kind == "snapshot" else {}
    first = await processes(**options)
    state, _ = await first.ask("commit", flips.first(), create=True)
    (pin,) = await first.pins.resolve([want("a")])
    await first.pins.learn([Learned((key("b"),), pin.pin.id, "blue", "v1", "", 1, "default", "mcp", 600.0)])
    done = Once("job 7", "digest")
    for number in range(9):
        change = flips.flip(state, reason=str(number))
        state, _ = await first.ask("commit", change, once=done if number == 0 else None)
    await first.tally(2, lost=3)
    second = await processes(**options)
    assert (has_it(first), has_it(second)) == (False, True)
    for store in (second, first):
        assert await store.read() == state
        entries = await store.audit(limit=1000)
        assert [entry.reason for entry in entries[:-1]] == [str(number) for number in reversed(range(9))]
        assert (await store.head()).seq == entries[0].seq
        found = await store.recall(done.key)
        assert found is not None
        assert (await store.flips([2]))[0].lost == 3
        assert (await store.pins.find(key("b"))).id == pin.pin.id
        assert await store.pins.find(key("c")) is None


async def test_both_go_on_with_it_as_two_nodes_do(processes, flips):
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)
    second = await processes()
    state, _ = await first.ask("commit", flips.flip(state))
    assert await second.read() == state
    with pytest.raises(Conflict) as lost:
        await first.ask("commit", flips.flip(flips.first().state))
    assert lost.value.current == state
    assert await first.beat(NODE) is False
    assert [node.id for node in await second.nodes()] == ["host-1"]
    (mine,) = await first.pins.resolve([want("s")])
    (theirs,) = await second.pins.resolve([want("s")])
    assert (mine.created, theirs.created, mine.pin) == (True, False, theirs.pin)


async def test_who_watches_is_not_told_of_a_line_that_broke_but_to_look_again(processes, flips):
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)
    bells = cast("AsyncGenerator[int, None]", first.watch())
    pins = cast("AsyncGenerator[Any, None]", first.pins.watch())
    assert (await anext(bells), await anext(pins)) == (0, ())
    state, _ = await first.ask("commit", flips.flip(state))
    assert await anext(bells) == 2
    waiting = asyncio.create_task(anext(pins)), asyncio.create_task(anext(bells))
    await asyncio.sleep(0)
    second = await processes()
    assert [await task for task in waiting] == [(), 0]
    await second.pins.resolve([want("s")])
    await second.ask("commit", flips.flip(state))
    await second.pins.end([key("s")])
    assert (await anext(bells), await anext(pins)) == (3, (key("s"),))
    await bells.aclose()
    await pins.aclose()


async def test_a_session_is_not_moved_while_the_one_before_has_a_turn_of_it(processes, flips):
    """What it has said of itself is said again before anything else, and its turns with the bell."""
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)
    await first.beat(NODE)
    await first.pins.resolve([want("s")])
    second = await processes()
    await second.beat(NODE_OF_SECOND)
    await second.pins.applied("host-2", 2, 2, [])
    await second.ask("commit", flips.flip(state))
    moved = await second.pins.migrate("host-2", [Turn(key("s"), 1)])
    assert moved[0].color == "blue", "host-1 lives, and has not said that it applied the flip"
    assert [node.id for node in await second.nodes()] == ["host-1", "host-2"]
    await second.pins.idle("host-2", [Turn(key("s"), 1)])
    await first.pins.applied("host-1", 2, 2, [])
    moved = await second.pins.migrate("host-2", [Turn(key("s"), 2)])
    assert moved[0].color == "green"


NODE_OF_SECOND = NodeReport("host-2", "host", 13, "0.2", 2, revision=2, serial=1)


async def test_it_goes_from_hand_to_hand_and_all_follow(processes, flips):
    """Nor is who asks at another's door told of a line that broke."""
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)
    second = await processes()
    first.retire()
    assert await first.read() == state
    bells = cast("AsyncGenerator[int, None]", first.watch())
    assert await anext(bells) == 0
    waiting = asyncio.create_task(anext(bells))
    third = await processes()
    assert await waiting == 0
    await bells.aclose()
    second.retire()
    assert [has_it(store) for store in (first, second, third)] == [False, False, True]
    state, _ = await first.ask("commit", flips.flip(state))
    assert [await store.read() for store in (first, second, third)] == [state] * 3


# What may go wrong


async def test_it_is_taken_back_from_one_that_dies(processes, flips, caplog):
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)
    bells = cast("AsyncGenerator[int, None]", first.watch())
    assert await anext(bells) == 0
    second = await processes()
    assert await anext(bells) == 0
    state, _ = await second.ask("commit", flips.flip(state))
    await second.pins.resolve([want("s")])
    assert await anext(bells) == 2
    await dies(second)
    assert await first.read() == state
    assert (await first.pins.find(key("s"))).color == "green"
    assert has_it(first)
    assert "the process that had it is gone; it is taken back" in caplog.text
    assert await anext(bells) == 0
    third = await processes()
    assert (has_it(first), has_it(third)) == (False, True), "and it can be handed over again"
    await bells.aclose()


async def test_one_that_was_retired_waits_for_the_next(processes, flips, monkeypatch):
    first = await processes(command_timeout=0.3)
    await first.ask("commit", flips.first(), create=True)
    second = await processes()
    first.retire()
    await dies(second)
    with pytest.raises(StoreUnavailable, match=r"no process of this host has had it for 0\.3 s"):
        await first.read()
    asking = asyncio.create_task(first.read())
    third = await processes()
    assert await asking == await third.read()


async def test_where_it_cannot_be_written_down_it_stays(processes, flips, monkeypatch):
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("bgproxy.store.handover.Handover.write", full)
        with pytest.raises(StoreUnavailable, match=r"memory\.json cannot be written: No space left on device"):
            await processes()
    assert has_it(first)
    assert await first.read() == state
    second = await processes()
    assert await second.read() == state


async def test_pins_that_cannot_be_written_down_are_not_left_behind(processes, flips, monkeypatch):
    first = await processes()
    await first.ask("commit", flips.first(), create=True)
    await first.pins.resolve([want("s")])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("bgproxy.store.pin_log._File.write", full)
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            await processes()
    assert has_it(first)
    second = await processes()
    assert await second.pins.find(key("s")) is not None


async def test_one_that_is_dead_is_asked_for_nothing(processes, flips, short_directory):
    """Its socket's file stays; the lock ended with it."""
    first = await processes()
    state, _ = await first.ask("commit", flips.first(), create=True)
    await dies(first)
    (short_directory / NAME).touch()
    assert await (await processes()).read() == state


async def test_calls_wait_while_it_changes_hands(processes, flips, monkeypatch):
    first = await processes()
    await first.ask("commit", flips.first(), create=True)
    wrote, go = asyncio.Event(), asyncio.Event()
    hand_over = MemoryStore.hand_over

    async def slowly(store: MemoryStore) -> None:
        wrote.set()
        await go.wait()
        await hand_over(store)

    monkeypatch.setattr(MemoryStore, "hand_over", slowly)
    handing = asyncio.create_task(processes())
    await wrote.wait()
    asking = asyncio.create_task(first.pins.resolve([want("s")]))
    await asyncio.sleep(0.01)
    assert not asking.done()
    go.set()
    second = await handing
    (found,) = await asking
    assert found.created
    assert await second.pins.find(key("s")) == found.pin


async def test_a_door_that_cannot_be_had_is_told_of_and_the_store_works(short_directory, caplog):
    directory = short_directory / ("x" * 90)
    directory.mkdir()
    store = HostStore(StoreOptions(handover=f"{short_directory}/memory.json"), directory)
    await store.open()
    assert await store.read() is None
    assert "this proxy cannot be upgraded" in caplog.text
    await store.close()


async def test_what_is_opened_late_is_opened_by_the_first_call(short_directory):
    store = HostStore(StoreOptions(handover=f"{short_directory}/memory.json"), short_directory)
    (short_directory / "memory.json.0").write_text("broken")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"memory\.json\.0 cannot be understood"):
            await store.read()
    (short_directory / "memory.json.0").unlink()
    assert await store.read() is None
    await store.close()
    assert not (short_directory / NAME).exists()


# The line


@contextlib.asynccontextmanager
async def line(directory: Path) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """A raw one to the door."""
    reader, writer = await asyncio.open_unix_connection(directory / NAME)

    async def say(name: str, what: Any) -> Any:
        writer.write(packed((7, name, what)))
        return await asyncio.wait_for(next_message(reader), 5)

    yield say
    writer.close()


async def test_what_another_version_asks(processes, flips, short_directory):
    first = await processes()
    await first.ask("commit", flips.first(), create=True)
    async with line(short_directory) as say:
        told = plain(NODE) | {"of_a_later_version": 1}
        del told["oldest"]
        assert await say("beat", {"node": told, "more": 1}) == (7, "ok", False)
        assert (await first.nodes())[0].oldest == {}
        number, said, (kind, text, _) = await say("beat", {"node": {"id": "x"}})
        assert (number, said, kind) == (7, "failed", "StoreUnavailable")
        assert "beat: " in text
        assert (await say("dance", {}))[1:] == ("failed", ("BgproxyError", "dance is not known here", None))
        assert (await say("close", {}))[1] == "failed"
        assert (await say("audit", {"limit": 1, "before": "x"}))[2][0] == "BadInput"


@pytest.mark.parametrize("said", [b"\xff\xff\xff\xff", b"\0\0\0\4abcd", b"\0\0\0\1", packed((1, "x", None))[:-3]])
async def test_what_is_no_message_ends_that_line_alone(processes, short_directory, said, caplog):
    first = await processes()
    reader, writer = await asyncio.open_unix_connection(short_directory / NAME)
    writer.write(said)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert await first.read() is None
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_nothing_is_called_that_a_message_brings(processes, short_directory):
    """A pickle may name any function; of a message plain values are read only."""
    await processes()
    evil = b"\x80\x04cos\nsystem\n(X\x04\0\0\0truetR."
    reader, writer = await asyncio.open_unix_connection(short_directory / NAME)
    writer.write(len(evil).to_bytes(4, "big") + evil)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_only_who_has_it_hands_it_over(processes, short_directory):
    first, second = await processes(), await processes()
    with pytest.raises(StoreUnavailable, match="does not have it any more"):
        await first._hand_over(asyncio.Event())
    assert has_it(second)
    async with line(short_directory) as say:
        assert await say(HAND_OVER, None) == (7, "ok", None)
    for _ in range(500):
        if has_it(second):
            break
        await asyncio.sleep(0.01)
    assert has_it(second), "who asked is gone, and had not even opened it"


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("a"), BadInput("b"), CannotJoin("c"), Conflict(None), Done],
    ids=lambda error: getattr(type(error), "__name__", ""),
)
def test_errors_are_what_they_were(flips, error):
    if error is Done:
        error = AlreadyDone(Done.of("r", flips.first().state, changed=True, at=1.0))
    found = error_read(error_written(error))
    assert (type(found), str(found), getattr(found, "done", None)) == (
        type(error),
        str(error),
        getattr(error, "done", None),
    )


def test_calls_are_those_of_the_protocols_and_no_others():
    assert call_of("pins.resolve") is not None
    assert [call_of(name) for name in ("open", "pins.open", "_x", "__class__", "pins", "kind")] == [None] * 6


def test_the_patience_of_a_call_is_the_store_s(monkeypatch):
    assert StoreOptions().command_timeout < host.HAND_OVER_TIMEOUT
