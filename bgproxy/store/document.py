"""The state as JSON and back: one spelling for Redis, the memory store's snapshot and a node's last known state.

Reading trusts nothing: what is missing or of the wrong kind is `StoreBroken`, naming where; a newer schema is
`SchemaTooNew`. Neither is ever taken for an empty store.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import orjson

from bgproxy.errors import BadInput, SchemaTooNew, StoreBroken
from bgproxy.rules.chain import Head, content
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.holds import Pause, Pending
from bgproxy.rules.pin import Order
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Phase, Release
from bgproxy.store.base import SCHEMA, AuditEntry, Replicas
from bgproxy.store.flips import COUNTS, FlipRecord
from bgproxy.store.leave_document import leave_from
from bgproxy.store.once import Done, OnceTable
from bgproxy.store.run_document import run_document, run_from

T = TypeVar("T")

_ENTRY_MEMBERS = ("id", "at", "verb", "actor", "reason", "epoch", "revision")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,17}")
_STAMP = re.compile(r"[0-9]{1,12}\.[0-9]{6}")

# What the store writes itself, its times, comes behind them.
_RELEASE_MEMBERS = tuple(field.name for field in fields(Release) if field.name not in ("deadline", "at"))


def pointer_document(pointer: Pointer) -> dict[str, Any]:
    """The pointer's members, `at` last."""
    return asdict(pointer)


def release_document(release: Release) -> dict[str, Any]:
    """The release's members, `deadline` and `at` last; `metadata` must be plain JSON values."""
    members = {name: getattr(release, name) for name in _RELEASE_MEMBERS}
    nested = {name: members[name] and asdict(members[name]) for name in ("relief", "retirement")}
    return {**members, **nested, "deadline": release.deadline, "at": release.at}


def orders_document(orders: Mapping[bytes, Order]) -> list[dict[str, Any]]:
    """The orders to move sessions, as `orders_from` reads them and the scripts on pins do."""
    return [{**asdict(order), "pin": order.pin.hex()} for order in orders.values()]


def hold_document(hold: Pending | Pause | None) -> dict[str, Any] | None:
    """What new admissions are held for, or None."""
    return None if hold is None else asdict(hold)


def state_document(state: FleetState) -> dict[str, Any]:
    """The whole state as one document, with its schema."""
    return {
        "schema": SCHEMA,
        "revision": state.revision,
        "colors": state.colors,
        "pointer": pointer_document(state.pointer),
        "releases": {color: release_document(release) for color, release in state.releases.items()},
        "orders": orders_document(state.orders),
        "run": run_document(state.run),
        "pending": hold_document(state.pending),
        "pause": hold_document(state.pause),
    }


def state_from(document: Any, where: str) -> FleetState:
    """The state of a document; `where` (a key, a file) is named by the error."""
    with understood(where):
        check_schema(document["schema"], where)
        releases = {_text(color): release_from(release, where) for color, release in document["releases"].items()}
        state = FleetState(
            revision=_of(int, document["revision"]),
            pointer=pointer_from(document["pointer"], where),
            releases=releases,
            colors=_texts(document["colors"]),
            run=run_from(document.get("run")),
            # Data from before there were orders, and holds, have none.
            orders=orders_from(document.get("orders", []), where),
            pending=pending_from(document.get("pending"), where),
            pause=pause_from(document.get("pause"), where),
        )
        if state.pointer.active not in state.colors or not set(releases) <= set(state.colors):
            raise ValueError(f"active {state.pointer.active!r} or a release stands on no color of {state.colors}")
        return state


def pointer_from(document: Any, where: str) -> Pointer:
    """The pointer of a document."""
    with understood(f"{where}, pointer"):
        previous = document["previous"]
        return Pointer(
            active=_text(document["active"]),
            previous=None if previous is None else _text(previous),
            epoch=_of(int, document["epoch"]),
            actor=_text(document["actor"]),
            reason=_text(document["reason"]),
            at=float(document["at"]),
        )


def orders_from(documents: Any, where: str) -> dict[bytes, Order]:
    """The orders of a list of documents, by the pins' ids."""
    with understood(f"{where}, orders"):
        orders = [
            Order(
                pin=bytes.fromhex(_text(document["pin"])),
                created=float(document["created"]),
                color=_text(document["color"]),
                release=_text(document["release"]),
                revision=_of(int, document["revision"]),
            )
            for document in _of(list, documents)
        ]
        return {order.pin: order for order in orders}


