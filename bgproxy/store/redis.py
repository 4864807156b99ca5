"""The store that many nodes share: Redis 6 or newer, or Valkey, over RESP3.

Keeps the promises of `store/base.py`, whose keyspace it is. All writing of state is one script (`commit.lua`). Which
server is meant, alone or of several, is the client's business (`redis_client.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from importlib.resources import files
from typing import Any, Final, cast

from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub

from bgproxy.errors import BadInput
from bgproxy.rules.chain import Head
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.pointer import Pointer
from bgproxy.store.address import redacted, store_address
from bgproxy.store.base import (
    DEAD_TTL,
    OLDEST,
    AuditEntry,
    Conflict,
    Held,
    Holding,
    NodeReport,
    Replicas,
    StoreOptions,
    Waiting,
)
from bgproxy.store.document import (
    check_schema,
    done_from,
    entry_from,
    entry_of,
    flip_from,
    head_of,
    parsed,
    stream_document,
)
from bgproxy.store.flips import COUNTS, FlipRecord
from bgproxy.store.node_record import cannot_join, has_died, node_document, node_from
from bgproxy.store.once import KEPT_KEYS, KEY_TTL, AlreadyDone, Done, Once
from bgproxy.store.pinning import PinStore
from bgproxy.store.redis_border import Border
from bgproxy.store.redis_client import connect, run_and_wait
from bgproxy.store.redis_commit import commit_arguments, outcome_text, pointed, unclosed
from bgproxy.store.redis_line import heard
from bgproxy.store.redis_pins import RedisPins
from bgproxy.store.redis_state import StateReader
from bgproxy.store.topics import TOPIC_TTL

log = logging.getLogger(__name__)

WAITS: Final = frozenset({"flip", "rollback", "stage", "restore"})
"""What is answered once `min_replicas` have it. What goes before a flip does not wait: clients are held meanwhile."""

_ENTRY_ID = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")


class RedisStore:
    """One fleet's state in Redis. Connects when first used, and anew whenever a connection has broken."""

    kind = "redis"
    shared = True

    def __init__(self, options: StoreOptions) -> None:
        """Raises `ConfigError` for a URL that cannot be used."""
        self._options = options
        self._address = redacted(options.url)
        prefix = f"bgproxy:{{{options.fleet}}}:"
        self._state_key = prefix + "state"
        self._audit_key = prefix + "audit"
        self._nodes_key, self._dead_key = prefix + "nodes", prefix + "dead:"
        self._counts_key = prefix + "n"
        self._flips_key = prefix + "flips"
        self._once_key = prefix + "once"
        self._held_key, self._roll_key = prefix + "held", prefix + "roll"
        self._bell, self._topic_key = prefix + "bell", prefix + "topic:"
        address = store_address(options.url)
        self._lines: set[PubSub] = set()
        self._reader = StateReader(self._where(self._state_key))
        self._client, self._primary = connect(address, options, self._state_key)
        self._border = Border(self._address, address, options.command_timeout, self._primary)
        if self._primary is not None:
            self._primary.moved = self._break_lines
        self._commit_script = self._client.register_script(_ONCE + _TOLD + _script("commit.lua"))
        self._once_script = self._client.register_script(_ONCE + _script("once_keep.lua"))
        self._hold_script = self._client.register_script(_POINTED + _script("hold.lua"))
        self._tally_script = self._client.register_script(_script("tally.lua"))
        self._beat_script = self._client.register_script(_script("beat.lua"))
        self._tell_script = self._client.register_script(_script("tell.lua"))
        self._leave_script = self._client.register_script(_script("leave.lua"))
        self._pins = RedisPins(self._client, self._border, self._hear, prefix)
        self.pins: PinStore = self._pins

    def __repr__(self) -> str:
        return f"<RedisStore {self._address} fleet {self._options.fleet}>"

    async def open(self) -> None:
        """See `Store.open`."""
        async with self._border(self._options.connect_timeout):
            await cast("Any", self._client.ping())
            if self._options.min_replicas:
                await self._client.wait(0, 1)  # whether this user may is to be known before the first flip
        await self.read()

    async def close(self) -> None:
        """See `Store.close`."""
        with contextlib.suppress(redis_errors.RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self._options.command_timeout):
                await self._client.aclose(close_connection_pool=True)
        if self._primary is not None:
            await self._primary.close()

    def routes_by(self, epoch: int) -> None:
        """See `Store.routes_by`."""
        self._pins.least_epoch = epoch

    async def read(self) -> FleetState | None:
        """See `Store.read`."""
        async with self._border(key=f"key {self._state_key}"):
            fields = await cast("Any", self._client.hgetall(self._state_key))
        return self._reader.state(fields)

    async def incarnation(self) -> str:
        """See `Store.incarnation`: the server's process, and the history that it has or takes over from a primary."""
        async with self._border():
            with contextlib.suppress(redis_errors.ResponseError):  # a user who may not, a service that hides it
                process = (await self._client.info("server")).get("run_id")
                history = (await self._client.info("replication")).get("master_replid")
                return f"{process} {history}" if process and history else ""
        return ""

    async def commit(
        self, change: Change, *, create: bool = False, once: Once | None = None, held: Held | None = None
    ) -> tuple[FleetState, AuditEntry]:
        """See `Store.commit`."""
        arguments = commit_arguments(
            change,
            create=create,
            once=once,
            held=held,
            bell=self._bell,
            keep=self._options.audit_keep,
            roll_call=self._options.roll_call,
        )
        keys = [self._state_key, self._audit_key, self._counts_key, self._flips_key, self._once_key]
        keys += [self._nodes_key, self._held_key, self._roll_key]
        answer, replicas = await self._committed(keys, arguments, change.verb)
        verdict, *rest = answer
        if verdict == b"newer":
            check_schema(int(rest[0]), self._where(self._state_key))
        if verdict == b"known":
            raise AlreadyDone(self._done(rest))
        if verdict == b"waiting":
            raise Waiting([node.decode() for node in rest])
        if verdict != b"done":
            raise Conflict(self._reader.state(dict(zip(rest[::2], rest[1::2], strict=True))))
        now = float(rest[0])
        link = Head(int(rest[2]), rest[4].decode())
        return change.stamped(now), entry_of(change, rest[1].decode(), now, link, rest[3].decode(), replicas)

    async def _committed(
        self, keys: list[str], arguments: list[str | bytes | int], verb: str
    ) -> tuple[Any, Replicas | None]:
        """What the script answers, and how many replicas have it by then, where these are to be waited for."""
        unknown, wanted = "whether the change was made is not known", self._options.min_replicas
        if not wanted or verb not in WAITS:
            async with self._border(doing=unknown):
                return await cast("Any", self._commit_script(keys=keys, args=arguments)), None
        timeout = self._options.replica_timeout
        async with self._border(self._options.command_timeout + timeout, unknown):
            answer, have = await run_and_wait(self._client, self._commit_script, keys, arguments, wanted, timeout)
        if have < wanted and answer[0] == b"done":
            text = "store: after %g s %d of %d replicas have the %s: a failover now may lose it"
            log.warning(text, timeout, have, wanted, verb)
        return answer, Replicas(have, wanted)

    async def hold(self, node_id: str, revision: int) -> int:
        """See `Store.hold`."""
        return (await self._held(node_id, revision))[0]

    async def hold_and_read(self, node_id: str, revision: int, pointer: Pointer) -> tuple[FleetState | None, int]:
        """See `Store.hold_and_read`."""
        registered, fields = await self._held(node_id, revision, pointed(pointer))
        return self._reader.state(dict(zip(fields[::2], fields[1::2], strict=True))), registered

    async def _held(self, node_id: str, revision: int, where: str = "") -> tuple[int, list[bytes]]:
        keys = [self._held_key, self._nodes_key, self._state_key]
        async with self._border(key=f"key {self._state_key}"):
            script = cast("Any", self._hold_script)
            registered, fields = await script(keys=keys, args=[node_id, str(revision), self._bell, where])
        return int(registered), fields

    async def asleep(self, held: Held) -> list[str]:
        """See `Store.asleep`."""
        async with self._border():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hkeys(self._nodes_key)
            pipeline.hgetall(self._held_key)
            nodes, revisions = await pipeline.execute()
        late = {node.decode() for node in nodes if int(revisions.get(node, 0)) < held.revision}
        return sorted(late - held.without)

    async def recall(self, key: str) -> Done | None:
        """See `Store.recall`."""
        async with self._border():
            answer = await cast("Any", self._once_script(keys=[self._once_key], args=[key, "", ""]))
        return self._done(answer) if answer else None

    async def keep(self, key: str, done: Done) -> Done:
        """See `Store.keep`."""
        async with self._border():
            arguments: list[str | bytes] = [key, outcome_text(done), done.body]
            answer = await cast("Any", self._once_script(keys=[self._once_key], args=arguments))
        return self._done(answer)

    async def audit(self, *, limit: int, before: str | None = None) -> list[AuditEntry]:
        """See `Store.audit`."""
        if before is not None:
            _check_id(before, "before")
        if limit < 1:
            return []
        newest = "+" if before is None else f"({before}"
        async with self._border():
            entries = await cast("Any", self._client.xrevrange(self._audit_key, max=newest, count=limit))
        where = self._where(self._audit_key)
        return [entry_from(stream_document(*entry), f"{where}, entry {entry[0].decode()}") for entry in entries or ()]

    async def trail(self, *, limit: int, after: str = OLDEST) -> list[dict[str, Any]]:
        """See `Store.trail`."""
        if after != OLDEST:
            _check_id(after, "after")
        async with self._border():
            entries = await cast("Any", self._client.xrange(self._audit_key, min=f"({after}", count=max(1, limit)))
        return [stream_document(*entry) for entry in entries or ()]

    async def head(self) -> Head | None:
        """See `Store.head`."""
        async with self._border():
            raw = await cast("Any", self._client.hget(self._state_key, "chain"))
        return None if raw is None else head_of(raw, self._where(self._state_key))

    async def watch(self) -> AsyncIterator[int]:
        """See `Store.watch`."""
        async with contextlib.aclosing(self._hear(self._bell)) as line:
            async for revision in line:
                if revision is None:
                    yield 0
                elif revision.isdigit():
                    yield (Holding if revision.startswith(b"0") else int)(revision[:18])

    async def flips(self, epochs: Sequence[int]) -> list[FlipRecord]:
        """See `Store.flips`."""
        if not epochs:
            return []
        names = [f"{epoch}{part}" for epoch in epochs for part in ("", *(f":{name}" for name in COUNTS))]
        async with self._border():
            values = await cast("Any", self._client.hmget(self._flips_key, names))
        where, step, found = self._where(self._flips_key), 1 + len(COUNTS), []
        for at, epoch in zip(range(0, len(values), step), epochs, strict=True):
            if values[at] is not None:
                counts = {name: int(count or 0) for name, count in zip(COUNTS, values[at + 1 : at + step], strict=True)}
                found.append(flip_from({**parsed(values[at], where), **counts, "epoch": epoch}, where))
        return found

    async def tally(self, epoch: int, *, lost: int = 0, turns_cut: int = 0) -> None:
        """See `Store.tally`."""
        async with self._border():
            await cast("Any", self._tally_script(keys=[self._flips_key], args=[epoch, lost, turns_cut]))

    async def now(self) -> float:
        """See `Store.now`."""
        async with self._border():
            seconds, micros = await cast("Any", self._client.time())
        return float(seconds + micros / 1e6)

    async def beat(self, node: NodeReport) -> bool:
        """See `Store.beat`."""
        arguments: list[str | bytes | float] = [node.id, unclosed(node_document(node)), self._options.node_ttl]
        async with self._border():
            keys = [self._nodes_key, self._dead_key + node.id]
            verdict, *rest = await cast(
                "Any", self._beat_script(keys=keys, args=[*arguments, node.schema, node.protocol])
            )
        if verdict == b"dead":
            raise has_died(node.id)
        if verdict == b"foreign":
            now, *foreign = rest
            raise cannot_join(self._options.fleet, node, self._reports(foreign, float(now)))
        return bool(verdict == b"known")

    async def nodes(self) -> list[NodeReport]:
        """See `Store.nodes`."""
        async with self._border():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hgetall(self._nodes_key)
            (seconds, micros), reports = await pipeline.execute()
        found = self._reports([text for report in reports.items() for text in report], seconds + micros / 1e6)
        return sorted(found, key=lambda node: node.id)

    async def leave(self, node_id: str, serial: int | None = None, *, dead: bool = False) -> bool:
        """See `Store.leave`."""
        keys = [self._nodes_key, self._held_key, self._dead_key + node_id]
        arguments: list[str | int] = [node_id, "" if serial is None else serial, DEAD_TTL if dead else ""]
        async with self._border():
            gone = await cast("Any", self._leave_script(keys=keys, args=arguments))
        return bool(gone)

    async def tell(self, topic: str, who: str, text: str) -> None:
        """See `Store.tell`."""
        async with self._border():
            await cast("Any", self._tell_script(keys=[self._topic_key + topic], args=[who, text, TOPIC_TTL]))

    async def told(self, topic: str) -> dict[str, str]:
        """See `Store.told`."""
        async with self._border():
            texts = await cast("Any", self._client.hgetall(self._topic_key + topic))
        return {who.decode(errors="replace"): text.decode(errors="replace") for who, text in texts.items()}

    def _reports(self, reports: Sequence[bytes], now: float) -> list[NodeReport]:
        """Of ids, each followed by its report."""
        ttl = self._options.node_ttl
        return [
            node_from(node_id.decode(errors="replace"), raw, now, ttl)
            for node_id, raw in zip(reports[::2], reports[1::2], strict=True)
        ]

    async def _hear(self, channel: str) -> AsyncGenerator[bytes | None, None]:
        """None once subscribed, then what is published on the channel; raises when the line breaks."""
        line = self._client.pubsub()
        self._lines.add(line)
        try:
            async with self._border(self._options.connect_timeout):
                await line.subscribe(channel)
                await heard(line)  # the confirmation: only now nothing is missed
            yield None
            while True:
                async with self._border(None):
                    message = await heard(line)
                if message["type"] == "message":
                    yield bytes(message["data"])
        finally:
            self._lines.discard(line)
            with contextlib.suppress(redis_errors.RedisError, OSError):
                await cast("Any", line).aclose()

    async def _break_lines(self) -> None:
        """What is heard where the primary was is not what it says: each listener subscribes anew."""
        for line in [*self._lines]:
            if (connection := cast("Any", line.connection)) is not None:
                await connection.disconnect(nowait=True)

    def _done(self, answer: Sequence[bytes]) -> Done:
        where = self._where(self._once_key)
        return done_from(parsed(answer[0], where), where, answer[1].decode(errors="replace"))

    def _where(self, key: str) -> str:
        return f"store {self._address}: key {key}"


def _check_id(entry_id: str, name: str) -> None:
    if not _ENTRY_ID.fullmatch(entry_id):
        raise BadInput(f"{name}: {entry_id[:64]!r} is no id of an audit entry")


def _script(name: str) -> str:
    return files("bgproxy.store").joinpath(name).read_text(encoding="utf-8")


_POINTED = _script("pointed.lua")
_TOLD = _script("sha256.lua") + _POINTED

# The library of the scripts that know idempotency keys.
_ONCE = f"local ONCE_TTL, ONCE_KEPT = {KEY_TTL:.0f}, {KEPT_KEYS}\n" + _script("once.lua")
