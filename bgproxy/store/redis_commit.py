"""What `commit.lua` is told of a change: its arguments, in its order. Must not know the client library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from bgproxy.rules.canary import canary
from bgproxy.rules.fleet import Change
from bgproxy.rules.pointer import Pointer
from bgproxy.store.base import RELEASE_FIELD, SCHEMA, Held
from bgproxy.store.document import entry_content, hold_document, orders_document, pointer_document, release_document
from bgproxy.store.flips import KEPT_FLIPS, record_of
from bgproxy.store.once import Done, Once
from bgproxy.store.run_document import run_document


def commit_arguments(
    change: Change, *, create: bool, once: Once | None, held: Held | None, bell: str, keep: int, roll_call: float
) -> list[str | bytes | int]:
    """For a change on what it was decided on, or on nothing (`create`). `keep`: so many audit entries; `roll_call` in
    seconds."""
    state = change.state
    facts, content = entry_content(change)
    return [
        SCHEMA,
        "" if create else _standing(change),
        bell,
        keep,
        change.verb,
        change.actor,
        change.reason,
        facts,
        state.pointer.epoch,
        state.revision,
        _flip(change),
        KEPT_FLIPS,
        *change.ended,
        state.pointer.active,
        state.active.label if state.active is not None else "",
        content,
        once.key if once is not None else "",
        outcome_text(Done.of(once.request, state, changed=True)) if once is not None and once.is_kept else "",
        held.revision if held is not None else "",
        orjson.dumps({**held.fenced, **dict.fromkeys(held.without, True)}) if held is not None else "",
        round(roll_call * 1000) if change.whole else "",
        *_fields(change, everything=create or change.whole),
    ]


def _standing(change: Change) -> str:
    """What must stand, as `commit.lua` compares it."""
    if change.base is None:
        return str(change.state.revision - 1)
    return f"{change.base.revision} {pointed(change.base.pointer)}"


def pointed(pointer: Pointer) -> str:
    """What tells it from every other, as `pointed.lua` has it."""
    return f"{pointer.epoch} {pointer.active} {pointer.at:.6f}"


def outcome_text(done: Done) -> bytes:
    """As once.lua keeps it: a JSON object without its opening brace, before which it puts a number and its time."""
    return orjson.dumps(done.members())[1:]


def unclosed(document: Mapping[str, Any]) -> bytes:
    """A JSON object without its closing brace, to which a script adds the store's time."""
    return orjson.dumps(document)[:-1]


def _fields(change: Change, *, everything: bool) -> Iterable[str | bytes]:
    """Name, value and stamp (see `commit.lua`) of each field to write: what the change touched, or all of the state."""
    state = change.state
    yield from ("colors", orjson.dumps(state.colors), "")
    yield from ("orders", orjson.dumps(orders_document(state.orders)), "")
    yield from ("run", orjson.dumps(run_document(state.run)), "")
    yield from ("pending", orjson.dumps(hold_document(state.pending)), "")
    yield from ("pause", orjson.dumps(hold_document(state.pause)), "")
    found = canary(state)  # read off the run: it is written for the scripts on pins alone
    yield from ("canary", orjson.dumps(found.document() if found is not None else None), "")
    documents = {"pointer": (pointer_document(state.pointer), change.moved)}
    for color, release in state.releases.items():
        documents[RELEASE_FIELD + color] = (release_document(release), color in change.touched)
    for name, (document, written) in documents.items():
        if written:
            del document["at"]
            seconds = change.deadlines.get(name.removeprefix(RELEASE_FIELD))
            if seconds is not None:
                del document["deadline"]
            yield from (name, unclosed(document), "stamp" if seconds is None else f"{seconds:.6f}")
        elif everything:
            yield from (name, orjson.dumps(document), "")


def _flip(change: Change) -> bytes:
    """The record that a change begins, as `commit.lua` takes it."""
    record = record_of(change, 0.0, 0)
    if record is None:
        return b"begin" if change.moved else b""
    return unclosed({name: getattr(record, name) for name in ("verb", "origin", "to", "actor", "reason")})
