"""What an exchange leaves behind when it is over: its claims given back, its counts, its line in the access log."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Final

from bgproxy.http1.fields import values
from bgproxy.proxy.replies import REPLIES

if TYPE_CHECKING:
    from bgproxy.proxy.exchange import Exchange

# Answers of our own by which a client learns that the release did not serve it: its agents' failures, and these.
_UNSERVED: Final = ("no_upstream", "no_connection")


def note_refusal(exchange: Exchange, code: str) -> None:
    """The exchange ends with an answer of our own: is it the agent's fault?"""
    if REPLIES[code].fault != "agent" and code not in _UNSERVED:
        exchange.group.slot.own[exchange.status // 100] += 1


def note_broken(exchange: Exchange) -> None:
    """The agent has failed. Where no answer was begun, or an error, the status tells."""
    slot = exchange.group.slot
    slot.broken_agent += 1
    if exchange.answer is not None and exchange.status < 500:
        slot.broken_late += 1


def settle(exchange: Exchange, now: float) -> None:
    """Give the claims back and count what happened; `now` in monotonic seconds."""
    slot = exchange.group.slot
    slot.in_flight -= 1
    if exchange.upstream is not None:
        exchange.upstream.in_flight -= 1
    slot.classes[exchange.status // 100] += 1
    slot.latency.add(now - exchange.started)
    if exchange.first_byte:
        slot.ttfb.add(exchange.first_byte - exchange.started)
    slot.bytes_in += exchange.bytes_in
    slot.bytes_out += exchange.bytes_out
    if exchange.answer is not None and exchange.answer.is_stream:
        slot.streams -= 1
    if exchange.client.plane.access.enabled:
        _log_access(exchange, now)


def _log_access(exchange: Exchange, now: float) -> None:
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
