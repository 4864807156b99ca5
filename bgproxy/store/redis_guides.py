"""Who knows which server holds a fleet's data now: the sentinels, or the nodes of a cluster.

All keys of a fleet share one hash tag, so in a cluster too a single server, the *primary*, holds them all. Whoever is
asked may be cut off and know it no better, so all are asked at once and more than half of them are waited for. Must not
know what is done at the primary.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from bgproxy import tasks
from bgproxy.errors import NotRedis, StoreAuth, StoreUnavailable
from bgproxy.store.address import Address, Host
from bgproxy.store.redis_line import heard, tls_fault

_ASKED: Final = 8  # nodes of a cluster that are asked, those of the URL first
_PAUSE: Final = 1.0  # seconds before a sentinel that cannot be heard is listened to again


class NoPrimary(redis_errors.ConnectionError):
    """Nobody named a primary. `problem`: as it is told."""

    def __init__(self, problem: StoreUnavailable) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Guide(Protocol):
    """Where to ask."""

    async def primary(self) -> Host:
        """Where the primary is. Ends within the time that was given to the guide; raises `NoPrimary`."""

    def follow(self, told: Callable[[Host], Awaitable[None]]) -> None:
        """Tell from now on, in the background, where it is whenever that changes, as far as this can be heard."""

    async def close(self) -> None:
        """Let go of connections. Never raises."""


class Sentinels:
    """Those that watch over the store and make a replica its primary when that is lost, or when they are told to.

    Then the old one may live on, and take what is written, for ten seconds more: so they are listened to.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        """`timeout`: seconds that the answers may take."""
        self._service = address.service
        self._without_tls = "sentinel_ssl=no in the store URL" if address.sentinel.get("ssl") else ""
        self._timeout = timeout
        self._clients = [_client(host, address.sentinel, timeout) for host in address.hosts]
        self._latest = 0  # failover, by their count
        self._listening: list[asyncio.Task[None]] = []

    async def primary(self) -> Host:
        """See `Guide.primary`. Of several answers that of the latest failover counts."""
        asked = [cast("Awaitable[Any]", client.sentinel_master(self._service)) for client in self._clients]
        states, errors = await _answers(asked, self._timeout, lambda state: _failover(state) >= self._latest)
        if up := [state for state in states if _is_up(state)]:
            latest = max(up, key=_failover)
            self._latest = _failover(latest)
            return _place(latest)
        raise NoPrimary(self._problem(bool(states), errors))

    def follow(self, told: Callable[[Host], Awaitable[None]]) -> None:
        """See `Guide.follow`."""
        if not self._listening:
            self._listening = [tasks.spawn(self._listen(client, told), "store.listen") for client in self._clients]

    async def close(self) -> None:
        """See `Guide.close`."""
        await tasks.stop(*self._listening)
        await _close(self._clients)

    async def _listen(self, client: Redis, told: Callable[[Host], Awaitable[None]]) -> None:
        while True:
            line = client.pubsub()
            with contextlib.suppress(redis_errors.RedisError, OSError):
                await line.subscribe("+switch-master")
                while True:
                    message = await heard(line)
                    if message["type"] == "message" and message["data"].split(b" ")[0] == self._service.encode():
                        state = await cast("Awaitable[Any]", client.sentinel_master(self._service))
                        if _failover(state) > self._latest:
                            self._latest = _failover(state)
                            await told(_place(state))
            with contextlib.suppress(redis_errors.RedisError, OSError):
                await cast("Any", line).aclose()
            await asyncio.sleep(_PAUSE)

    def _problem(self, is_down: bool, errors: Sequence[BaseException]) -> StoreUnavailable:
        told = " ".join(map(str, errors))
        if is_down:
            return StoreUnavailable(f"its sentinels say that {self._service} is down; a failover may be under way")
        if "No such master" in told:
            return StoreUnavailable(
                f"its sentinels know no {self._service}: write the name that follows `sentinel monitor` in their files"
            )
        if "unknown command" in told:
            return NotRedis(
                "what answers there is no sentinel: name the sentinels' hosts, or write redis:// for a server"
            )
        where = "sentinel_username and sentinel_password in the store URL"
        return _unanswered(errors, "sentinel", where, self._without_tls)


def _failover(state: Mapping[str, Any]) -> int:
    return int(state["config-epoch"])


def _is_up(state: Mapping[str, Any]) -> bool:
    return bool(state["is_master"]) and not (state["is_sdown"] or state["is_odown"])


def _place(state: Mapping[str, Any]) -> Host:
    return str(state["ip"]), int(state["port"])


