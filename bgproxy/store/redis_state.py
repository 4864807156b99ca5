"""The state hash, read into a state. It is compared with what was read before, and only what differs is parsed.

A node reads it once a second, and again at each bell, and most of it is what it was. Must not know where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from bgproxy.rules.fleet import FleetState
from bgproxy.store.base import RELEASE_FIELD
from bgproxy.store.document import check_schema, parsed, pause_from, pending_from, state_from, understood

_CHAIN: Final = b"chain"  # of the audit: no part of the state
_HOLDS: Final = frozenset((b"revision", b"pending", b"pause"))


class StateReader:
    """`where`: the key, as errors name it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._fields: dict[bytes, bytes] = {}
        self._state: FleetState | None = None

    def __repr__(self) -> str:
        return f"<StateReader of {self._where}>"

    def state(self, fields: Mapping[bytes, bytes]) -> FleetState | None:
        """The state of the hash's fields; None where there is no hash. Raises `StoreBroken` and its kinds."""
        if not fields:
            return None
        now = {name: value for name, value in fields.items() if name != _CHAIN}
        before = self._state
        changed = {name for name, _ in now.items() ^ self._fields.items()}
        if before is None or not changed <= _HOLDS:
            state = self._parsed(now)
        elif changed:
            state = self._held(before, now)
        else:
            return before
        self._fields, self._state = now, state
        return state

    def _held(self, before: FleetState, fields: Mapping[bytes, bytes]) -> FleetState:
        """Only what new admissions wait for has changed."""
        where = self._where
        with understood(where):
            pending = parsed(fields.get(b"pending", b"null"), f"{where}, field pending")
            pause = parsed(fields.get(b"pause", b"null"), f"{where}, field pause")
            revision = int(fields[b"revision"])
        return replace(before, revision=revision, pending=pending_from(pending, where), pause=pause_from(pause, where))

    def _parsed(self, fields: Mapping[bytes, bytes]) -> FleetState:
        where = self._where
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
                "pending": parsed(text.get("pending", b"null"), f"{where}, field pending"),
                "pause": parsed(text.get("pause", b"null"), f"{where}, field pause"),
            }
        return state_from(document, where)
