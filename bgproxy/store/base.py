"""What all nodes of a fleet agree on: the `Store` protocol, its promises and its keyspace.

**Promises**, the same for every store, kept by one contract suite:

1. A commit happens whole or not at all: state, audit record and bell together.
2. Of several commits on one revision exactly one wins; the others get `Conflict` with the state that won. A change
   is made on the revision and the pointer that it was decided on: what is another's history is not written over.
3. Whoever has subscribed (`watch` has yielded 0) and then reads misses nothing: what is committed after that read
   rings. The bell says only "look": it may be lost, and who can ring it cannot flip. Reading is what counts.
4. Times on record are the store's own, in unix seconds.
5. Every call ends: within `command_timeout`, or within `connect_timeout` for `open` and the start of `watch`. What goes
   wrong is a `StoreUnavailable` (or one of its kinds), whose text never holds a password.
6. The sessions that a flip leaves are counted in its commit, and what becomes of them where it happens, see
   `store/flips.py`. The newest thousand epochs are kept; a memory store's file has them as of the last change.
7. Data that cannot be understood, or that a newer bgproxy wrote, are an error, are never taken for "nothing there", and
   are never written over.
8. The audit is a chain (`rules/chain.py`): each entry's number and hash are made in the commit, with the store's time,
   on the head that stands with the state. Retention takes the oldest entries and moves the head's `first`.
9. A commit under an idempotency key is remembered with it, in the same step, and is not made twice (`store/once.py`).
10. A node is registered from its first beat until it leaves, or is taken off the list by its host, an operator, or
    after a long silence. Until then it is told with all that it said last, however silent: it may still serve.
11. A commit that asks for all nodes to hold is made only where every registered node has said so, in the same step.
    Nor is it made for a while (`roll_call`) after a change that was written whole: what has lost the state has lost
    nodes with it, of which each registers again at its next beat.

**Keyspace** in Redis, all of one fleet under one hash tag, so that a script's keys live in one slot:

    bgproxy:{FLEET}:state   hash    schema, revision, colors, pointer, release:COLOR, orders, run, pending, pause,
                                    canary (JSON each but the numbers), chain: the audit's "LAST FIRST HASH"
    bgproxy:{FLEET}:audit   stream  one entry per change: verb, actor, reason, epoch, revision, facts, at, seq, prev,
                                    hash
    bgproxy:{FLEET}:dead:NODE  one that is dead, for DEAD_TTL
    bgproxy:{FLEET}:nodes   hash    node id → its last report with the time it came: the nodes that are registered
    bgproxy:{FLEET}:flips   hash    epoch → a flip's record (JSON); EPOCH:moved, :ended, :lost, :turns_cut → counts
    bgproxy:{FLEET}:held    hash    node id → the revision of the newest state at which it holds new admissions
    bgproxy:{FLEET}:topic:NAME  hash  node id → what it tells of that topic (JSON), see topics.py
    bgproxy:{FLEET}:roll    there while nodes may be missing from the list, as the store had lost something
    bgproxy:{FLEET}:once    hash    digests of idempotency keys → what came of them first, see once.lua
    bgproxy:{FLEET}:bell    channel the revision that has just been written, after a 0 where new admissions wait by it

The sessions' pins stand beside it: `store/pinning.py`.

In a Cluster the bell is plain pub/sub, which its nodes pass on to one another: it is rung and heard where the state is,
so nothing has to be passed on until the slot moves, and a listener who is still elsewhere then hears it all the same.
Sharded pub/sub would end the subscription instead, and needs Redis 7. Sentinel and Cluster: see `redis_client.py`.

An ACL user needs: `~bgproxy:{FLEET}:* &bgproxy:{FLEET}:bell &bgproxy:{FLEET}:pins +ping +exists +hget +hmget +hgetall
+hkeys +hlen +hexists +hset +hdel +hincrby +get +mget +set +del +pexpireat +scan +xadd +xlen +xrange +xrevrange
+publish +subscribe +time +evalsha +script|load +select +client|setname +wait`, the last three only for another database
than 0, for a `client_name`, and for `min_replicas`; in a Cluster also `+cluster|slots +asking`; a user of the sentinels
`+sentinel|master +subscribe &+switch-master`. Each of these is missed by a test that does without it. Where there is a
right to `+info` too, `Store.incarnation` can tell.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from bgproxy.errors import BgproxyError, ConfigError
from bgproxy.rules.chain import Head
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.lease import CLOCK_RATE
from bgproxy.rules.pointer import Pointer
from bgproxy.store.address import SCHEMES, redacted
from bgproxy.store.flips import FlipRecord
from bgproxy.store.once import Done, Once
from bgproxy.store.pinning import PinStore

SCHEMA = 1  # of the state; raised when an older bgproxy would misread it
PROTOCOL = (
    1  # of the nodes among one another; raised when older ones cannot serve beside this one. 0: before it was told
)

RELEASE_FIELD: Final = "release:"
"""Of the state hash, before a color's name."""

