"""What the file of an embedded store holds, as its text says it and as it is meant."""

from __future__ import annotations

from typing import NamedTuple

from bgproxy.errors import BadInput, StoreBroken
from bgproxy.rules.chain import Head
from bgproxy.rules.fleet import FleetState
from bgproxy.store.base import AuditEntry
from bgproxy.store.document import (
    entries_from,
    entry_number,
    flips_from,
    head_from,
    once_from,
    parsed,
    state_from,
)
from bgproxy.store.flips import FlipTable
from bgproxy.store.once import OnceTable


class Kept(NamedTuple):
    """All of it."""

    state: FleetState
    entries: list[AuditEntry]  # oldest first
    head: Head | None  # of the audit's chain
    flips: FlipTable
    once: OnceTable
    last_id: int  # of an audit entry; 0: there is none


def kept_from(raw: bytes, where: str) -> Kept:
    """Read the file's text; raises `StoreBroken` or `SchemaTooNew` naming `where`."""
    document = parsed(raw, where)
    state = state_from(document, where)
    entries = entries_from(document.get("audit", []), where)
    head = head_from(document["chain"], where) if "chain" in document else None
    flips = FlipTable(flips_from(document.get("flips", []), where))
    once = once_from(document.get("once", {}), where)
    try:
        last_id = entry_number(entries[-1].id) if entries else 0
    except BadInput:
        raise StoreBroken(f"{where} cannot be understood (audit id {entries[-1].id!r}); it is left as it is") from None
    return Kept(state, entries, head, flips, once, last_id)