def pending_from(document: Any, where: str) -> Pending | None:
    """The flip of a document that was begun; None where there is none."""
    if document is None:
        return None
    with understood(f"{where}, pending"):
        return Pending(
            revision=_of(int, document["revision"]),
            verb=_text(document["verb"]),
            to=_text(document["to"]),
            epoch=_of(int, document["epoch"]),
            actor=_text(document["actor"]),
            reason=_text(document["reason"]),
            force=_flag(document["force"]),
            bake=_flag(document["bake"]),
            problem=_text(document["problem"]),
            exclude=_texts(document["exclude"]),
            hold_timeout=float(document["hold_timeout"]),
            key=_text(document["key"]),
            request=_text(document["request"]),
            node=_text(document.get("node", "")),
        )


def pause_from(document: Any, where: str) -> Pause | None:
    """The pause of a document; None where there is none."""
    if document is None:
        return None
    with understood(f"{where}, pause"):
        return Pause(
            revision=_of(int, document["revision"]),
            actor=_text(document["actor"]),
            reason=_text(document["reason"]),
            max_hold=float(document["max_hold"]),
        )


def release_from(document: Any, where: str) -> Release:
    """The release of a document."""
    with understood(f"{where}, release"):
        origin = document["origin"]
        if origin not in ("config", "api"):
            raise ValueError(f"origin {origin!r}")
        return Release(
            label=_text(document["label"]),
            upstreams=_texts(document["upstreams"]),
            routes={_text(route): _texts(upstreams) for route, upstreams in document["routes"].items()},
            metadata=_of(dict, document["metadata"]),
            phase=Phase(document["phase"]),
            origin=origin,
            at=float(document["at"]),
            # Data that an older bgproxy wrote have none of these.
            rolled_back=_of(int, document.get("rolled_back", 0)),
            left=_of(int, document.get("left", 0)),
            deadline=float(document.get("deadline", 0.0)),
            ended=_flag(document.get("ended", False)),
            ended_before=_texts(document.get("ended_before", [])),
            **leave_from(document),
        )


def entry_from(document: Any, where: str) -> AuditEntry:
    """The audit entry of a document."""
    with understood(f"{where}, audit"):
        return AuditEntry(
            id=_text(document["id"]),
            at=float(document["at"]),
            verb=_text(document["verb"]),
            actor=_text(document["actor"]),
            reason=_text(document["reason"]),
            epoch=int(document["epoch"]),
            revision=int(document["revision"]),
            facts=_of(dict, document["facts"]),
            # Those from before the chain have none of these.
            seq=_of(int, document.get("seq") or 0),
            prev=_text(document.get("prev") or ""),
            hash=_text(document.get("hash") or ""),
        )


def entry_document(entry: AuditEntry) -> dict[str, Any]:
    """The audit entry as it is told and exported; what one from before the chain lacks is None."""
    links = {"seq": entry.seq or None, "prev": entry.prev or None, "hash": entry.hash or None}
    return {**{name: getattr(entry, name) for name in _ENTRY_MEMBERS}, "facts": dict(entry.facts), **links}


