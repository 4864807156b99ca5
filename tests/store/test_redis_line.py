"""A subscription whose connection the kernel gives up is broken, not silent: ETIMEDOUT, as behind a pulled cable. And
what is told of TLS where a connection cannot be made."""

from __future__ import annotations

import asyncio
import errno
from contextlib import aclosing
from typing import Any, cast

import pytest
from redis.asyncio.client import PubSub

from bgproxy.errors import StoreUnavailable
from bgproxy.store import redis_guides
from bgproxy.store.redis import RedisStore
from bgproxy.store.redis_guides import Sentinels
from bgproxy.store.redis_line import tls_fault
from tests.redis_servers import RedisServer

GIVEN_UP = TimeoutError(errno.ETIMEDOUT, "Connection timed out")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks a broken line again and again, and never lets go of the loop, is stopped."""
    asked, get_message = [0], PubSub.get_message

    async def counted(self: PubSub, *args: Any, **more: Any) -> Any:
        asked[0] += 1
        assert asked[0] < 50, "a broken line is asked for ever"
        return await get_message(self, *args, **more)

    monkeypatch.setattr(PubSub, "get_message", counted)


@pytest.mark.redis
@pytest.mark.parametrize("of", ["fleet", "pins"])
async def test_whoever_listens_is_told_that_the_line_has_broken(
    of: str, opened: Any, redis_server: RedisServer
) -> None:
    store: RedisStore = await opened(redis_server.url)
    bells = cast("Any", store.watch() if of == "fleet" else store.pins.watch())
    async with aclosing(bells):
        assert not await anext(bells)  # it is subscribed
        [line] = store._lines
        cast("Any", line.connection)._reader.set_exception(GIVEN_UP)
        with pytest.raises(StoreUnavailable, match="given up"):
            await asyncio.wait_for(anext(bells), 5)


class Line:
    """A subscription to a sentinel that has broken."""

    asked = 0

    async def subscribe(self, _: str) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def get_message(self, *, timeout: float | None) -> None:
        assert timeout is None
        Line.asked += 1


async def test_who_listens_to_a_sentinel_subscribes_anew_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Line] = []
    pauses: list[float] = []

    class Client:
        def pubsub(self) -> Line:
            lines.append(Line())
            return lines[-1]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(redis_guides.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await Sentinels._listen(cast("Any", None), cast("Any", Client()), cast("Any", None))
    assert (len(lines), Line.asked) == (3, 3)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Error while reading from a:1 : (1, '[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert')", "ssl_certfile="),
        ("Error while reading from a:1 : (1, '[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert')", "its authority has signed"),
        ("Error 1 connecting to a:1. [SSL: RECORD_LAYER_FAILURE] record layer failure", "no TLS: write redis://"),
        ("Error 111 connecting to a:1. Connection refused.", ""),
    ],
)
def test_what_an_error_says_of_tls_is_told_with_the_remedy(text: str, why: str) -> None:
    told = tls_fault(text, "redis://")
    assert (why in told, bool(told)) == (True, bool(why))
