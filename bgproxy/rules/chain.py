"""The audit's hash chain: what an entry's hash is made of, and whether a row of entries is what was once written.

An entry carries its number (`seq`, from 1), the hash of the one before (`prev`) and its own (`hash`), SHA-256 in hex:

    content = SHA-256 of the JSON of all members but id, at, seq, prev and hash: members sorted by name at every depth,
              no white space, everything beyond ASCII as \\uXXXX, numbers as Python's json writes them
    hash    = SHA-256 of five lines, parted by a line feed: "bgproxy.audit.1", seq, at (unix seconds, six digits
              behind the point), prev, content

Only the second one needs the store's time and the hash before: it is short, so the store makes it in the step that
writes the entry. `id` is the store's own, and no part of it: `seq` says where an entry stands. `prev` of entry 1 is 64
zeros. Whoever can write all of the store can write another chain: a hash that was kept elsewhere tells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

GENESIS: Final = "0" * 64
FORM: Final = "bgproxy.audit.1"

_LINKS = ("seq", "prev", "hash")
_OUTSIDE = frozenset({"id", "at", *_LINKS})  # of the content

Kind = Literal["edited", "missing", "out_of_order", "inserted"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends, kept with the state: the last entry's number and hash. `first`: the oldest that is kept."""

    seq: int
    hash: str
    first: int = 1

    def after(self, at: float, of_content: str) -> Head:
        """The head once an entry with this time and content is written."""
        return Head(self.seq + 1, link(self.seq + 1, at, self.hash, of_content), self.first)


EMPTY: Final = Head(0, GENESIS)
"""Of a chain that has no entry yet."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first entry, the oldest of them, that is not what was written. `id` is empty for one that is not there."""

    kind: Kind
    seq: int | None
    id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `entries` stand in the chain, from number `first` to `last`, whose hash is `head`.

    `anchor`: the hash of the entry before `first`, which retention has taken away; empty where none has gone.
    `before`: entries from before the chain, which carry no hash.
    """

    entries: int
    first: int | None
    last: int | None
    head: str
    anchor: str
    before: int
    fault: Fault | None


def content(members: Mapping[str, Any]) -> str:
    """The hash of an entry's content. Raises ValueError or TypeError for what no JSON can say."""
    told = {name: value for name, value in members.items() if name not in _OUTSIDE}
    return _digest(json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False))


def link(seq: int, at: float, prev: str, of_content: str) -> str:
    """The hash of the entry with this number, time, predecessor and content."""
    return _digest(f"{FORM}\n{seq}\n{at:.6f}\n{prev}\n{of_content}")


def hash_of(entry: Mapping[str, Any]) -> str:
    """The hash that an entry with these members should carry; empty where its members cannot be an entry's."""
    seq, at, prev = entry.get("seq"), entry.get("at"), entry.get("prev")
    if not isinstance(seq, int) or not isinstance(at, int | float) or not isinstance(prev, str):
        return ""
    try:
        return link(seq, float(at), prev, content(entry))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return ""


class Walk:
    """Takes entries one by one, the oldest first, and tells whether each follows the one before."""

    def __init__(self, head: Head | None = None, kept: str = "") -> None:
        """`head`: as the state has it, read after the first entries were. `kept`: a hash that must be met, or empty."""
        self._expected = head
        self._kept = kept
        self._missed = bool(kept)  # it was not met yet
        self._fault: Fault | None = None
        self._entries = self._before = self._last = 0
        self._first: int | None = None
        self._lowest = 0
        self._last_id = self._tip = self._anchor = ""

    def take(self, entry: Mapping[str, Any]) -> None:
        """The next entry, as it is exported."""
        seq, name = entry.get("seq"), str(entry.get("id", ""))
        if all(entry.get(part) is None for part in _LINKS):
            self._unchained(name)
            return
        self._entries += 1
        if not (own := hash_of(entry)) or entry.get("hash") != own:
            self._found(
                "edited", seq if isinstance(seq, int) else None, name, "is not what was written: its hash differs"
            )
            own = str(entry.get("hash"))
        number = seq if isinstance(seq, int) else self._last + 1
        if self._first is None:
            self._begin(number, str(entry.get("prev")), name)
        else:
            self._follow(number, str(entry.get("prev")), name)
        self._check_head(number, own, name)
        if self._kept in (own, entry.get("prev")):
            self._missed = False
        if number > self._last:
            self._last, self._last_id, self._tip = number, name, own

    def report(self, head: Head | None = None) -> Report:
        """What was found. `head`: as the state has it now, read after the last entry was; none for an export."""
        fault = self._fault
        if self._expected is not None:
            fault = self._at_the_ends(self._expected, head or self._expected)
        if self._missed and fault is None:
            why = "with the hash that was kept is not there: another record is, or retention took it away"
            fault = _fault("missing", None, "", why)
        anchor = self._anchor if self._anchor != GENESIS else ""
        return Report(self._entries, self._first, self._last or None, self._tip, anchor, self._before, fault)

    def _unchained(self, name: str) -> None:
        if self._first is None:
            self._before += 1
        else:
            self._found("inserted", None, name, "carries no hash, but stands behind entries that do")

    def _begin(self, seq: int, prev: str, name: str) -> None:
        self._first = self._lowest = seq
        self._anchor = prev
        if (seq == 1) != (prev == GENESIS):
            self._found("edited", seq, name, "does not begin a chain as the first entry does")

    def _follow(self, seq: int, prev: str, name: str) -> None:
        due = self._last + 1
        self._lowest = min(self._lowest, seq)
        if seq > due:
            self._found("missing", due, "", f"is missing: {self._last} is followed by {seq}")
        elif seq < due:
            if self._fault is not None and (self._fault.kind, self._fault.seq) == ("missing", seq):
                self._fault = None  # it is not missing after all, it stands in the wrong place
            self._found("out_of_order", seq, name, f"stands behind {self._last}")
        elif prev != self._tip:
            self._found("edited", self._last, self._last_id, f"is not the one that {seq} was written behind")

    def _check_head(self, seq: int, own: str, name: str) -> None:
        if self._expected is not None and seq == self._expected.seq and own != self._expected.hash:
            self._found("edited", seq, name, "is not the one that the fleet's state ends with")

    def _at_the_ends(self, head: Head, now: Head) -> Fault | None:
        """What retention did not take away, and what was never written through the state, are faults too."""
        if head.seq and (self._first is None or self._lowest > head.first):
            until = self._lowest - 1 if self._first is not None else head.seq
            return _fault("missing", head.first, "", f"is missing, up to {until}: retention did not take it away")
        if self._fault is None and self._last < head.seq:
            return _fault("missing", self._last + 1, "", f"is missing: the newest entry is {head.seq}")
        if self._fault is None and self._last > now.seq:
            return _fault(
                "inserted", self._last, self._last_id, f"was not written by a change: the newest is {now.seq}"
            )
        return self._fault

    def _found(self, kind: Kind, seq: int | None, name: str, why: str) -> None:
        if self._fault is None:
            self._fault = _fault(kind, seq, name, why)


def _fault(kind: Kind, seq: int | None, name: str, why: str) -> Fault:
    which = f"entry {seq}" if seq is not None else "the entry"
    return Fault(kind, seq, name, f"{which}{f' ({name})' if name else ''} {why}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
