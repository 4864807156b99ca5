"""The store of a single process: plain variables, and a snapshot file where one is asked for.

Keeps the promises of `store/base.py`. With a snapshot a commit is on the disk before it counts, so that a flip which
was answered survives a crash of the machine; with a handover file it survives one of the process. A snapshot is this
process's alone (`store/lock.py`). A file that cannot be understood stops `open` and is never written over. The
sessions' pins stand in a log beside the file (`store/pin_log.py`), and outlive the process likewise, but for those of
its last 50 ms; of a machine's crash more of them may be lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bgproxy import tasks
from bgproxy.errors import BgproxyError, StoreUnavailable
from bgproxy.rules.chain import EMPTY, Head
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.pointer import Pointer
from bgproxy.store import lock
from bgproxy.store.address import snapshot_path
from bgproxy.store.base import OLDEST, AuditEntry, Conflict, Held, Holding, NodeReport, StoreOptions, Waiting, untold
from bgproxy.store.document import (
    entry_content,
    entry_document,
    entry_number,
    entry_of,
    state_document,
    write_safely,
)
from bgproxy.store.flips import FlipRecord, FlipTable, record_of
from bgproxy.store.handover import Handover
from bgproxy.store.kept import kept_from
from bgproxy.store.logged_pins import LoggedPins
from bgproxy.store.memory_bell import RevisionBell
from bgproxy.store.memory_nodes import NodeTable
from bgproxy.store.memory_pins import MemoryPins
from bgproxy.store.once import AlreadyDone, Done, Once, OnceTable
from bgproxy.store.pin_log import PinLog
from bgproxy.store.pinning import PinStore
from bgproxy.store.topics import TopicTable

log = logging.getLogger(__name__)

_Written = tuple[FleetState, AuditEntry]


class _Step(NamedTuple):
    """A change that is about to be made, with what goes along with it."""

    change: Change
    state: FleetState
    entry: AuditEntry
    head: Head
    flip: FlipRecord | None
    once: OnceTable


# Entries kept in the file, which is rewritten whole at each change.
_SNAPSHOT_AUDIT = 1_000
_HANDOVER_AUDIT = 100
_ALL = 1 << 30

_LOCK_TIMEOUT = 3.0  # seconds; a worker whose supervisor was killed ends sooner, if nothing is in flight
_LOCK_PAUSE = 0.05


class MemoryStore:
    """One process's state; gone with it unless there is a snapshot. By `clock`, in seconds, nodes fall silent."""

    kind = "memory"
    shared = False
    incarnation = untold

    def __init__(self, options: StoreOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        snapshot = snapshot_path(options.url, options.snapshot)
        self._path = snapshot or (Path(options.handover) if options.handover else None)  # None: no file
        # Without a snapshot, a process's death is all that has to be survived.
        self._handover = Handover(self._path) if self._path is not None and snapshot is None else None
        self._state: FleetState | None = None
        self._audit: deque[AuditEntry] = deque(maxlen=max(1, options.audit_keep))  # oldest first
        self._last_id = 0
        self._head: Head | None = None  # of the audit's chain; None before its first entry
        self._nodes = NodeTable(options, clock)
        self._bells: set[RevisionBell] = set()
        self._writing = asyncio.Lock()
        self._flips = FlipTable()
        self._once = OnceTable()
        self._topics = TopicTable()
        self._pin_log: PinLog | None = None
        if self._path is None:
            self._pins = MemoryPins(self._standing, self._nodes.ids, has_moved=self._has_moved)
        else:
            self._pin_log = PinLog(self._path.with_name(f"{self._path.name}.pins"), options.fleet)
            told = self._pin_log.note
            self._pins = LoggedPins(self._standing, self._nodes.ids, has_moved=self._has_moved, changed=told)
        self.pins: PinStore = self._pins
        self._is_loaded = False
        self._lock: int | None = None  # on the snapshot, from the first look at it

    def __repr__(self) -> str:
        return f"<MemoryStore {self._path or 'without a snapshot'}>"

    async def open(self) -> None:
        """See `Store.open`. Raises `StoreBroken`, `SchemaTooNew` or `StoreUnavailable` for a bad snapshot."""
        await self._loaded()

    async def close(self) -> None:
        """Wait for a snapshot that is being written, and leave the file to the next one."""
        async with self._writing:
            if self._pin_log is not None:
                self._pin_log.close()
            if self._handover is not None:
                self._handover.close()
            if self._lock is not None:
                lock.release(self._lock)
                self._lock = None

    async def hand_over(self) -> None:
        """Write down all that another process needs to go on from here, and let go of it: this object is of no use
        after that. Raises `StoreUnavailable` where that cannot be, and all is as it was. No call may be made meanwhile.
        """
        await self._loaded()
        async with self._writing:
            try:
                if self._path is not None and self._state is not None:
                    write = self._handover.write if self._handover is not None else partial(write_safely, self._path)
                    await asyncio.to_thread(write, self._document(self._state, _ALL))
                if self._pin_log is not None:
                    self._pin_log.flush()
            except OSError as error:
                raise StoreUnavailable(f"store: {self._path} cannot be written: {error.strerror}") from error
        await self.close()
        self._pins.end_watches()
        for bell in self._bells:
            bell.end()

    def routes_by(self, epoch: int) -> None:
        """See `Store.routes_by`: this store and this process lose nothing but together."""

    async def read(self) -> FleetState | None:
        """See `Store.read`."""
        await self._loaded()
        return self._state

    async def commit(
        self, change: Change, *, create: bool = False, once: Once | None = None, held: Held | None = None
    ) -> _Written:
        """See `Store.commit`. With a snapshot, a caller that gives up does not stop a write half-way."""
        await self._loaded()
        if self._path is None or self._handover is not None:
            step = self._next(change, create, once, held)
            if self._path is not None:
                await self._leave(step, self._path)
            return self._take(step)
        writing = tasks.spawn(self._commit_on_disk(change, create, once, held, self._path), "store.snapshot")
        outcome: _Written | BgproxyError = await asyncio.shield(writing)
        if isinstance(outcome, BgproxyError):
            raise outcome
        return outcome

    async def hold(self, node_id: str, revision: int) -> int:
        """See `Store.hold`."""
        count = self._nodes.hold(node_id, revision)
        if self._nodes.is_last(node_id, revision, self._state):
            for bell in self._bells:
                bell.ring(revision)
        return count

    async def hold_and_read(self, node_id: str, revision: int, pointer: Pointer) -> tuple[FleetState | None, int]:
        """See `Store.hold_and_read`."""
        await self._loaded()
        state = self._state
        if state is None or not state.is_held or (state.revision, state.pointer) != (revision, pointer):
            return state, 0
        return state, await self.hold(node_id, revision)

    async def asleep(self, held: Held) -> list[str]:
        """See `Store.asleep`."""
        return self._nodes.asleep(held)

    async def recall(self, key: str) -> Done | None:
        """See `Store.recall`."""
        await self._loaded()
        return self._once.find(key, time.time())

    async def keep(self, key: str, done: Done) -> Done:
        """See `Store.keep`. A file that cannot be written is logged: what a change left is in there already."""
        await self._loaded()
        async with self._writing:
            self._once = self._once.kept(key, replace(done, at=time.time()))
            if self._path is not None and self._state is not None:
                try:
                    await self._write(self._path, self._state)
                except OSError as error:
                    log.error("store: %s cannot be written: %s", self._path, error.strerror)
        return self._once.find(key, time.time()) or done

    async def audit(self, *, limit: int, before: str | None = None) -> list[AuditEntry]:
        """See `Store.audit`."""
        bound = self._last_id + 1 if before is None else entry_number(before)
        older = (entry for entry in reversed(self._audit) if int(entry.id) < bound)
        return list(islice(older, max(0, limit)))

    async def trail(self, *, limit: int, after: str = OLDEST) -> list[dict[str, Any]]:
        """See `Store.trail`."""
        bound = entry_number(after, "after")
        newer = (entry for entry in self._audit if int(entry.id) > bound)
        return [entry_document(entry) for entry in islice(newer, max(1, limit))]

    async def head(self) -> Head | None:
        """See `Store.head`."""
        return self._head

    async def watch(self) -> AsyncIterator[int]:
        """See `Store.watch`."""
        bell = RevisionBell()
        self._bells.add(bell)
        try:
            yield 0
            while True:
                yield await bell.rung()
        finally:
            self._bells.discard(bell)

    async def flips(self, epochs: Sequence[int]) -> list[FlipRecord]:
        """See `Store.flips`."""
        return self._flips.find(epochs)

    async def tally(self, epoch: int, *, lost: int = 0, turns_cut: int = 0) -> None:
        """See `Store.tally`."""
        self._flips.add(epoch, lost=lost, turns_cut=turns_cut)

    async def now(self) -> float:
        """See `Store.now`."""
        return time.time()

    async def beat(self, node: NodeReport) -> bool:
        """See `Store.beat`."""
        return self._nodes.beat(node)

    async def nodes(self) -> list[NodeReport]:
        """See `Store.nodes`."""
        return self._nodes.reports()

    async def leave(self, node_id: str, serial: int | None = None, *, dead: bool = False) -> bool:
        """See `Store.leave`."""
        return self._nodes.leave(node_id, serial, dead)

    async def tell(self, topic: str, who: str, text: str) -> None:
        """See `Store.tell`."""
        self._topics.tell(topic, who, text)

    async def told(self, topic: str) -> dict[str, str]:
        """See `Store.told`."""
        return self._topics.told(topic)

    def _standing(self) -> FleetState | None:
        return self._state

    async def _restore_pins(self, *, keep: bool) -> None:
        if self._pin_log is not None and isinstance(self._pins, LoggedPins):
            await self._pin_log.open(self._pins, keep=keep)

    def _has_moved(self, epoch: int) -> None:
        self._flips.add(epoch, moved=1)

    def _next(self, change: Change, create: bool, once: Once | None, held: Held | None) -> _Step:
        """What the change leads to; raises what `commit` raises."""
        now = round(time.time(), 6)
        if once is not None and (done := self._once.find(once.key, now)) is not None:
            raise AlreadyDone(done)
        standing = self._state
        if not (standing is None if create else change.fits(standing)):
            raise Conflict(standing)
        self._nodes.must_hold(held)
        state = change.stamped(now)
        before = self._head or EMPTY
        head = before.after(now, entry_content(change)[1])
        if len(self._audit) == self._audit.maxlen and self._audit[0].seq:
            head = replace(head, first=self._audit[0].seq + 1)
        entry = entry_of(change, str(self._last_id + 1), now, head, before.hash)
        becomes = (state.pointer.active, state.active.label if state.active is not None else "")
        left = sum(count.live for place, count in self._pins.live().items() if place != becomes) if change.moved else 0
        kept = self._once
        if once is not None and once.is_kept:
            kept = kept.after(once.key, Done.of(once.request, state, changed=True, at=now))
        return _Step(change, state, entry, head, record_of(change, now, left), kept)

    def _take(self, step: _Step) -> _Written:
        state, entry = step.state, step.entry
        self._flips = self._flips.after(step.change, step.flip)
        self._state, self._head, self._once = state, step.head, step.once
        self._audit.append(entry)
        self._last_id = int(entry.id)
        self._nodes.wrote(step.change)
        for bell in self._bells:
            bell.ring(Holding(state.revision) if state.is_held else state.revision)
        return state, entry

    async def _commit_on_disk(
        self, change: Change, create: bool, once: Once | None, held: Held | None, path: Path
    ) -> _Written | BgproxyError:
        """A failure is returned: it is the caller's, who may be gone, and no background task's."""
        async with self._writing:
            try:
                step = self._next(change, create, once, held)
            except (AlreadyDone, Conflict, Waiting) as lost:
                return lost
            try:
                await self._write(path, step.state, step)
            except OSError as error:
                return StoreUnavailable(f"store: {path} cannot be written: {error.strerror}; nothing changed")
            return self._take(step)

    async def _leave(self, step: _Step, path: Path) -> None:
        """Write for a successor."""
        try:
            await self._write(path, step.state, step)
        except OSError as error:
            # Nobody asked for this file: a full disk must not stand in the way of a rollback.
            log.error("store: %s cannot be written: %s; a worker's successor will not know", path, error.strerror)

    async def _write(self, path: Path, state: FleetState, step: _Step | None = None) -> None:
        """The file as of this state. A handover is written before anything else runs: it is little, and a thread
        would take longer. Raises `OSError`."""
        if self._handover is not None:
            self._handover.write(self._document(state, _HANDOVER_AUDIT, step))
        else:
            await asyncio.to_thread(write_safely, path, self._document(state, _SNAPSHOT_AUDIT, step))

    def _document(self, state: FleetState, entries: int, step: _Step | None = None) -> dict[str, Any]:
        """With so many audit entries and records of each kind; `step`: the change that leads to `state`."""
        head, flips, once = self._head, self._flips, self._once
        if step is not None:
            head, flips, once = step.head, flips.after(step.change, step.flip), step.once
        newest = [step.entry] if step is not None else []
        room = entries - len(newest)
        kept = [*islice(reversed(self._audit), room)][::-1]
        if head is not None and len(self._audit) > room:
            head = replace(head, first=max(head.first, self._audit[-room - 1].seq + 1))
        record = {"audit": kept + newest, "chain": head, "flips": flips.newest(entries), "once": once.newest(entries)}
        return {**state_document(state), **{name: value for name, value in record.items() if value is not None}}

    async def _hold(self, path: Path) -> None:
        """Lock the file. A snapshot that can never be written is found out by that: at the start, not at a flip."""
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while self._lock is None:
            try:
                self._lock = lock.take(path)
            except OSError as error:
                if self._handover is not None:  # nobody asked for this file
                    log.warning("store: %s cannot be locked: %s", path, error.strerror)
                    return
                if isinstance(error, FileNotFoundError | NotADirectoryError):
                    raise StoreUnavailable(f"store: {path.parent} is no directory: make it") from None
                raise StoreUnavailable(
                    f"store: {path} cannot be locked: {error.strerror}: choose a directory of a local disk that this "
                    "user may write to"
                ) from None
            except StoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_LOCK_PAUSE)

    async def _loaded(self) -> None:
        """The snapshot has been taken over, or raises: nothing is read past, or written over, a file not understood."""
        if self._path is None or self._is_loaded:
            return
        where = str(self._path)
        await self._hold(self._path)
        try:
            raw = await asyncio.to_thread(self._path.read_bytes if self._handover is None else self._handover.read)
        except FileNotFoundError:
            await self._restore_pins(keep=False)  # pins without a state are of no fleet
            self._is_loaded = True
            return
        except OSError as error:
            raise StoreUnavailable(f"store: {where} cannot be read: {error.strerror}") from error
        kept = kept_from(raw, where)
        await self._restore_pins(keep=True)
        if not self._is_loaded:  # another task may have been faster while the file was read
            self._is_loaded = True
            self._state = kept.state
            self._audit.extend(kept.entries)
            self._last_id = kept.last_id
            dropped = kept.entries[: -len(self._audit)]  # fewer may be kept by now than were
            self._head = kept.head and replace(
                kept.head, first=max([kept.head.first, *(one.seq + 1 for one in dropped)])
            )
            self._flips, self._once = kept.flips, kept.once
