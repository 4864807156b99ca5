"""The client of a store's Redis, and how it follows the primary when that changes place.

Promises: no command is sent twice, unless the server has said that it did not carry it out (MOVED, ASK, TRYAGAIN,
READONLY), or sent where somebody was the primary once: each use of a connection looks whether it leads to the one that
is. A server at a fixed place is left to the client library. Must not know what the commands are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from bgproxy import tasks
from bgproxy.store.address import Address, Host
from bgproxy.store.base import StoreOptions
from bgproxy.store.redis_guides import ClusterNodes, Guide, Sentinels

log = logging.getLogger(__name__)

_CONNECTIONS = 16  # commands at once from one process; more wait for their turn
_CLASSES: Final = {"tcp": Connection, "tls": SSLConnection, "unix": UnixDomainSocketConnection}

_ASKING = 0.8  # of `command_timeout`: at most, for the way to the primary; what is left is for the command
_TRIES = 8  # sendings of a command that each server so far has refused
_PAUSE = 0.025  # seconds before one that should be tried again
_TRUST = 5.0
"""Seconds after which the sentinels are asked again, although all goes well and none has said anything: a primary that
was cut off from them and replaced takes what is written still, and loses it when it comes back."""


class Primary:
    """Where the primary is, as far as is known. `moved`: awaited when it turns out to be somewhere else."""

    def __init__(self, guide: Guide, trust: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.moved: Callable[[], Awaitable[None]] | None = None
        self._guide = guide
        self._trust = trust
        self._clock = clock
        self._known: Host | None = None
        self._last: Host | None = None
        self._asked_at = 0.0
        self._asking = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Primary {self._last}{'' if self._known else ' (in doubt)'}>"

    async def address(self) -> Host:
        """Where it is; asks where that is not known. Raises `NoPrimary`."""
        if self._known is None:
            async with self._asking:
                if self._known is None:
                    await self.settle(await self._guide.primary())
                    self._guide.follow(self.settle)
        elif self._trust is not None and self._clock() - self._asked_at > self._trust:
            self._asked_at = self._clock()
            self._checking = tasks.spawn(self._check(), "store.check")
        assert self._last is not None, "it was just found, or known before"
        return self._last

    def doubt(self) -> None:
        """It did not do as a primary does: ask before its next use."""
        self._known = None

    async def settle(self, address: Host) -> None:
        """It is there."""
        before, self._last, self._known, self._asked_at = self._last, address, address, self._clock()
        if before is not None and before != address:
            log.warning("store: the primary is %s:%d now, it was %s:%d", *address, *before)
            if self.moved is not None:
                await self.moved()

    async def close(self) -> None:
        """Ask nobody any more. Never raises."""
        await tasks.stop(self._checking)
        await self._guide.close()

    async def _check(self) -> None:
        try:
            address = await self._guide.primary()
        except redis_errors.ConnectionError:
            return  # the one that is known does its work
        await self.settle(address)


class _Following:
    """A connection to wherever the primary is."""

    host: str
    port: int
    is_connected: bool
    disconnect: Any

    def __init__(self, *, primary: Primary, **arguments: Any) -> None:
        self._primary = primary
        super().__init__(host="", port=0, **arguments)  # type: ignore[call-arg]

    async def connect(self) -> None:
        """Connect, or stay connected, to the primary; once more where it is found out to be elsewhere by now."""
        address = await self._primary.address()
        if self.is_connected:
            if address == (self.host, self.port):
                return
            await self.disconnect(nowait=True)
        self.host, self.port = address
        try:
            await super().connect()  # type: ignore[misc]
        except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError):
            self._primary.doubt()
            elsewhere = await self._primary.address()
            if elsewhere == address:
                self._primary.doubt()
                raise
            self.host, self.port = elsewhere
            await super().connect()  # type: ignore[misc]


class _FollowingConnection(_Following, Connection):
    pass


class _FollowingSSLConnection(_Following, SSLConnection):
    pass


class FollowingClient(Redis):
    """A client whose commands follow the primary."""

    primary: Primary
    plain: Callable[[Host], Redis]  # a client of one server, for a single question
    texts: dict[str, str]  # of the scripts, by their digests

    def register_script(self, script: Any) -> Any:
        """See `Redis.register_script`."""
        registered = cast("Any", super()).register_script(script)
        self.texts[registered.sha] = script
        return registered

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """See `Redis.pipeline`."""
        made = _FollowingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.primary = self.primary
        return made

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See `Redis.execute_command`."""
        send = cast("Any", super()).execute_command
        try:
            return await _followed(self.primary, lambda: send(*args, **options))
        except redis_errors.MovedError:
            raise
        except redis_errors.AskError as elsewhere:
            return await self._asked((elsewhere.host, elsewhere.port), args, options)

    async def _asked(self, host: Host, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Send it to where the slot is on its way to, as the server wishes for this one command."""
        client = cast("Any", self.plain(host))
        try:
            for _ in range(2):
                await client.execute_command("ASKING")
                try:
                    return await client.execute_command(*args, **options)
                except redis_errors.NoScriptError:
                    await client.script_load(self.texts[args[1]])
            return await client.execute_command(*args, **options)
        finally:
            await client.aclose()


class _FollowingPipeline(Pipeline):
    primary: Primary

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """See `Pipeline.execute`."""
        commands, send = [*self.command_stack], super().execute

        async def again() -> list[Any]:
            self.command_stack = [*commands]
            return await send(raise_on_error)

        return cast("list[Any]", await _followed(self.primary, again))


def connect(address: Address, options: StoreOptions, key: str) -> tuple[Redis, Primary | None]:
    """A client, which connects when it is first used, and whom it follows, if anybody. `key`: any of the fleet's."""
    common: dict[str, Any] = {
        "protocol": 3,
        "driver_info": None,  # no CLIENT SETINFO: a narrow ACL user may not
        "socket_timeout": None,  # each call is bounded as a whole, by its caller
        "socket_connect_timeout": options.connect_timeout,
        "retry": Retry(NoBackoff(), 0),  # a commit that is sent twice would lose against itself
        # With these notices on, a pooled connection that Redis has closed would not be found out before its use.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        **address.arguments,
    }
    # What waits for a connection is bounded from outside, with the command itself.
    size: dict[str, Any] = {"max_connections": _CONNECTIONS, "timeout": None}
    if address.kind == "server":
        pool = BlockingConnectionPool(connection_class=_CLASSES[address.transport], **size, **common)
        return Redis(connection_pool=pool), None
    asking = _ASKING * options.command_timeout
    if address.kind == "sentinel":
        primary = Primary(Sentinels(address, asking), _TRUST)
    else:
        primary = Primary(ClusterNodes(address, asking, key), None)  # its servers tell by themselves
    tls = address.transport == "tls"
    following = _FollowingSSLConnection if tls else _FollowingConnection
    client = FollowingClient(
        connection_pool=BlockingConnectionPool(connection_class=following, primary=primary, **size, **common)
    )
    client.primary, client.texts = primary, {}
    client.plain = lambda host: Redis(
        host=host[0], port=host[1], single_connection_client=True, ssl=tls, **{**common, "retry": Retry(NoBackoff(), 0)}
    )
    return client, primary


async def run_and_wait(
    client: Redis, script: Any, keys: Sequence[str], arguments: Sequence[Any], replicas: int, timeout: float
) -> tuple[Any, int]:
    """What a script answers, and how many replicas have what it wrote: `replicas` of them, or those that have it after
    `timeout` seconds. They are waited for only where it answers "done": with another answer clients may be held.

    Both go by one connection, as WAIT knows of what was written by its own only.
    """

    async def once() -> tuple[Any, int]:
        async with cast("Any", client).pipeline(transaction=False) as line:  # keeps its connection to the end
            answer = await line.immediate_execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            if answer[0] != b"done":
                return answer, 0
            return answer, int(await line.immediate_execute_command("WAIT", replicas, max(1, round(timeout * 1000))))

    for _ in range(2):
        try:
            if isinstance(client, FollowingClient):
                return cast("tuple[Any, int]", await _followed(client.primary, once))
            return await once()
        except redis_errors.AskError:  # its slot is on its way elsewhere: made there, and waited for by nobody
            return await script(keys=keys, args=arguments), 0
        except redis_errors.NoScriptError:  # the server has forgotten it, or is another one
            await cast("Any", client).script_load(script.script)
    raise redis_errors.NoScriptError("NOSCRIPT it forgets scripts as soon as they are loaded")


def is_read_only(error: BaseException) -> bool:
    """Whether a replica has refused to write. Older versions tell what goes wrong in a script within a longer text."""
    return isinstance(error, redis_errors.ReadOnlyError) or "-READONLY" in str(error)


async def _followed(primary: Primary, send: Callable[[], Awaitable[Any]]) -> Any:
    """Send, and again where the server says that somebody else is to be asked."""
    doubted = False
    for _ in range(_TRIES):
        try:
            return await send()
        except redis_errors.MovedError as elsewhere:
            host = elsewhere.host.strip("?") or (await primary.address())[0]
            await primary.settle((host, elsewhere.port))
        except redis_errors.TryAgainError:
            await asyncio.sleep(_PAUSE)
        except redis_errors.ResponseError as error:
            if doubted or not is_read_only(error):
                raise
            doubted = True
            primary.doubt()
    return await send()