def stream_document(entry_id: bytes, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The same of an entry in a stream, whatever stands there: what is not as it was written stays a text."""
    members: dict[str, Any] = {"id": entry_id.decode(), "seq": None, "prev": None, "hash": None}
    for name, value in fields.items():
        text = value.decode(errors="backslashreplace")
        members[name.decode(errors="backslashreplace")] = text
        if name in (b"epoch", b"revision", b"seq") and _WHOLE.fullmatch(text):
            members[name.decode()] = int(text)
        elif name == b"at" and _STAMP.fullmatch(text):
            members["at"] = float(text)
        elif name == b"facts":
            with contextlib.suppress(orjson.JSONDecodeError):
                members["facts"] = orjson.loads(value)
    return members


def head_from(document: Any, where: str) -> Head:
    """The chain's head of a document."""
    with understood(f"{where}, chain"):
        return Head(_of(int, document["seq"]), _text(document["hash"]), _of(int, document["first"]))


def head_of(raw: bytes, where: str) -> Head:
    """The chain's head as `commit.lua` writes it."""
    with understood(f"{where}, field chain"):
        last, first, digest = raw.decode().split(" ")
        return Head(int(last), digest, int(first))


def entry_content(change: Change) -> tuple[bytes, str]:
    """The facts of a change as JSON, and the hash of what its audit entry will say."""
    facts = orjson.dumps(change.facts)
    named = {"verb": change.verb, "actor": change.actor, "reason": change.reason, "facts": orjson.loads(facts)}
    return facts, content({**named, "epoch": change.state.pointer.epoch, "revision": change.state.revision})


def entry_of(
    change: Change, entry_id: str, at: float, link: Head, prev: str, replicas: Replicas | None = None
) -> AuditEntry:
    """The entry that a change leaves, as number `link.seq` of the chain behind `prev`."""
    what = change.verb, change.actor, change.reason, change.state.pointer.epoch, change.state.revision, change.facts
    return AuditEntry(entry_id, at, *what, seq=link.seq, prev=prev, hash=link.hash, replicas=replicas)


def entries_from(documents: Any, where: str) -> list[AuditEntry]:
    """The audit entries of a list of documents."""
    with understood(f"{where}, audit"):
        return [entry_from(document, where) for document in _of(list, documents)]


def flip_from(document: Any, where: str) -> FlipRecord:
    """A flip's record of a document; counts that it has none of are 0."""
    with understood(f"{where}, flips"):
        counts = {name: _of(int, document.get(name, 0)) for name in COUNTS}
        return FlipRecord(
            epoch=_of(int, document["epoch"]),
            verb=_text(document["verb"]),
            origin=_text(document["origin"]),
            to=_text(document["to"]),
            at=float(document["at"]),
            actor=_text(document["actor"]),
            reason=_text(document["reason"]),
            counted=_of(int, document["counted"]),
            **counts,
        )


def flips_from(documents: Any, where: str) -> list[FlipRecord]:
    """The flips' records of a list of documents."""
    with understood(f"{where}, flips"):
        return [flip_from(document, where) for document in _of(list, documents)]


def done_from(document: Any, where: str, body: str | None = None) -> Done:
    """What came of an idempotency key, of a document; `body`: the answer, where it is kept apart."""
    with understood(f"{where}, once"):
        previous = document["previous"]
        return Done(
            request=_text(document["request"]),
            changed=_flag(document["changed"]),
            active=_text(document["active"]),
            previous=None if previous is None else _text(previous),
            epoch=_of(int, document["epoch"]),
            revision=_of(int, document["revision"]),
            at=float(document["at"]),
            body=_text(document["body"]) if body is None else body,
        )


def once_from(documents: Any, where: str) -> OnceTable:
    """The records under idempotency keys of a document."""
    with understood(f"{where}, once"):
        return OnceTable({key: done_from(one, where) for key, one in _of(dict, documents).items()})


def check_schema(schema: Any, where: str, known: int = SCHEMA) -> None:
    """Raises `SchemaTooNew` where a newer bgproxy wrote this."""
    if _of(int, schema) > known:
        raise SchemaTooNew(
            f"{where} was written by a newer bgproxy (schema {schema}, this one understands up to {known}): "
            "run that version or a newer one; the data are left as they are"
        )


def parsed(raw: bytes | str, where: str) -> Any:
    """JSON as Python values; raises `StoreBroken` naming `where`."""
    with understood(where):
        return orjson.loads(raw)


def write_safely(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a file by a document such that a crash leaves the old or the new one, whole. Blocks; raises `OSError`.

    The file is readable by its owner alone: metadata of releases may be nobody else's business.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself is only then on the disk
    finally:
        os.close(directory)


@contextlib.contextmanager
def understood(where: str) -> Iterator[None]:
    """What goes wrong while data are read is `StoreBroken`, naming `where` and the remedy."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreBroken(
            f"{where} cannot be understood ({type(error).__name__}: {error}): restore it from a copy, or remove it "
            "to begin anew; it is left as it is"
        ) from error


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where bool belongs")
    return value


def _text(value: Any) -> str:
    return _of(str, value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in _of(list, value))


def entry_number(entry_id: str, name: str = "before") -> int:
    """The number that is a memory store's id of an audit entry. Raises `BadInput`."""
    if not (entry_id.isascii() and entry_id.isdigit() and len(entry_id) < 19):
        raise BadInput(f"{name}: {entry_id[:64]!r} is no id of an audit entry")
    return int(entry_id)
