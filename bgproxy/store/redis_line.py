"""What is heard on a subscription, that it has broken, and why one could not be made. Must not know what is said."""

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


def tls_fault(text: str, without_tls: str) -> str:
    """What an error's text says about TLS, with the remedy; empty where it says nothing of that. `without_tls`: how a
    URL begins that speaks none; empty where ours does."""
    if "CERTIFICATE_VERIFY_FAILED" in text and "mismatch" in text:
        return "its certificate is for another name: write that in the store URL, or add ?ssl_check_hostname=no"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted: name its authority with ?ssl_ca_certs=/path/ca.pem"
    if "ALERT_CERTIFICATE_REQUIRED" in text:
        return "it asks for a certificate of ours: name one with ?ssl_certfile=/path/our.crt&ssl_keyfile=/path/our.key"
    if "ALERT_UNKNOWN_CA" in text:
        return "it does not trust our certificate: name with ssl_certfile one that its authority has signed"
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:  # before OpenSSL 3.2, and since
        return f"what answers there speaks no TLS: write {without_tls}"
    # One that is closed in the middle of a handshake has no words of its own: "Error connecting to HOST:PORT."
    is_wordless = text.startswith("Error connecting to ") and text.endswith(".")
    if is_wordless or "Connection closed by server" in text or "reset by peer" in text:
        expected = f"speak no TLS ({without_tls})" if without_tls else "expect TLS (rediss://)"
        return f"it closed the connection; if that happens each time, it may {expected}"
    return ""