class ClusterNodes:
    """Those of a cluster: each knows who serves which slot. More than the URL names are asked once they are known."""

    def __init__(self, address: Address, timeout: float, key: str) -> None:
        """`timeout`: seconds that the answers may take; `key`: any of the fleet's."""
        self._timeout = timeout
        self._slot = key_slot(key.encode())
        tls = {"ssl": True} if address.transport == "tls" else {}
        self._arguments = {**address.arguments, **tls}
        self._without_tls = address.without_tls
        self._named = address.hosts
        self._clients: dict[Host, Redis] = {host: self._client(host) for host in address.hosts}

    async def primary(self) -> Host:
        """See `Guide.primary`. Where the answers differ, most of them count."""
        asked = [self._ask(host, client) for host, client in self._clients.items()]
        maps, errors = await _answers(asked, self._timeout)
        owners: Counter[Host] = Counter(owner for owner, _ in maps if owner is not None)
        if not owners:
            raise NoPrimary(self._problem(bool(maps), errors))
        await self._remember([host for _, hosts in maps for host in hosts])
        [(owner, _)] = owners.most_common(1)
        return owner

    def follow(self, told: Callable[[Host], Awaitable[None]]) -> None:
        """See `Guide.follow`: none of them says it unasked, but whoever serves the slot no more says who does."""

    async def close(self) -> None:
        """See `Guide.close`."""
        await _close([*self._clients.values()])

    def _client(self, host: Host) -> Redis:
        return _client(host, self._arguments, self._timeout)

    async def _ask(self, host: Host, client: Redis) -> tuple[Host | None, list[Host]]:
        """Who serves the fleet's slot by this node's map, and whom else it knows."""
        owner, others = None, []
        for first, last, *servers in await cast("Any", client).execute_command("CLUSTER SLOTS"):
            # A node that does not know its own name leaves it out: it is the one that was asked.
            found = [((server[0] or b"").decode().strip("?") or host[0], int(server[1])) for server in servers]
            others += found
            if int(first) <= self._slot <= int(last):
                owner = found[0]
        return owner, others

    async def _remember(self, hosts: Sequence[Host]) -> None:
        """Ask these too from now on: those that the URL names may be gone one day."""
        wanted = [*dict.fromkeys((*self._named, *hosts))][:_ASKED]
        gone = [self._clients.pop(host) for host in [*self._clients] if host not in wanted]
        self._clients |= {host: self._client(host) for host in wanted if host not in self._clients}
        await _close(gone)

    def _problem(self, is_uncovered: bool, errors: Sequence[BaseException]) -> StoreUnavailable:
        if is_uncovered:
            return StoreUnavailable(f"nobody in the cluster serves the fleet's slot {self._slot}: give it to a node")
        told = " ".join(map(str, errors))
        if "cluster support disabled" in told:
            return NotRedis("what answers there is no node of a cluster: write redis:// for a single server")
        return _unanswered(errors, "node of the cluster", "the store URL", self._without_tls)


def _client(host: Host, arguments: Any, timeout: float) -> Redis:
    # An answer is bounded as a whole by whoever asks; a line that is listened to has no end.
    limits: dict[str, Any] = {"socket_connect_timeout": timeout, "socket_timeout": None}
    # RESP2: what knows the way may be older than what holds the data. No CLIENT SETINFO: a narrow ACL user may not.
    return Redis(
        host=host[0], port=host[1], protocol=2, driver_info=None, retry=Retry(NoBackoff(), 0), **limits, **arguments
    )


async def _answers(
    asked: Sequence[Awaitable[Any]], timeout: float, is_good: Callable[[Any], bool] = lambda _: True
) -> tuple[list[Any], list[BaseException]]:
    """What they answered, and what went wrong with those that did not, once more than half have answered, one well."""
    pending = {tasks.spawn(_answer(one), "store.ask") for one in asked}
    answers: list[Any] = []
    errors: list[BaseException] = []
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while pending and not (2 * len(answers) > len(asked) and any(map(is_good, answers))):
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        answer, error = task.result()
                        answers += [] if answer is None else [answer]
                        errors += [] if error is None else [error]
    finally:
        await tasks.stop(*pending)
    return answers, errors


async def _answer(asked: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await asked, None
    except (redis_errors.RedisError, OSError) as error:
        return None, error


def _unanswered(errors: Sequence[BaseException], who: str, where: str, without_tls: str) -> StoreUnavailable:
    if any(isinstance(error, redis_errors.AuthenticationError) for error in errors):
        return StoreAuth(f"each {who} refuses the user or password: correct {where}")
    if denied := next((error for error in errors if isinstance(error, redis_errors.NoPermissionError)), None):
        return StoreAuth(f"a {who} says that the user may not do this ({denied})")
    no_answer = f"no {who} answers: it cannot be told where the store is"
    if fault := next(filter(None, (tls_fault(str(error), without_tls) for error in errors)), ""):
        return StoreUnavailable(f"{no_answer}; of one, {fault}")
    # Without TLS a server takes the handshake for a command that has not ended, and waits for the rest.
    return StoreUnavailable(f"{no_answer}; if they speak no TLS, write {without_tls}" if without_tls else no_answer)


async def _close(clients: Sequence[Redis]) -> None:
    for client in clients:
        with contextlib.suppress(redis_errors.RedisError, OSError, TimeoutError):
            await client.aclose()
