"""All that a store is ever asked, so that a right that is missing is missed."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

from bgproxy.store.base import Held, NodeReport
from bgproxy.store.once import Done, Once
from bgproxy.store.pinning import Learned, PinStore, Turn, Want
from bgproxy.store.trail import verify
from tests.redis_servers import RedisServer

NODE = NodeReport("n", "h", 1, "0.1", 1)
AUDIT_KEEP = 10  # entries: what is beyond that must go while it is looked on


def trim_soon(server: RedisServer) -> None:
    """A stream loses whole nodes: make them small, so that not thousands of entries are needed to see some go."""
    server.command("CONFIG", "SET", "stream-node-max-entries", "5")


async def everything(store: Any, flips: Any) -> None:
    """On a store that holds nothing yet and keeps `AUDIT_KEEP` entries."""
    await store.open()
    state, entry = await store.commit(flips.first(), create=True)
    async with aclosing(store.watch()) as bells:
        assert await anext(bells) == 0
        await store.commit(flips.flip(state))
        assert await anext(bells) == 2
    assert (await store.audit(limit=5))[-1] == entry
    await store.beat(NODE)
    assert len(await store.nodes()) == 1
    assert await store.hold("n", 2) == 1
    assert await store.hold_and_read("n", 2, state.pointer) == (await store.read(), 0)
    assert await store.asleep(Held(3)) == ["n"]
    await _on_pins(store, flips)
    await _on_the_record(store, flips)
    await store.tally(2, lost=1, turns_cut=1)
    assert [record.lost for record in await store.flips([2])] == [1]
    await store.tell("a topic", "n", "text")
    assert await store.told("a topic") == {"n": "text"}
    assert await store.now() >= entry.at
    await store.leave("n")


async def _on_pins(store: Any, flips: Any) -> None:
    pins: PinStore = store.pins
    async with aclosing(pins.watch()) as bells:  # type: ignore[type-var]
        assert await anext(bells) == ()
        new = Want((b"c" * 16,), "chat", "mcp", 60.0)
        first, second = await pins.resolve([Want((b"a" * 16, b"b" * 16), "chat", "mcp", 60.0), new])
        assert first.pin.color == "green"
        assert await pins.place(first.pin, "http://h:1") is not None
        assert await anext(bells) == (first.pin.id,)
    await pins.learn([Learned((b"d" * 16,), second.pin.id, "green", "v2", "", 2, "chat", "mcp", 60.0)])
    assert await pins.refresh([b"d" * 16]) == []
    assert len((await pins.page("", 100))[0]) == 2
    assert (await pins.counts())["green", "v2"].live == 2
    await pins.applied("n", 2, 2, [Turn(first.pin.id, 1)])
    await pins.idle("n", [Turn(first.pin.id, 1)])
    assert await pins.migrate("n", [Turn(second.pin.id, 2)]) == [second.pin]
    state, _ = await store.commit(flips.order(await store.read(), second.pin, "blue"))
    assert await pins.applied("n", 2, state.revision, [], anew=False)
    moved = await pins.move(b"d" * 16)
    assert moved is not None
    assert moved.color == "blue"
    assert await pins.find(b"d" * 16) == moved
    await pins.end([first.pin.id])


async def _on_the_record(store: Any, flips: Any) -> None:
    once = Once("a key", "a request")
    state, _ = await store.commit(flips.flip(await store.read()), held=Held(2))
    for _ in range(2 * AUDIT_KEEP):  # until some are trimmed
        state, _ = await store.commit(flips.flip(state), once=once)
        once = Once(f"a key {state.revision}", "a request")
    done = await store.keep("a digest", Done.of("a request", state, changed=False))
    assert await store.recall("a digest") == done
    assert (await store.keep("a digest", replace(done, body="{}"))).body == "{}"
    report = await verify(store)
    assert (report.fault, report.last) == (None, state.revision)
    assert report.first is not None
    assert report.first > 1
