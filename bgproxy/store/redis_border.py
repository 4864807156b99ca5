"""The border to the client library: what it raises gets our names, once, and no text of an error holds a password."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from redis import exceptions as redis_errors

from bgproxy.errors import NotRedis, StoreAuth, StoreBroken, StoreUnavailable
from bgproxy.store.address import Address
from bgproxy.store.redis_client import Primary, is_read_only
from bgproxy.store.redis_guides import NoPrimary
from bgproxy.store.redis_line import tls_fault


class Border:
    """`async with border():` around each call."""

    def __init__(self, shown: str, address: Address, command_timeout: float, primary: Primary | None) -> None:
        """`shown`: the address as texts name it."""
        self._shown = shown
        self._secrets = address.secrets
        self._without_tls = address.without_tls
        self._command_timeout = command_timeout
        self._primary = primary

    def __repr__(self) -> str:
        return f"<Border to {self._shown}>"

    @contextlib.asynccontextmanager
    async def __call__(
        self, timeout: float | None = -1.0, doing: str = "", key: str = "a key of this fleet"
    ) -> AsyncIterator[None]:
        """Bounds a call (seconds, None: no bound, default `command_timeout`) and names what goes wrong in it.

        What a primary that is the primary no more could have caused makes it be asked for before the next call.
        """
        bound = self._command_timeout if timeout == -1.0 else timeout
        try:
            async with asyncio.timeout(bound):
                yield
        except TimeoutError:
            self._doubt()
            within = f" within {bound:g} s" if bound else ""
            # A server without TLS takes the handshake for a command that has not ended, and waits for the rest.
            what = f"is no Redis, or speaks no TLS ({self._without_tls})" if self._without_tls else "or is no Redis"
            problem = StoreUnavailable(f"no answer{within}: it cannot be reached, is overloaded, {what}")
        except (redis_errors.RedisError, OSError) as error:
            if isinstance(error, redis_errors.ConnectionError | redis_errors.ClusterDownError | OSError):
                self._doubt()
            problem = self._named(error, key)
        else:
            return
        text = f"store {self._shown}: {problem.detail}" + (f"; {doing}" if doing else "")
        raise type(problem)(text) from None  # the chain could hold what was sent, the password included

    def _doubt(self) -> None:
        if self._primary is not None:
            self._primary.doubt()

    def _named(self, error: BaseException, key: str) -> StoreUnavailable:
        while isinstance(error.__cause__, redis_errors.RedisError):  # unix sockets wrap what happened in the greeting
            error = error.__cause__
        if isinstance(error, NoPrimary):
            return error.problem
        text = str(error)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if "WRONGTYPE" in text:
            return StoreBroken(f"{key} holds something else, which is left as it is: remove it, or name another fleet")
        if named := _of_kind(error, self._primary is not None) or _of_text(text, error):
            return named
        return StoreUnavailable(tls_fault(text, self._without_tls) or text)


def _of_kind(error: BaseException, is_following: bool) -> StoreUnavailable | None:
    """A name by the class of what was raised, where that says enough."""
    if isinstance(error, redis_errors.InvalidResponse):
        return NotRedis("what answers there does not speak Redis' protocol: check host and port")
    if is_read_only(error):
        why = "a failover may be under way" if is_following else "name the primary in the store URL"
        return StoreUnavailable(f"it is a read-only replica: {why}")
    if isinstance(error, redis_errors.TryAgainError):
        return StoreUnavailable("the fleet's slot is moving to another node of the cluster: try again in a moment")
    if isinstance(error, redis_errors.MovedError):
        return NotRedis("it is a node of a cluster: write redis+cluster:// in the store URL")
    return None


def _of_text(text: str, error: BaseException) -> StoreUnavailable | None:
    """A name by what the server said; `text` without passwords."""
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthenticationWrongNumberOfArgsError):
        return StoreAuth(f"the user or password is refused ({text}): correct the store URL")
    # What goes wrong inside a script is told within another text, and in its own words by each version.
    in_script = "user executing the script can't" in text or "ACL failure in script" in text
    if in_script or isinstance(error, redis_errors.NoPermissionError):
        return StoreAuth(f"the user may not do this ({text}): give it the rights listed in bgproxy/store/base.py")
    if "unknown command" in text.lower():  # such an answer repeats what was sent: it is not passed on
        return NotRedis("it does not know a command that Redis 6 and newer know: use Redis 6 or newer, or Valkey")
    return StoreUnavailable(type(error).__name__) if not text else None
