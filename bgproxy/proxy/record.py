"""What an exchange leaves on record when it is over: its line in the access log. It formats nothing itself."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from bgproxy.http1.fields import values

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange


def log_access(exchange: Exchange, now: float) -> None:
    """One line of the access log; `now` in monotonic seconds."""
    request = exchange.request
    fields = request.fields
    group = exchange.group
    client = exchange.client
    client.plane.access.write(
        time(),
        (request.made_id or b"".join(values(fields, fields.lower(), b"x-request-id"))).decode(),
        request.method.decode(),
        request.target.decode("latin-1"),
        exchange.status,
        now - exchange.started,
        exchange.first_byte - exchange.started if exchange.first_byte else -1.0,
        exchange.bytes_in,
        exchange.bytes_out,
        client.peer,
        group.route,
        group.color,
        group.release,
        group.epoch,
        exchange.upstream.url if exchange.upstream is not None else "",
        exchange.retries,
        exchange.end,
    )
