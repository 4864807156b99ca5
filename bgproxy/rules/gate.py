"""A gate's verdict, with the evidence for it; and what an answer must be for a check of one request to pass.

UNDECIDED says that nothing was found out: the judge was away, there were too few samples, nobody approved in time. It
stops a release as FAIL does, and it is told apart because the remedy is another one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from bgproxy.rules.assertion import MISSING, at, broken, shown
from bgproxy.rules.plan import HttpGate

WHY_CHARACTERS: Final = 500
EVIDENCE_BYTES: Final = 8_192
"""Of one verdict, as JSON, on the audit: a release of twenty gates stays far below what one entry may weigh."""

FIRST_BYTES: Final = 300  # of a body, as evidence
_FIELDS_KEPT: Final = frozenset({"content-type", "content-length", "server", "location", "retry-after"})


class Verdict(StrEnum):
    """Of a gate, or of a judge."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, why, and by what. `evidence`: plain JSON values."""

    verdict: Verdict
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def bounded(self) -> Finding:
        """The same as it goes on record: what has no room is left out, and that is told; see `recordable`."""
        why = recordable(self.why)
        why = why if len(why) <= WHY_CHARACTERS else why[: WHY_CHARACTERS - 1] + "…"
        kept: dict[str, Any] = {}
        left = EVIDENCE_BYTES
        for name, value in recordable(self.evidence).items():
            value, size = _fitting(value, left)
            left -= size
            kept[name] = value
        return Finding(self.verdict, why, kept)


def recordable(value: Any) -> Any:
    """A plain JSON value with a word in place of what no record takes: half a surrogate pair, as the JSON and the
    fields (RFC 9110 §5.5: any bytes) of an agent may bring it, and a number that is none."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {recordable(name): recordable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(recordable, value))
    return value


def _fitting(value: Any, room: int) -> tuple[Any, int]:
    """As much of a value as there is room for, and its size as JSON."""
    size = len(json.dumps(value))
    if size <= room:
        return value, size
    if isinstance(value, list):
        kept: list[Any] = []
        left = room - 40
        for item in value:
            left -= len(json.dumps(item)) + 2
            if left < 0:
                break
            kept.append(item)
        return [*kept, f"and {len(value) - len(kept)} more"], room - max(left, 0)
    return "(too large to be kept)", 24


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request. Times in seconds from its beginning; `body`: its first part, of `size` bytes.

    `trouble`: how the exchange broke, in words; then the rest is as far as it came, `status` 0 before there was one.
    """

    status: int = 0
    fields: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    size: int = 0
    latency: float = 0.0
    first_byte: float = 0.0
    events: Sequence[str] = ()  # the data of server-sent events
    trouble: str = ""

    def values(self, name: str) -> str | None:
        """A field's values, joined as RFC 9110 §5.3 has it; None where it is not there."""
        found = [value for key, value in self.fields if key.lower() == name.lower()]
        return ", ".join(found) if found else None

    def json(self) -> Any:
        """The body as JSON; `MISSING` where it is none."""
        try:
            return json.loads(self.body) if len(self.body) == self.size else MISSING
        except (ValueError, RecursionError):
            return MISSING

    def evidence(self) -> dict[str, Any]:
        """What is kept of it: status, the fields that tell something, first bytes, times."""
        head = {name.lower(): value[:200] for name, value in self.fields if name.lower() in _FIELDS_KEPT}
        told: dict[str, Any] = {"status": self.status, "fields": head, "bytes": self.size}
        if self.events:
            told["events"] = len(self.events)
        told["begins"] = self.body[:FIRST_BYTES].decode(errors="replace")
        told |= {"latency": round(self.latency, 6), "first_byte": round(self.first_byte, 6)}
        return told | ({"trouble": self.trouble} if self.trouble else {})


def check_http(gate: HttpGate, answer: Answer) -> list[str]:
    """Everything that an answer is not, and should be."""
    if answer.trouble:
        return [answer.trouble]
    return [
        *_status(gate, answer),
        *_fields(gate.expect_headers, answer),
        *check_json(gate.expect_json, answer.json() if gate.expect_json else None),
        *_text(gate.expect_text, answer),
        *_events(gate.expect_events, answer),
        *too_slow("the answer", answer.latency, gate.max_latency),
        *too_slow("the first byte", answer.first_byte, gate.max_first_byte),
    ]


def check_json(expected: Mapping[str, object], document: object) -> Iterator[str]:
    """How a JSON document fails assertions by JSON pointer. `MISSING`: there is no document."""
    if expected and document is MISSING:
        yield "the body is no JSON"
        return
    for pointer, test in expected.items():
        if why := broken(test, at(document, pointer)):
            yield f"{pointer or 'the document'} {why}"


def too_slow(what: str, took: float, limit: float | None) -> Iterator[str]:
    """A time above its limit."""
    if limit is not None and took > limit:
        yield f"{what} took {took:.3f} s, the limit is {limit:g} s"


def _status(gate: HttpGate, answer: Answer) -> Iterator[str]:
    if answer.status not in gate.expect_status:
        wanted = " or ".join(map(str, gate.expect_status))
        begins = answer.body[:80].decode(errors="replace")
        yield f"the status is {answer.status}, expected is {wanted}" + (f"; it says {shown(begins)}" if begins else "")


def _fields(expected: Mapping[str, object], answer: Answer) -> Iterator[str]:
    for name, test in expected.items():
        value = answer.values(name)
        if why := broken(test, MISSING if value is None else value):
            yield f"the field {name} {why}"


def _text(expected: str, answer: Answer) -> Iterator[str]:
    if expected and expected.encode() not in answer.body:
        yield f"the body does not contain {shown(expected)}"


def _events(expected: int, answer: Answer) -> Iterator[str]:
    if len(answer.events) < expected:
        yield f"{len(answer.events)} events came, expected are {expected}"
