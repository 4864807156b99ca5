"""What was asked for under an idempotency key, and what came of it first: kept by the store for who asks again.

A record is written in the same atomic step as the change that it belongs to, so that there is never one without the
other. The answer that the caller got is put to it afterwards, before it goes out; where it is not there (the process
died between the two, or it is larger than `BODY_BYTES`) it is told anew from the record. Keys are kept as digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bgproxy.errors import BgproxyError
from bgproxy.rules.fleet import FleetState

KEY_TTL: Final = 86_400.0
"""Seconds, by the store's clock, for which a key is known: longer than any job goes on trying."""

KEPT_KEYS: Final = 1_000
"""Keys of one fleet, the newest: a thousand changes in a day are no operator's work."""

BODY_BYTES: Final = 8_192
"""Of an answer that is kept as it was."""


@dataclass(frozen=True, slots=True)
class Once:
    """One asking: the key's `name`, and a digest of what is asked.

    `digest`: the key's, where its name is not known. Not `is_kept`: with a change that only prepares what was asked,
    the key is looked for, and is free for the change that does it.
    """

    name: str
    request: str
    digest: str = ""
    is_kept: bool = True

    @property
    def key(self) -> str:
        """What the store knows the key by."""
        return self.digest or hashlib.sha256(self.name.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it first. `at`: unix seconds by the store's clock; `body`: the answer, empty where none is kept."""

    request: str
    changed: bool
    active: str
    previous: str | None
    epoch: int
    revision: int
    at: float = 0.0
    body: str = ""

    @classmethod
    def of(cls, request: str, state: FleetState, *, changed: bool, at: float = 0.0) -> Done:
        """The record of an outcome; `state`: after it."""
        pointer = state.pointer
        return cls(request, changed, pointer.active, pointer.previous, pointer.epoch, state.revision, at)

    def members(self) -> dict[str, object]:
        """What tells one outcome from another."""
        return {name: getattr(self, name) for name in ("request", "changed", "active", "previous", "epoch", "revision")}


class AlreadyDone(BgproxyError):
    """A commit under a key that the store knows: nothing was changed, `done` came of it first."""

    def __init__(self, done: Done) -> None:
        super().__init__("this was done before under the same idempotency key")
        self.done = done


class OnceTable:
    """The records of a store that is a single process, by the keys' digests, the oldest first."""

    def __init__(self, records: Mapping[str, Done] | None = None) -> None:
        self._records = dict(records or {})

    def __repr__(self) -> str:
        return f"<OnceTable {len(self._records)} keys>"

    def find(self, key: str, now: float) -> Done | None:
        """What is known under a key at `now`."""
        done = self._records.get(key)
        return done if done is not None and now < done.at + KEY_TTL else None

    def after(self, key: str, done: Done) -> OnceTable:
        """The table with one more record, and not more than are kept."""
        others = {other: one for other, one in self._records.items() if other != key}
        return OnceTable(dict([*others.items(), (key, done)][-KEPT_KEYS:]))

    def kept(self, key: str, done: Done) -> OnceTable:
        """See `Store.keep`; by the time that `done` carries."""
        standing = self.find(key, done.at)
        if standing is None:
            return self.after(key, done)
        if standing.members() != done.members() or standing.body or not done.body:
            return self
        return OnceTable({**self._records, key: replace(standing, body=done.body)})

    def newest(self, most: int) -> dict[str, Done]:
        """So many records at most."""
        return dict([*self._records.items()][-most:])
