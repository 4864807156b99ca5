"""How one route knows its sessions: what to look for in a request, and what a key counts within.

Promises that what is remembered of requests is bounded. Must not know what becomes of a session: its turn does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from bgproxy.proxy.options import RouteSessions, SessionOptions
from bgproxy.sessions.keys import Key, credentials_hash, digest
from bgproxy.sessions.recognise import Recogniser
from bgproxy.sessions.sighting import Marks, Sighting

if TYPE_CHECKING:
    from bgproxy.http1.head import RequestHead

_REMEMBERED = 1_024  # requests, by the fields that name their sessions
_REMEMBERED_BYTES = 4_096  # of a head at most

_credentials = lru_cache(1024)(credentials_hash)


class SessionRules:
    """What one route does to know its sessions and to keep them."""

    def __init__(self, route: str, options: RouteSessions, common: SessionOptions) -> None:
        self.route = route
        self.options = options
        self.write_timeout = common.pin_write_timeout
        self.recogniser = Recogniser(options.presets, inspect_bytes=common.inspect_bytes)
        self.echoes = any(preset.ending == "jsonrpc" or preset.unknown for preset in options.presets)
        self._scope = route.encode() + b"\0"
        self._met: dict[tuple[object, ...], tuple[Sighting, tuple[bytes, ...]]] = {}

    @property
    def request_fields(self) -> frozenset[bytes]:
        """The fields of a request that must be told."""
        own = self.recogniser.request_fields
        return own | {b"authorization"} if self.options.bind_credentials else own

    @property
    def response_fields(self) -> frozenset[bytes]:
        """The fields of an answer that must be told."""
        return self.recogniser.response_fields

    def scope(self, marks: Marks | None) -> bytes:
        """What a key counts within: the route, and the credentials of who names it."""
        if marks is not None and self.options.bind_credentials:
            for name, value in marks:
                if name == b"authorization":
                    return self._scope + _credentials(value)
        return self._scope

    def digests(self, keys: Sequence[Key], marks: Marks | None) -> tuple[bytes, ...]:
        """What the store knows the keys by, in a request with these marks."""
        scope = self.scope(marks)
        return tuple([digest(key, scope) for key in keys])

    def met(self, request: RequestHead) -> tuple[Sighting, tuple[bytes, ...]] | None:
        """What a request says that has fields which may name its session, None for all others; and its keys' digests.

        A client repeats these fields with each of its requests, so where they alone tell, the same answer is given
        without looking again. Where they do not, there are no digests yet.
        """
        marks = request.marks
        if marks is None or request.upgrade:
            return None
        fields = self.recogniser.session_fields
        for name, _ in marks:
            if name in fields:
                break
        else:
            return None
        has_body = request.length != 0
        case = (request.method, request.target, has_body, *marks)
        met = self._met.get(case)
        if met is None:
            seen = self.recogniser.request(request.method, request.target, marks, has_body, b"")
            if not seen.keys or seen.body is not None or len(request.fields) > _REMEMBERED_BYTES:
                return seen, ()
            if len(self._met) >= _REMEMBERED:
                self._met.clear()
            met = self._met[case] = (seen, self.digests(seen.keys, marks))
        return met
