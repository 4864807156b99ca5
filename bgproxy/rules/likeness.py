"""Whether two answers to the same request are alike: their status, the shape of their JSON, the tools they call, their
time.

Texts are not compared: an agent says the same in other words. Of JSON the shape is: what stood in the old answer stands
in the new one, and is of the same type. A member that is new breaks no client, so it is no difference. The items of an
array are told apart by their shape alone: each new one must be like one of the old ones, in whatever order and number.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bgproxy.rules.assertion import MISSING, pointer_fault

ANY: Final = "*"
"""In a pointer of what is ignored: any one member or item. Items of arrays are named by this only."""

MOST_TOLD: Final = 8  # differences of one pair
_DEEPEST: Final = 48  # levels; what lies below is not compared
_MOST_KINDS: Final = 64  # shapes of items of one array
_MOST_ITEMS: Final = 2_000

Ignored = Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Told:
    """What one answer said. `seconds`: to its end; `documents`: its JSON, of a stream each event's, None: it has none
    that could be read whole."""

    status: int
    seconds: float
    documents: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Likeness:
    """What is compared. `slower`: a new answer is slow that takes more than the old one's time by this factor, and
    `slack` seconds; 0: time is not compared."""

    status: bool = True
    shape: bool = True
    tools: bool = False
    slower: float = 0.0
    slack: float = 0.0
    ignored: tuple[tuple[str, ...], ...] = ()

    def differences(self, old: Told, new: Told) -> list[str]:
        """How the new answer differs, in words that hold no value of either; none: they are alike."""
        found: list[str] = []
        if self.status and old.status != new.status:
            found.append(f"the status is {new.status}, was {old.status}")
        elif old.documents is not None and old.status == new.status:
            found += self._documents(old.documents, new.documents)
        return found[:MOST_TOLD]

    def is_slow(self, old: Told, new: Told) -> bool:
        """Whether the new answer took too long beside the old one."""
        return self.slower > 0 and new.seconds > old.seconds * self.slower + self.slack

    def _documents(self, old: Sequence[Any], new: Sequence[Any] | None) -> Iterator[str]:
        if self.shape and new is None:
            yield "it is no JSON, the old answer was"
        if new is None:
            return
        if self.shape:
            single = len(old) == 1 and len(new) == 1
            ignored = self.ignored if single else tuple((ANY, *parts) for parts in self.ignored)
            was, now = (old[0], new[0]) if single else (list(old), list(new))
            yield from shape_differences(was, now, ignored)
        if self.tools:
            called, calls = tools_called(old), tools_called(new)
            if called != calls:
                yield f"it calls {_listed(calls)}, the old answer called {_listed(called)}"
            if failed_tool(new) and not failed_tool(old):
                yield "the tool's call failed"


def pointers(written: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """JSON pointers (RFC 6901) as `Likeness.ignored` has them. Those with a fault: see `assertion.pointer_fault`."""
    assert not any(map(pointer_fault, written)), "whoever wrote them was told"
    return tuple(
        tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]) for pointer in written
    )


def documents_of(content_type: str, encoding: str, body: bytes, most: int) -> tuple[Any, ...] | None:
    """The JSON of a body: one document, or that of each event (WHATWG HTML §9.2.6). None where there is none.

    `most`: bytes that a coded body (RFC 9110 §8.4.1) may have when it is decoded.
    """
    plain = decoded(encoding, body, most)
    if plain is None:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "text/event-stream":
            found = tuple(json.loads(data) for data in event_data(plain) if data != "[DONE]")  # OpenAI's last word
            return found or None
        if kind == "application/x-ndjson":
            return tuple(json.loads(line) for line in plain.splitlines() if line.strip()) or None
        return (json.loads(plain),) if kind == "application/json" or kind.endswith("+json") else None
    except (ValueError, RecursionError):
        return None


def decoded(encoding: str, body: bytes, most: int) -> bytes | None:
    """A body without its content coding; None where that is not known here, broken, or larger than `most` bytes."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        return None
    reader = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
    try:
        plain = reader.decompress(body, most)
    except zlib.error:
        return None
    return plain if reader.eof else None


def event_data(body: bytes) -> Iterator[str]:
    """The data of whole server-sent events."""
    lines: list[str] = []
    for line in body.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line and lines:
            yield "\n".join(lines)
            lines = []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))


# The shape