OLDEST: Final = "0"
"""In place of an entry's id: from the oldest entry on."""

ROLL_CALL: Final = 4.0
"""Seconds in which each node that reaches the store beats, should one beat be lost: twice their interval."""

DEAD_TTL: Final = 3600
"""Seconds; a kernel goes on sending what a dead process has written for a quarter of an hour at most (tcp(7))."""

_FLEET = re.compile(r"[A-Za-z0-9._-]{1,64}")  # part of every key, and of the hash tag in it
_SCHEMES = (
    "memory://, memory:///path/to/snapshot, redis://host:port/db, unix:/path/to/socket, "
    "redis+sentinel://host:port,host:port/SERVICE/db, redis+cluster://host:port,host:port, rediss for TLS"
)


@dataclass(frozen=True, slots=True, repr=False)
class StoreOptions:
    """Which store, and how long it may take. Times in seconds."""

    url: str = "memory://"
    fleet: str = "default"
    connect_timeout: float = 2.0
    command_timeout: float = 1.0
    read_interval: float = 1.0  # the reading behind the bell: how late a lost bell is noticed at most
    audit_keep: int = 10_000  # entries; Redis may keep a few more
    node_ttl: float = 10.0  # a node that has not reported for so long is silent; it is registered still
    node_forget_after: float = 3600.0  # one that has not reported for so long is taken off the list
    min_replicas: int = 0  # of Redis, that are to have a flip, rollback or stage before it is answered
    replica_timeout: float = 0.5  # how long these are waited for
    fence_after: float = 0.0  # without a beat for so long a node admits nothing new to it; 0: it goes on
    snapshot: str = ""  # a file's path, memory only; memory:///path says the same
    handover: str = ""  # likewise, where there is no snapshot: for a worker's successor, so not synced to the disk

    @property
    def roll_call(self) -> float:
        """Seconds after which each node is registered again in a store that had lost them, or has fenced itself. One
        that is stopped or cut off for longer than that and keeps no fence is not known of."""
        return max(ROLL_CALL, self.fence_after * (1 + CLOCK_RATE))

    def __repr__(self) -> str:
        return f"StoreOptions(url={redacted(self.url)!r}, fleet={self.fleet!r}, command_timeout={self.command_timeout})"

    @property
    def patience(self) -> float:
        """Seconds that a change may take before whoever asked for it is told that the store does not answer."""
        replicas = self.replica_timeout if self.min_replicas else 0.0
        return self.connect_timeout + self.command_timeout + replicas


