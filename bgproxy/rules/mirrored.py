"""Which live requests may be asked a second time of the idle color, what goes along with them, and what the lot proves.

A request is repeated only where the plan says that this is safe: by its method, or, for JSON-RPC over POST, by the
method in its body; below the paths that it names. What would not be the same question is left out: a request that asks
for a part of something or on a condition, and one that names its session, unless the plan lets those go without that
name. An id that stands in the path, the query or the body cannot be taken away, so such a request is never repeated.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bgproxy.rules.comparing import Mirror
from bgproxy.rules.gate import Finding, Verdict, recordable
from bgproxy.rules.likeness import Likeness, pointers

MARKER: Final = "X-Bgproxy-Mirror"
"""A field, with the value 1, that mirrored and replayed requests carry. The proxy takes it off what clients send."""

CREDENTIALS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token"}
)
"""Fields that say who somebody is: they go along only where a plan names them."""

_NOT_THE_SAME: Final = ("range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
_OURS: Final = frozenset(
    {
        *("content-length", "transfer-encoding", "connection", "expect", "trailer", "te", "upgrade", "via"),
        *("accept-encoding", "x-request-id", "traceparent", "tracestate", "baggage", "idempotency-key"),
        *("last-event-id", "priority"),
    }
)
"""Framing, which the sender makes anew, and names of the live exchange that must not be met twice."""

EXAMPLES: Final = 3  # of one node
EXAMPLE_CHARACTERS: Final = 240
_SHOWN_NODES: Final = 16

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Repeating:
    """What a plan lets be repeated."""

    mirror: Mirror

    def may(self, method: str, path: str) -> bool:
        """Whether a request can be one to repeat, by its first line; `path` without its query."""
        mirror = self.mirror
        safe = method in mirror.methods or (bool(mirror.rpc) and method == "POST")
        return safe and any(path.startswith(prefix) for prefix in mirror.paths)

    def repeats(self, method: str, body: bytes, fields: Fields) -> bool:
        """Whether it is, by the rest of it."""
        if any(name.lower() in _NOT_THE_SAME for name, _ in fields):
            return False
        return method in self.mirror.methods or is_call_of(body, self.mirror.rpc)

    def fields(
        self, fields: Fields, session_ids: Iterable[str], more: Mapping[str, str]
    ) -> list[tuple[str, str]] | None:
        """The fields that go along; None where the request names a session that cannot, or must not, be left out.

        `session_ids`: the ids that the proxy has read in the live request. `more`: the plan's own fields.
        """
        ids = set(session_ids)
        if ids and not self.mirror.sessions:
            return None
        naming = {name.lower() for name, value in fields for one in ids if _holds(name, value, one)}
        found = {one for one in ids for name, value in fields if name.lower() in naming and _holds(name, value, one)}
        if found != ids:
            return None
        own = {name.lower() for name in more}
        left_out = _OURS | naming | own | (CREDENTIALS - {name.lower() for name in self.mirror.credentials})
        kept = [(name, value) for name, value in fields if name.lower() not in left_out and not _is_private(name)]
        return [*kept, *more.items(), (MARKER, "1")]

    def likeness(self) -> Likeness:
        """What is compared."""
        mirror = self.mirror
        return Likeness(
            status="status" in mirror.compare,
            shape="shape" in mirror.compare,
            slower=mirror.max_latency_ratio or 0.0,
            slack=mirror.latency_tolerance,
            ignored=pointers(mirror.ignore),
        )


def is_call_of(body: bytes, methods: Collection[str]) -> bool:
    """Whether a body is a JSON-RPC request of these methods; a batch: all of it."""
    if not methods or b'"jsonrpc"' not in body:
        return False
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    calls = document if isinstance(document, list) else [document]
    return bool(calls) and all(isinstance(one, dict) and one.get("method") in methods for one in calls)


def _holds(name: str, value: str, session_id: str) -> bool:
    """Whether a field is where an id stands: the whole of it, or for a cookie one of many."""
    return value == session_id or (name.lower() == "cookie" and session_id in value)


def _is_private(name: str) -> bool:
    return name.lower().startswith("x-bgproxy-")


@dataclass(slots=True)
class Tally:
    """What one node has seen. `dropped`: what could have been mirrored, and was not, so that the load stays bounded;
    `failed`: no whole answer came back."""

    compared: int = 0
    differed: int = 0
    slow: int = 0
    failed: int = 0
    dropped: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Requests that were mirrored, and of which something is known."""
        return self.compared + self.failed

    def note(self, asked: str, differences: Sequence[str], *, slow: bool) -> None:
        """A pair that was compared."""
        self.compared += 1
        self.slow += slow
        if differences:
            self.differed += 1
            self._example(asked, "; ".join(differences))

    def fail(self, asked: str, trouble: str) -> None:
        """Nothing came back that could be compared."""
        self.failed += 1
        self._example(asked, trouble)

    def _example(self, asked: str, what: str) -> None:
        text = recordable(f"{asked}: {what}"[:EXAMPLE_CHARACTERS])
        if len(self.examples) < EXAMPLES and text not in self.examples:
            self.examples.append(text)

    def document(self) -> dict[str, Any]:
        """As plain values, which `tally_from` reads."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {**counts, "examples": list(self.examples)}


COUNTS: Final = ("compared", "differed", "slow", "failed", "dropped")


def tally_from(document: Mapping[str, Any]) -> Tally:
    """What another node has said; what is no count is none."""
    counts = {name: value for name in COUNTS if type(value := document.get(name)) is int and value >= 0}
    said = document.get("examples")
    texts = [text[:EXAMPLE_CHARACTERS] for text in said if isinstance(text, str)] if isinstance(said, list) else []
    return Tally(**counts, examples=texts[:EXAMPLES])


def together(nodes: Iterable[Tally]) -> Tally:
    """The sum of all nodes' counts, with some examples of each."""
    tallies = list(nodes)
    total = Tally(**{name: sum(getattr(one, name) for one in tallies) for name in COUNTS})
    total.examples = list(dict.fromkeys(text for one in tallies for text in one.examples))[: EXAMPLES * 2]
    return total


def judge(mirror: Mirror, nodes: Mapping[str, Tally]) -> Finding:
    """What all nodes' tallies come to."""
    total = together(nodes.values())
    examples = total.examples
    evidence = total.document()
    evidence |= {"nodes": {name: nodes[name].compared for name in sorted(nodes)[:_SHOWN_NODES]}}
    if total.sent < mirror.min_samples:
        return Finding(
            Verdict.UNDECIDED,
            f"{total.sent} requests were mirrored, {mirror.min_samples} are needed: let more be mirrored (methods, "
            "rpc, paths, sessions, share, max_rate), longer (duration), or ask for fewer (min_samples)"
            + (f"; {examples[0]}" if examples else ""),
            evidence,
        )
    shares = (
        ("failed", total.failed / total.sent, mirror.max_failed, "got no whole answer"),
        ("differed", total.differed / max(total.compared, 1), mirror.max_differing, "were answered differently"),
        ("slow", total.slow / max(total.compared, 1), mirror.max_slow, "were answered too slowly"),
    )
    broken = [
        f"{getattr(total, name)} of {total.sent if name == 'failed' else total.compared} mirrored requests {what}, "
        f"{limit:g} is the limit"
        for name, share, limit, what in shares
        if share > limit
    ]
    if broken:
        first = f" ({examples[0]})" if examples else ""
        return Finding(Verdict.FAIL, "; ".join(broken) + first, evidence)
    return Finding(Verdict.PASS, f"{total.compared} answers compared, {total.differed} differ", evidence)
