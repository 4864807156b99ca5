"""What became of the sessions of each flip: one record per epoch, counted by the store as it happens.

When the pointer moves, the live pins that are not on the release which becomes active are counted in the same atomic
step. From there on each of them is *kept*, unless it was

- *moved*: `migrate` or `move` took it to another release since, while that epoch stood; each counts once;
- *ended*: a deadline ended it. That is put to the flip by which traffic left its release (`Release.left`);
- *lost*: it was found on another release than this fleet had it on, and nobody had moved it.

A session that ended or idled out by itself was kept to its end. *turns_cut* are exchanges that bgproxy itself broke
off. Must not know pins, nor where the records are kept in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bgproxy.rules.fleet import Change

KEPT_FLIPS: Final = 1000
"""Epochs whose records are kept, the newest."""

COUNTS: Final = ("moved", "ended", "lost", "turns_cut")


@dataclass(frozen=True, slots=True)
class FlipRecord:
    """What came of one flip or rollback. `counted`: the sessions that it left; `at`: unix seconds, store's clock."""

    epoch: int
    verb: str
    origin: str
    to: str
    at: float
    actor: str
    reason: str
    counted: int
    moved: int = 0
    ended: int = 0
    lost: int = 0
    turns_cut: int = 0

    @property
    def kept(self) -> int:
        """Sessions that were neither moved, ended nor lost."""
        return max(0, self.counted - self.moved - self.ended - self.lost)

    def document(self) -> dict[str, Any]:
        """As it is told: in the API, and as evidence on the audit record."""
        facts = {"epoch": self.epoch, "verb": self.verb, "from": self.origin, "to": self.to, "at": self.at}
        told = {**facts, "actor": self.actor, "reason": self.reason, "kept": self.kept}
        return {**told, **{name: getattr(self, name) for name in COUNTS}}


def record_of(change: Change, at: float, counted: int) -> FlipRecord | None:
    """The record that a change begins; None for one by which traffic leaves no color."""
    pointer = change.state.pointer
    origin = change.left or pointer.previous
    if not change.moved or origin is None:
        return None
    verb = "canary" if change.left else change.verb
    return FlipRecord(pointer.epoch, verb, origin, pointer.active, at, change.actor, change.reason, counted)


class FlipTable:
    """The records of a store that is a single process."""

    def __init__(self, records: Iterable[FlipRecord] = ()) -> None:
        self._records = {record.epoch: record for record in records}

    def __repr__(self) -> str:
        return f"<FlipTable {len(self._records)} records>"

    def find(self, epochs: Sequence[int]) -> list[FlipRecord]:
        """See `Store.flips`."""
        return [self._records[epoch] for epoch in epochs if epoch in self._records]

    def add(self, epoch: int, **counts: int) -> None:
        """Count towards a flip; one that is not known, or not any more, is left alone."""
        if (record := self._records.get(epoch)) is not None:
            counted: dict[str, Any] = {name: getattr(record, name) + count for name, count in counts.items()}
            self._records[epoch] = replace(record, **counted)

    def after(self, change: Change, record: FlipRecord | None) -> FlipTable:
        """The table as it is once this change, with the record that it begins, is made."""
        newest = change.state.pointer.epoch
        if change.moved and record is None:
            return FlipTable()  # a fleet begins: what another one has left is none of its own
        table = FlipTable(one for one in self._records.values() if one.epoch > newest - KEPT_FLIPS)
        if record is not None:
            table._records[record.epoch] = record
        epoch, sessions = change.ended
        table.add(epoch, ended=sessions)
        return table

    def newest(self, most: int) -> list[FlipRecord]:
        """So many records at most, the oldest of them first."""
        return [self._records[epoch] for epoch in sorted(self._records)[-most:]]