class Replicas(NamedTuple):
    """How many replicas had a change in time, and how many should have."""

    have: int
    wanted: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change on record. `id` is the store's, growing; `at` unix seconds by the store's clock.

    `seq`, `prev`, `hash`: see `rules/chain.py`; 0 and empty in an entry from before the chain. `replicas` is known to
    who has made the change only, and where they were waited for: it is on no record.
    """

    id: str
    at: float
    verb: str
    actor: str
    reason: str
    epoch: int
    revision: int
    facts: Mapping[str, object]
    seq: int = 0
    prev: str = ""
    hash: str = ""
    replicas: Replicas | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says of itself. Counts are per color.

    `epoch` and `revision`: of the state that it routes by. `oldest`: seconds since the oldest of what is in flight on a
    color began. `serial`: the number of this beat, growing as long as the node lives. `schema`, `protocol`: what it
    speaks, see `SCHEMA` and `PROTOCOL`. `fence_after`: as this node keeps it, in seconds. `finishing`: it accepts
    nobody any more, as at an upgrade or its end. `mirrored`: what it has seen for the run that is open.
    The store says the rest: `age`, seconds since it heard this by its own clock, and `live`, whether that is within
    `node_ttl`; else the node is silent, dead or not.
    """

    id: str
    host: str
    pid: int
    version: str
    epoch: int
    in_flight: Mapping[str, int] = field(default_factory=dict)
    streams: Mapping[str, int] = field(default_factory=dict)
    websockets: Mapping[str, int] = field(default_factory=dict)
    age: float = 0.0
    revision: int = 0
    oldest: Mapping[str, float] = field(default_factory=dict)
    serial: int = 0
    schema: int = SCHEMA
    protocol: int = PROTOCOL
    live: bool = True
    fence_after: float = 0.0
    finishing: bool = False
    mirrored: Mapping[str, Any] = field(default_factory=dict)


class Conflict(BgproxyError):
    """Somebody else committed first. `current` is what stands now; None where the store holds nothing."""

    def __init__(self, current: FleetState | None) -> None:
        super().__init__(f"the store is at revision {current.revision if current else 'none'}")
        self.current = current


class Holding(int):
    """A revision by whose state new admissions wait, as a bell may tell it."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a commit asks of the nodes: all that are registered, but those `without`, hold at this revision or later.

    `fenced`: serials by node. These need not hold either, while that is still the serial of their last beat.
    """

    revision: int
    without: frozenset[str] = frozenset()
    fenced: Mapping[str, int] = field(default_factory=dict)


