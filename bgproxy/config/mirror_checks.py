"""What a plan's mirror, and its replays, of the right types may still not say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bgproxy.config.keys import Path
from bgproxy.rules.assertion import pointer_fault
from bgproxy.rules.comparing import Mirror, ReplayGate
from bgproxy.rules.mirrored import CREDENTIALS

# RFC 9110 §9.2.1: what these do is the same however often they are asked.
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_RPC: Final = re.compile(r"[!-~]{1,128}")

Found = Iterator[tuple[Path, str]]


def mirror_faults(mirror: Mirror) -> Found:
    """Each rule's faults, by key; numbers and headers are looked at where all sections' are."""
    here = ("mirror",)
    for method in mirror.methods:
        if method not in _SAFE:
            yield (
                (*here, "methods"),
                f'"{method}" is not safe to repeat (RFC 9110 §9.2.1); write {", ".join(_SAFE)}, and JSON-RPC methods '
                'that change nothing by name, as in rpc = ["tools/list"]',
            )
    if not mirror.methods and not mirror.rpc:
        yield (*here, "methods"), 'nothing would be mirrored; write for example methods = ["GET", "HEAD"]'
    for name in mirror.rpc:
        if not _RPC.fullmatch(name):
            yield (*here, "rpc"), f'"{name}" is no JSON-RPC method; write its name, as in "tools/list"'
    for path in mirror.paths:
        if not path.startswith("/"):
            yield (*here, "paths"), f'"{path}" is no path; write one that begins with "/"'
    if not mirror.paths:
        yield (*here, "paths"), 'there is none; write paths = ["/"] for all'
    for name in mirror.credentials:
        if name.lower() not in CREDENTIALS:
            yield (
                (*here, "credentials"),
                f'"{name}" is none of the fields that are left out; those are {", ".join(sorted(CREDENTIALS))}',
            )
    yield from pointers_faults((*here, "ignore"), mirror.ignore)
    if not mirror.compare:
        yield (*here, "compare"), 'nothing would be compared; write compare = ["status", "shape"]'
    if not mirror.share:
        yield (*here, "share"), "nothing would be mirrored; write a share above 0, 1.0 for all"
    if not mirror.min_samples:
        yield (*here, "min_samples"), "with no answer nothing is known; write at least 1"
    most = mirror.max_rate * mirror.duration
    if mirror.min_samples > most + max(mirror.max_rate, 1):
        yield (
            (*here, "min_samples"),
            f"one node mirrors at most {most:g} requests in this time; lower it, or raise max_rate or duration",
        )


def replay_faults(gate: ReplayGate, path: Path) -> Found:
    """A replay's faults, by key; numbers and headers are looked at where all gates' are."""
    yield from pointers_faults((*path, "ignore"), gate.ignore)
    if not gate.compare:
        yield (*path, "compare"), 'nothing would be compared; write compare = ["status", "shape", "tools"]'
    if gate.min_sessions > gate.sessions:
        yield (
            (*path, "min_sessions"),
            f"at most {gate.sessions} sessions are played; lower it, or raise sessions",
        )


def pointers_faults(path: Path, pointers: tuple[str, ...]) -> Found:
    """Of a list of JSON pointers."""
    for pointer in pointers:
        if not pointer or pointer_fault(pointer):
            yield path, pointer_fault(pointer) or '"" is the whole document; leave shape out of what is compared'
