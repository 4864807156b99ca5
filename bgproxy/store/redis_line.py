"""What is heard on a subscription, and that it has broken. Must not know what is said there."""

from __future__ import annotations

from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub


async def heard(line: PubSub) -> dict[str, Any]:
    """The next message, whenever it comes. Raises `redis.exceptions.ConnectionError` once the line has broken.

    Where the kernel gives a connection up (ETIMEDOUT, half a minute after the way to the server was cut), the client
    library takes that for a time-out of the reading, of which there is none, and answers None: at once, and each time,
    so that whoever just asks again never lets go of the event loop.
    """
    message: dict[str, Any] | None = await line.get_message(timeout=None)
    if message is None:
        raise redis_errors.ConnectionError("the connection was given up: nothing came through for too long")
    return message
