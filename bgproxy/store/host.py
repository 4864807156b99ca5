"""The memory store of one host, which several processes of one proxy use while it is upgraded.

One of them has it: that one answers its own calls, and those of the others at its door in the runtime directory. At an
upgrade it changes hands: who has it writes all of it down, lets go of it and says so; who asked reads it, and opens
the door anew. Whoever calls meanwhile waits, for milliseconds. Promises that there is one owner at a time, by the lock
beside the file (`store/lock.py`), and that it goes back only where the new one died before the old one was retired.

Keeps the promises of `store/base.py`; a call that finds nobody at home within `command_timeout` is `StoreUnavailable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from bgproxy import tasks
from bgproxy.errors import CannotJoin, StoreUnavailable
from bgproxy.store.base import NodeReport, Store, StoreOptions, untold
from bgproxy.store.distant import DistantStore
from bgproxy.store.memory import MemoryStore
from bgproxy.store.store_door import HAND_OVER, StoreDoor

log = logging.getLogger(__name__)

NAME: Final = "store.sock"  # in the runtime directory
HAND_OVER_TIMEOUT: Final = 20.0  # seconds: a million pins are written then
MEETING_TIMEOUT: Final = 2.0  # seconds in which the one before comes to the new owner's door
_PAUSE: Final = 0.02  # seconds between two tries to find the owner
_ONCE: Final = frozenset({"commit", "keep", "tally"})  # not to be asked twice where the first answer was lost


class _Part:
    """Whatever a store promises, asked of who has it. `name`: empty, or `pins.` for that part of it."""

    def __init__(self, host: HostStore, name: str) -> None:
        self._host = host
        self._name = name

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._host.ask, self._name + name)

    def watch(self) -> AsyncIterator[Any]:
        """See `Store.watch` and `PinStore.watch`: where the owner changes, it begins anew by itself."""
        return self._host.stream(f"{self._name}watch")


class HostStore(_Part):
    """See the module. A `Store`; what is not named here goes to who has it."""

    kind = "memory"
    shared = False
    incarnation = untold

    def __init__(self, options: StoreOptions, runtime_dir: Path, *, successor: bool = False) -> None:
        """`successor`: of a process that may live, and hand over what it has."""
        super().__init__(self, "")
        self.pins = _Part(self, "pins.")
        self._options = options
        self._path = runtime_dir / NAME
        self._successor = successor
        self._owner: MemoryStore | DistantStore | None = None
        self._is_known = asyncio.Event()  # who has it
        self._opening = asyncio.Lock()
        self._door: StoreDoor | None = None
        self._asked: DistantStore | None = None  # the line by which this process has asked for it
        self._is_open = self._is_retired = False
        self._node: NodeReport | None = None  # what this process has said of itself last
        self._finder: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        where = {MemoryStore: "here", DistantStore: "with another process"}.get(type(self._owner), "on its way")
        return f"<HostStore {where}>"

    def routes_by(self, epoch: int) -> None:
        """See `Store.routes_by`: a memory store loses nothing that this process keeps."""

    async def open(self) -> None:
        """See `Store.open`."""
        async with self._opening:
            if self._is_open:
                return
            asked = await self._ask_for_it() if self._successor and self._path.exists() else False
            await self._have_it()
            self._is_open = True
            if asked and self._door is not None:
                # Its turns under way are known again before any session is looked at here.
                await self._door.met(MEETING_TIMEOUT)

    async def close(self) -> None:
        """See `Store.close`."""
        await tasks.stop(self._finder)
        owner, self._owner = self._owner, None
        if self._door is not None:
            await self._door.close()
        if owner is not None:
            await owner.close()
        if self._asked is not None:  # last: whoever takes the store back when this line ends finds it free
            await self._asked.close()

    def as_store(self) -> Store:
        """This object: every call of the protocol is answered by `__getattr__`, which no type checker can see."""
        return cast("Store", self)

    def retire(self) -> None:
        """This process finishes: it never takes back what it has handed over."""
        self._is_retired = True

    # Calls

    async def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        """A call of a store, by its name; `pins.` stands before those of the pins."""
        if name == "beat":
            self._node = arguments[0]
        owner = await self._found()
        try:
            return await _call(owner, name, *arguments, **named)
        except StoreUnavailable:
            if self._stands(owner) or name in _ONCE:
                raise
        return await _call(await self._found(), name, *arguments, **named)

    async def stream(self, name: str) -> AsyncIterator[Any]:
        """A call that goes on answering."""
        while True:
            owner = await self._found()
            items = owner.stream(name) if isinstance(owner, DistantStore) else _method(owner, name)()
            try:
                async with contextlib.aclosing(cast("AsyncGenerator[Any, None]", items)) as told:
                    async for item in told:
                        yield item
            except StoreUnavailable:
                if self._stands(owner):
                    raise

    def _stands(self, owner: MemoryStore | DistantStore) -> bool:
        """Whether that one has it still, for all that is known by now."""
        if owner is self._owner and isinstance(owner, DistantStore) and owner.ended.is_set():
            self._owner = None
            self._is_known.clear()
        return owner is self._owner

    async def _found(self) -> MemoryStore | DistantStore:
        """Who has it."""
        if self._owner is None or not self._stands(self._owner):
            await self.open()
            timeout = self._options.command_timeout
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_known.wait(), timeout)
            if self._owner is None:
                raise StoreUnavailable(f"store: no process of this host has had it for {timeout:g} s")
        return self._owner

    # Hands

    async def _ask_for_it(self) -> bool:
        """Whether somebody has handed it over. Raises `StoreUnavailable` where who has it does not."""
        try:
            line = await DistantStore.connect(self._path, self._options.connect_timeout)
        except StoreUnavailable:
            return False  # who had it is dead
        try:
            await line.say(HAND_OVER, None, HAND_OVER_TIMEOUT)
        except BaseException:
            await line.close()
            raise
        self._asked = line
        return True

    async def _have_it(self) -> None:
        own = MemoryStore(self._options)
        try:
            await own.open()
        except BaseException:
            await own.close()
            raise
        door = StoreDoor(self._path, own, self._hand_over)
        try:
            await door.start()
            self._door = door
        except OSError as error:
            log.warning("store: %s cannot be had: %s; this proxy cannot be upgraded", self._path, error)
        await self._is_at(own)

    async def _is_at(self, owner: MemoryStore | DistantStore) -> None:
        """What this process says of itself comes first: a session that it serves must not be moved."""
        if self._node is not None:
            with contextlib.suppress(StoreUnavailable, CannotJoin):
                await _call(owner, "beat", self._node)
        self._owner = owner
        self._is_known.set()

    async def _hand_over(self, gone: asyncio.Event) -> None:
        own, door = self._owner, self._door
        if not isinstance(own, MemoryStore) or door is None:
            raise StoreUnavailable("store: this process does not have it any more")
        self._owner = None
        self._is_known.clear()
        try:
            await own.hand_over()
        except BaseException:
            await door.start()
            await self._is_at(own)
            raise
        log.info("store: handed over to another process of this host")
        self._finder = tasks.spawn(self._find(gone), "find the store")

    async def _find(self, gone: asyncio.Event) -> None:
        """Keep to whoever has it. Where that one is `gone` and nobody follows, this process takes it back."""
        while True:
            try:
                owner = await DistantStore.connect(self._path, self._options.connect_timeout)
            except StoreUnavailable:
                if gone.is_set() and not self._is_retired and await self._took_back():
                    return
                await asyncio.sleep(_PAUSE)
                continue
            await self._is_at(owner)
            await owner.ended.wait()
            self._stands(owner)

    async def _took_back(self) -> bool:
        try:
            await self._have_it()
        except StoreUnavailable as error:
            log.error("store: it cannot be taken back: %s", error)
            return False
        log.warning("store: the process that had it is gone; it is taken back")
        return True


def hosted(store: Store, options: StoreOptions, runtime_dir: Path, *, successor: bool) -> HostStore | None:
    """The store as a worker has it, where it lives in a process and can change hands; None for one that is shared."""
    return HostStore(options, runtime_dir, successor=successor) if isinstance(store, MemoryStore) else None


def _method(owner: MemoryStore, name: str) -> Callable[..., Any]:
    part, _, method = name.rpartition(".")
    found: Callable[..., Any] = getattr(owner.pins if part else owner, method)
    return found


async def _call(owner: MemoryStore | DistantStore, name: str, *arguments: Any, **named: Any) -> Any:
    if isinstance(owner, DistantStore):
        return await owner.ask(name, *arguments, **named)
    return await _method(owner, name)(*arguments, **named)
