"""The store that many nodes share: Redis 6 or newer, or Valkey, over RESP3.

Keeps the promises of `store/base.py`, whose keyspace it is. All writing of state is one script (`commit.lua`). What the
client library raises is mapped here, once, and no text of an error ever holds the password.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, cast

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from bgproxy.errors import BadInput, NotRedis, StoreAuth, StoreBroken, StoreUnavailable
from bgproxy.rules.chain import Head
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.store.address import connection_arguments
from bgproxy.store.base import OLDEST, RELEASE_FIELD, AuditEntry, Conflict, NodeReport, StoreOptions, redacted
from bgproxy.store.document import (
    check_schema,
    done_from,
    entry_from,
    entry_of,
    flip_from,
    head_of,
    parsed,
    state_from,
    stream_document,
    understood,
)
from bgproxy.store.flips import COUNTS, FlipRecord
from bgproxy.store.node_record import cannot_join, node_document, node_from
from bgproxy.store.once import KEPT_KEYS, KEY_TTL, AlreadyDone, Done, Once
from bgproxy.store.pinning import PinStore
from bgproxy.store.redis_commit import commit_arguments, outcome_text, unclosed
from bgproxy.store.redis_pins import RedisPins

_CONNECTIONS = 16  # commands at once from one process; more wait for their turn
_ENTRY_ID = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")
_CONNECTION_CLASSES = {"tcp": Connection, "tls": SSLConnection, "unix": UnixDomainSocketConnection}


class RedisStore:
    """One fleet's state in Redis. Connects when first used, and anew whenever a connection has broken."""

    kind = "redis"
    shared = True

    def __init__(self, options: StoreOptions) -> None:
        """Raises `ConfigError` for a URL that cannot be used."""
        transport, arguments = connection_arguments(options.url)
        self._options = options
        self._address = redacted(options.url)
        self._password = str(arguments.get("password") or "")
        prefix = f"bgproxy:{{{options.fleet}}}:"
        self._state_key = prefix + "state"
        self._audit_key = prefix + "audit"
        self._nodes_key = prefix + "nodes"
        self._counts_key = prefix + "n"
        self._flips_key = prefix + "flips"
        self._once_key = prefix + "once"
        self._bell = prefix + "bell"
        self._pool = BlockingConnectionPool(
            connection_class=_CONNECTION_CLASSES[transport],
            max_connections=_CONNECTIONS,
            timeout=None,  # what waits for a connection is bounded from outside, with the command itself
            protocol=3,
            driver_info=None,  # no CLIENT SETINFO: a narrow ACL user may not
            socket_timeout=None,  # each call is bounded as a whole, see _border
            socket_connect_timeout=options.connect_timeout,
            retry=Retry(NoBackoff(), 0),  # a commit that is sent twice would lose against itself
            # With these notices on, a pooled connection that Redis has closed would not be found out before its use.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            **arguments,
        )
        self._client = Redis(connection_pool=self._pool)
        self._commit_script = self._client.register_script(_ONCE + _script("sha256.lua") + _script("commit.lua"))
        self._once_script = self._client.register_script(_ONCE + _script("once_keep.lua"))
        self._tally_script = self._client.register_script(_script("tally.lua"))
        self._beat_script = self._client.register_script(_script("beat.lua"))
        self._leave_script = self._client.register_script(_script("leave.lua"))
        self.pins: PinStore = RedisPins(self._client, self._border, self._hear, prefix, options.node_ttl)

    def __repr__(self) -> str:
        return f"<RedisStore {self._address} fleet {self._options.fleet}>"

    async def open(self) -> None:
        """See `Store.open`."""
        async with self._border(self._options.connect_timeout):
            await cast("Any", self._client.ping())
        await self.read()

    async def close(self) -> None:
        """See `Store.close`."""
        with contextlib.suppress(redis_errors.RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self._options.command_timeout):
                await self._pool.aclose()

    async def read(self) -> FleetState | None:
        """See `Store.read`."""
        async with self._border():
            fields = await cast("Any", self._client.hgetall(self._state_key))
        return self._state(fields)

    async def commit(
        self, change: Change, *, create: bool = False, once: Once | None = None
    ) -> tuple[FleetState, AuditEntry]:
        """See `Store.commit`."""
        arguments = commit_arguments(change, create=create, once=once, bell=self._bell, keep=self._options.audit_keep)
        async with self._border(doing="whether the change was made is not known"):
            keys = [self._state_key, self._audit_key, self._counts_key, self._flips_key, self._once_key]
            answer = await cast("Any", self._commit_script(keys=keys, args=arguments))
        verdict, *rest = answer
        if verdict == b"newer":
            check_schema(int(rest[0]), self._where(self._state_key))
        if verdict == b"known":
            raise AlreadyDone(self._done(rest))
        if verdict != b"done":
            raise Conflict(self._state(dict(zip(rest[::2], rest[1::2], strict=True))))
        now = float(rest[0])
        link = Head(int(rest[2]), rest[4].decode())
        return change.stamped(now), entry_of(change, rest[1].decode(), now, link, rest[3].decode())

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
                    yield int(revision[:18])

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
            verdict, *rest = await cast(
                "Any", self._beat_script(keys=[self._nodes_key], args=[*arguments, node.schema, node.protocol])
            )
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

    async def leave(self, node_id: str, serial: int | None = None) -> bool:
        """See `Store.leave`."""
        arguments: list[str | int] = [node_id, "" if serial is None else serial]
        async with self._border():
            gone = await cast("Any", self._leave_script(keys=[self._nodes_key], args=arguments))
        return bool(gone)

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
        try:
            async with self._border(self._options.connect_timeout):
                await line.subscribe(channel)
                await line.get_message(timeout=None)  # the confirmation: only now nothing is missed
            yield None
            while True:
                async with self._border(None):
                    message = await line.get_message(timeout=None)
                if message and message["type"] == "message":
                    yield bytes(message["data"])
        finally:
            with contextlib.suppress(redis_errors.RedisError, OSError):
                await cast("Any", line).aclose()

    def _state(self, fields: Mapping[bytes, bytes]) -> FleetState | None:
        """The state of the hash's fields; None where there is no hash."""
        if not fields:
            return None
        where = self._where(self._state_key)
        with understood(where):
            text = {name.decode(): value for name, value in fields.items()}
            check_schema(int(text["schema"]), where)
            document = {
                "schema": int(text["schema"]),
                "revision": int(text["revision"]),
                "colors": parsed(text["colors"], f"{where}, field colors"),
                "pointer": parsed(text["pointer"], f"{where}, field pointer"),
                "releases": {
                    name.removeprefix(RELEASE_FIELD): parsed(value, f"{where}, field {name}")
                    for name, value in text.items()
                    if name.startswith(RELEASE_FIELD)
                },
                "orders": parsed(text.get("orders", b"[]"), f"{where}, field orders"),
                "run": parsed(text.get("run", b"null"), f"{where}, field run"),
            }
        return state_from(document, where)

    def _done(self, answer: Sequence[bytes]) -> Done:
        where = self._where(self._once_key)
        return done_from(parsed(answer[0], where), where, answer[1].decode(errors="replace"))

    def _where(self, key: str) -> str:
        return f"store {self._address}: key {key}"

    @contextlib.asynccontextmanager
    async def _border(self, timeout: float | None = -1.0, doing: str = "") -> AsyncIterator[None]:
        """Bounds a call (seconds, None: no bound, default `command_timeout`) and names what goes wrong in it."""
        bound = self._options.command_timeout if timeout == -1.0 else timeout
        try:
            async with asyncio.timeout(bound):
                yield
        except TimeoutError:
            within = f" within {bound:g} s" if bound else ""
            problem = StoreUnavailable(f"no answer{within}: it cannot be reached, is overloaded, or is no Redis")
        except (redis_errors.RedisError, OSError) as error:
            problem = self._named(error)
        else:
            return
        text = f"store {self._address}: {problem.detail}" + (f"; {doing}" if doing else "")
        raise type(problem)(text) from None  # the chain could hold what was sent, the password included

    def _named(self, error: BaseException) -> StoreUnavailable:
        """Our name for what the client library raised."""
        while isinstance(error.__cause__, redis_errors.RedisError):  # unix sockets wrap what happened in the greeting
            error = error.__cause__
        text = str(error)
        if self._password:
            text = text.replace(self._password, "***")
        if isinstance(error, redis_errors.InvalidResponse):
            return NotRedis("what answers there does not speak Redis' protocol: check host and port")
        if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthenticationWrongNumberOfArgsError):
            return StoreAuth(f"the user or password is refused ({text}): correct the store URL")
        # What goes wrong inside a script is told by older versions within a longer text, without its own code in front.
        if isinstance(error, redis_errors.NoPermissionError) or "user executing the script can't" in text:
            return StoreAuth(f"the user may not do this ({text}): give it the rights listed in bgproxy/store/base.py")
        if isinstance(error, redis_errors.ReadOnlyError) or "-READONLY" in text:
            return StoreUnavailable("it is a read-only replica: name the primary in the store URL")
        if "unknown command" in text.lower():  # such an answer repeats what was sent: it is not passed on
            return NotRedis("it does not know a command that Redis 6 and newer know: use Redis 6 or newer, or Valkey")
        if "WRONGTYPE" in text:
            return StoreBroken("a key of this fleet holds something else; remove it, or name another fleet")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return StoreUnavailable(
                "its certificate is not trusted: name its authority with ?ssl_ca_certs=/path/ca.pem"
            )
        if "Connection closed by server" in text or "reset by peer" in text:
            return StoreUnavailable(
                "it closed the connection; if that happens each time, it may expect TLS (rediss://)"
            )
        return StoreUnavailable(text or type(error).__name__)


def _check_id(entry_id: str, name: str) -> None:
    if not _ENTRY_ID.fullmatch(entry_id):
        raise BadInput(f"{name}: {entry_id[:64]!r} is no id of an audit entry")


def _script(name: str) -> str:
    return files("bgproxy.store").joinpath(name).read_text(encoding="utf-8")


# The library of the scripts that know idempotency keys.
_ONCE = f"local ONCE_TTL, ONCE_KEPT = {KEY_TTL:.0f}, {KEPT_KEYS}\n" + _script("once.lua")