def shape_differences(old: Any, new: Any, ignored: Ignored = ()) -> Iterator[str]:
    """Where the new document is not of the old one's shape, by JSON pointer."""
    return _differ(old, new, (), ignored)


def _differ(old: Any, new: Any, path: tuple[str, ...], ignored: Ignored) -> Iterator[str]:
    if len(path) >= _DEEPEST or any(_is_at(pattern, path) for pattern in ignored):
        return
    was, now = _type(old), _type(new)
    if was != now:
        yield f"{_pointer(path)} is {now}, was {was}"
    elif was == "object":
        for name, value in old.items():
            here = (*path, str(name))
            if name in new:
                yield from _differ(value, new[name], here, ignored)
            elif not any(_is_at(pattern, here) for pattern in ignored):
                yield f"{_pointer(here)} is gone"
    elif was == "array" and old and new:
        yield from _differ_items(old, new, (*path, ANY), ignored)


def _differ_items(old: Sequence[Any], new: Sequence[Any], path: tuple[str, ...], ignored: Ignored) -> Iterator[str]:
    known = list(_kinds(old).values())
    for item in _kinds(new).values():
        nearest: list[str] = []
        for one in known:
            found = list(_differ(one, item, path, ignored))
            if not found:
                break
            if not nearest or len(found) < len(nearest):
                nearest = found
        else:
            yield from nearest


def _kinds(items: Sequence[Any]) -> dict[Any, Any]:
    """One item of each shape."""
    found: dict[Any, Any] = {}
    for item in items[:_MOST_ITEMS]:
        found.setdefault(_shape(item, _DEEPEST), item)
        if len(found) == _MOST_KINDS:
            break
    return found


def _shape(value: Any, levels: int) -> Any:
    """What two values of one shape have in common."""
    kind = _type(value)
    if not levels or kind not in ("object", "array"):
        return kind
    if kind == "object":
        return frozenset((name, _shape(inner, levels - 1)) for name, inner in value.items())
    return ("array", frozenset(_shape(inner, levels - 1) for inner in value[:_MOST_ITEMS]))


def _type(value: Any) -> str:
    if isinstance(value, Mapping):
        return "object"
    if isinstance(value, list):
        return "array"
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "boolean"
    return "null" if value is None else "number"


def _is_at(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return len(pattern) == len(path) and all(one in (ANY, part) for one, part in zip(pattern, path, strict=True))


def _pointer(path: tuple[str, ...]) -> str:
    """A pointer as it is told: what an agent calls its members may be long."""
    text = "".join("/" + part.replace("~", "~0").replace("/", "~1")[:40] for part in path)
    return text[:160] or "the document"


# The tools


def tools_called(documents: Sequence[Any]) -> list[str]:
    """The names of the tools that an answer has called, in order: chat completions, responses and messages, whole or
    as streams, and MCP's sampling."""
    return [name for document in documents for name in _tools(document)]


def failed_tool(documents: Sequence[Any]) -> bool:
    """Whether an MCP tool has said that its call failed."""
    return any(_at(document, "result", "isError") is True for document in documents)


def _tools(document: Any) -> Iterator[str]:
    for choice in _list(_at(document, "choices")):
        said = _at(choice, "message") or _at(choice, "delta")
        for call in _list(_at(said, "tool_calls")):
            yield from _name(_at(call, "function"))  # a stream's first piece of a call has its name
    if _at(document, "type") == "response.output_item.done":  # one event of a stream of responses
        yield from _function(_at(document, "item"))
    if _at(document, "object") == "response":
        for item in _list(_at(document, "output")):
            yield from _function(item)
    blocks = [_at(document, "content_block")] if _at(document, "type") == "content_block_start" else []
    for block in [*blocks, *_list(_at(document, "content")), *_list(_at(document, "params", "content"))]:
        if _at(block, "type") == "tool_use":
            yield from _name(block)


def _function(item: Any) -> Iterator[str]:
    if _at(item, "type") in ("function_call", "mcp_call", "custom_tool_call"):
        yield from _name(item)


def _name(holder: Any) -> Iterator[str]:
    name = _at(holder, "name")
    if isinstance(name, str) and name:
        yield name


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name, MISSING) if isinstance(value, Mapping) else MISSING
    return None if value is MISSING else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:64] for name in names[:6])
    return (shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")) or "no tool"