class Waiting(BgproxyError):
    """A commit that was not made: these nodes, by id, have not said that they hold new admissions. None of them: which
    nodes there are is not known yet, as the store had lost it."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(f"not every node holds: {', '.join(nodes) or 'not all are known yet'}")
        self.nodes = tuple(nodes)


async def untold(_: object) -> str:
    """See `Store.incarnation`."""
    return ""


@runtime_checkable
class Store(Protocol):
    """See this module's promises. A store's methods may be called from many tasks of one event loop."""

    kind: str
    shared: bool  # whether several processes may stand on it
    pins: PinStore

    async def open(self) -> None:
        """Check that the store is there and can be used; raises a kind of `StoreUnavailable` that says what to do.

        Where it fails the store object stays usable: later calls try anew.
        """

    async def close(self) -> None:
        """Let go of connections and files. Never raises."""

    def routes_by(self, epoch: int) -> None:
        """This process routes by that epoch: should the store lose it, no pin is made here by the older pointer."""

    async def read(self) -> FleetState | None:
        """The state that stands; None where there has never been one. Raises `StoreUnavailable` and its kinds."""

    async def incarnation(self) -> str:
        """As long as this stays the same, nothing that was confirmed has been lost; "": that cannot be told. Raises
        `StoreUnavailable` and its kinds."""

    async def commit(
        self, change: Change, *, create: bool = False, once: Once | None = None, held: Held | None = None
    ) -> tuple[FleetState, AuditEntry]:
        """Make the change, on exactly what it was decided on; with `create` only where nothing stands.

        Returns the state as written, with the store's times. `once`: the idempotency key under which it was asked for;
        `held`: which nodes must hold. Raises `AlreadyDone` where that key is known, `Conflict`, `Waiting` (looked at in
        this order), or `StoreUnavailable`: after that it is not known whether the change was made. Where fewer
        replicas than `min_replicas` have it in time, it is made all the same, and the entry says so.
        """

    async def hold(self, node_id: str, revision: int) -> int:
        """This node has applied that state, and admits nothing new as long as no later one lets it.

        Answers how many nodes are registered. The last one for which a commit would wait rings, with that revision: all
        but `Pending.not_awaited`.
        What was said of an earlier state may be forgotten: each node says it of each state by which it holds.
        """

    async def hold_and_read(self, node_id: str, revision: int, pointer: Pointer) -> tuple[FleetState | None, int]:
        """As `read`; where that has this revision and this pointer, and new admissions wait by it, `hold` in one step
        with it: for a node that admits nothing new already. Answers the state, and what `hold` does or 0.
        """

    async def asleep(self, held: Held) -> list[str]:
        """The nodes, by id, that do not hold so, `fenced` or not."""

    async def recall(self, key: str) -> Done | None:
        """What came first of what was asked under an idempotency key (its digest); None where it is not known."""

    async def keep(self, key: str, done: Done) -> Done:
        """Keep this under an idempotency key where nothing is kept, and its answer where none is kept with it.

        What is kept then, which may be another's: the first one stays. `done.at` is replaced by the store's time.
        """

    async def audit(self, *, limit: int, before: str | None = None) -> list[AuditEntry]:
        """At most `limit` entries, newest first, those older than the id `before`. Raises `BadInput` on a bad id."""

    async def trail(self, *, limit: int, after: str = OLDEST) -> list[dict[str, Any]]:
        """At most `limit` entries as they are exported, oldest first, those newer than the id `after`.

        As they stand: one that cannot be understood is told too, with what is there. Raises `BadInput` on a bad id.
        """

    async def head(self) -> Head | None:
        """Where the audit's chain ends by the state; None where there is no state, or one from before the chain."""

    def watch(self) -> AsyncIterator[int]:
        """An async generator: 0 once subscribed, then a revision per commit, the caller's own included, and see `hold`.
        A store that is shared tells of a state that lets new admissions wait by `Holding`.

        It may skip revisions that are overtaken while nobody asks. Raises `StoreUnavailable` when the line breaks.
        Close it (`aclose`) when done.
        """

    async def flips(self, epochs: Sequence[int]) -> list[FlipRecord]:
        """The records of these epochs' flips, in that order, without those that never were or are forgotten."""

    async def tally(self, epoch: int, *, lost: int = 0, turns_cut: int = 0) -> None:
        """Count sessions and exchanges that bgproxy has lost or cut towards that epoch's flip, if it is known.

        Asking again after a `StoreUnavailable` may count it twice: a loss is rather told twice than hidden.
        """

    async def now(self) -> float:
        """The time by which everything on record is stamped, and deadlines count: unix seconds."""

    async def beat(self, node: NodeReport) -> bool:
        """Report that this node is there; whether it was registered already. It is from now on.

        Raises `CannotJoin` for one that was not, while a live node is registered that speaks another schema or
        protocol, or that has left as `dead`; then nothing is written.
        """

    async def nodes(self) -> list[NodeReport]:
        """All registered nodes, the silent ones too, by id. One whose report is not understood has none but its id."""

    async def leave(self, node_id: str, serial: int | None = None, *, dead: bool = False) -> bool:
        """Take this node off the list; whether it was there. With `serial` only if that was its last beat.

        `dead`: it will never come back, so a beat of it that is still on its way does not count (for `DEAD_TTL`).
        """

    async def tell(self, topic: str, who: str, text: str) -> None:
        """Keep a text for all nodes, in place of what `who` told of that topic before; see `store/topics.py`.

        Beside the state: no bell rings, and nothing is on record.
        """

    async def told(self, topic: str) -> dict[str, str]:
        """What was told of a topic, by who told it; nothing of one that is not known, or was forgotten."""


def open_store(options: StoreOptions) -> Store:
    """The store that the URL names, not opened yet. Raises `ConfigError` for a URL that names none."""
    # Imported here: both build on this module, and the Redis client is slow to load for whoever needs none.
    from bgproxy.store.memory import MemoryStore

    if not _FLEET.fullmatch(options.fleet):
        raise ConfigError(f"fleet: {options.fleet[:64]!r} cannot be used: 1 to 64 letters, digits or one of . _ -")
    scheme, separator, _ = options.url.partition(":")
    scheme = scheme.lower() if separator else ""
    if scheme == "memory":
        return MemoryStore(options)
    if scheme in SCHEMES:
        from bgproxy.store.redis import RedisStore

        return RedisStore(options)
    raise ConfigError(f"store: {redacted(options.url)!r} names no store that there is; use one of {_SCHEMES}")
