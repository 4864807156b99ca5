"""What is taken out of a request and its answer before they are kept: by the name of a field, a parameter or a
member, by JSON pointer, and by pattern wherever a text stands.

Types stay as they are, so that what is kept has the shape of what was. A body that says it is JSON and is none, or is
coded, cannot be searched, and is not kept. Patterns are limited to what takes no long time on any text: they run in a
process that serves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as grammar  # type: ignore[attr-defined]
from typing import Any, Final
from urllib.parse import unquote_plus

from bgproxy.rules.likeness import ANY

REDACTED: Final = "[redacted]"

HEADERS: Final = (
    *("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-goog-api-key"),
    *("x-amz-security-token", "x-auth-token", "x-csrf-token", "x-forwarded-for", "x-real-ip", "forwarded"),
)
NAMES: Final = (
    *(
        "password",
        "passwd",
        "secret",
        "client_secret",
        "api_key",
        "apikey",
        "access_token",
        "refresh_token",
        "id_token",
    ),
    *("authorization", "private_key", "signature", "sig"),
)
PATTERNS: Final = (
    r"\b[Bb]earer [A-Za-z0-9._~+/=-]{8,512}",
    r"\bsk-[A-Za-z0-9_-]{16,256}",
    r"\b(?:ghp|gho|ghs|glpat|xox[abps])[_-][A-Za-z0-9_-]{16,256}",
    r"\bAKIA[0-9A-Z]{16}",
    r"\beyJ[A-Za-z0-9._-]{20,512}",
)

_MOST_REPEATED: Final = 512
_REPEATS: Final = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
_HALF: Final = re.compile("[\ud800-\udfff]")  # of a surrogate pair: JSON may name one, UTF-8 has none
_DEEPEST: Final = 200  # levels of JSON that are searched; what is deeper is taken out

Fields = Sequence[tuple[str, str]]
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is taken out. `headers`, `names` (of parameters in a query or a form, and of JSON members) in lower case."""

    headers: frozenset[str] = frozenset(HEADERS)
    names: frozenset[str] = frozenset(NAMES)
    pointers: tuple[Path, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = field(default_factory=lambda: tuple(map(re.compile, PATTERNS)))

    def fields(self, fields: Fields) -> list[tuple[str, str]]:
        """The fields of a head."""
        return [(name, REDACTED if name.lower() in self.headers else self.text(value)) for name, value in fields]

    def target(self, target: str) -> str:
        """A request's path and query."""
        path, mark, query = target.partition("?")
        return self.text(path) + mark + self._pairs(query)

    def body(self, content_type: str, body: bytes) -> bytes | None:
        """A body without its content coding; None where it cannot be searched."""
        kind = content_type.partition(";")[0].strip().lower()
        text = body.decode("utf-8", "surrogateescape")
        try:
            if kind == "application/json" or kind.endswith("+json"):
                text = self._json(text) if text.strip() else text
            elif kind == "text/event-stream":
                text = "".join(self._events(text))
            elif kind == "application/x-ndjson":
                text = "".join(f"{self._json(line)}\n" for line in text.splitlines() if line.strip())
            elif kind == "application/x-www-form-urlencoded":
                text = self._pairs(text)
            else:
                text = self.text(text)
            return text.encode("utf-8", "surrogateescape")
        except (ValueError, RecursionError):
            return None

    def text(self, text: str) -> str:
        """Any text."""
        for pattern in self.patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _json(self, text: str) -> str:
        plain = json.dumps(self._value(json.loads(text), ()), ensure_ascii=False)
        if _HALF.search(text):  # bytes that are no UTF-8: they stay as they are
            return plain
        return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", plain)

    def _value(self, value: Any, path: Path) -> Any:
        if len(path) > _DEEPEST or any(_is_at(pointer, path) for pointer in self.pointers):
            return _blank(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._value(item, (*path, str(number))) for number, item in enumerate(value)]
        if isinstance(value, Mapping):
            return {
                self.text(name): _blank(item) if name.lower() in self.names else self._value(item, (*path, name))
                for name, item in value.items()
            }
        return value

    def _pairs(self, text: str) -> str:
        """A query, or a form."""
        found = []
        for pair in text.split("&"):
            name, equals, value = pair.partition("=")
            hidden = unquote_plus(name).lower() in self.names or self.text(unquote_plus(value)) != unquote_plus(value)
            found.append(name + equals + (REDACTED if hidden and value else value))
        return "&".join(found)

    def _events(self, text: str) -> Iterator[str]:
        """A stream, event by event: the data of each on one line."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        for event in text.split("\n\n"):
            data = [line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:")]
            others = [self.text(line) for line in event.split("\n") if line and not line.startswith("data:")]
            joined = "\n".join(data)
            if joined[:1] in ("{", "["):
                try:
                    joined = self._json(joined)
                except ValueError:
                    if joined != "[DONE]":  # OpenAI's last word
                        raise
            else:
                joined = self.text(joined)
            if data or others:
                lines = [f"data: {line}" for line in joined.split("\n")] if data else []
                yield "\n".join([*others, *lines]) + "\n\n"


def pattern_fault(pattern: str) -> str:
    """What is wrong with a pattern, or nothing. Of those that pass none takes long on any text."""
    try:
        parsed = grammar.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"it is no regular expression: {error}"
    repeats = list(_repeats(parsed, inside=False))
    if not pattern or re.compile(pattern).match(""):
        return "it matches nothing at all, and so everywhere; write what must be there"
    if any(inside for _, _, inside in repeats):
        return "a repeat stands within another; write it without"
    if any(most > _MOST_REPEATED for _, most, _ in repeats):
        return (
            f"it repeats without an end, or more than {_MOST_REPEATED} times; write for example {{8,{_MOST_REPEATED}}}"
        )
    if sum(least != most for least, most, _ in repeats) > 1:
        return "more than one part of it is of any length; write two patterns, or a fixed number in one of them"
    return ""


def _repeats(parsed: Any, *, inside: bool) -> Iterator[tuple[int, int, bool]]:
    """The least, the most, and whether it stands within another, of each repeat of a pattern."""
    for code, argument in parsed:
        inner = inside
        if code in _REPEATS:
            least, most, parsed_inner = argument
            yield int(least), int(most), inside
            if int(most) > 1:
                inner = True
            yield from _repeats(parsed_inner, inside=inner)
            continue
        yield from _repeats_within(argument, inside=inside)


def _repeats_within(argument: Any, *, inside: bool) -> Iterator[tuple[int, int, bool]]:
    """Of the patterns that stand in an operation's arguments."""
    if isinstance(argument, grammar.SubPattern):
        yield from _repeats(argument, inside=inside)
    elif isinstance(argument, tuple | list):
        for part in argument:
            yield from _repeats_within(part, inside=inside)


def _is_at(pointer: Path, path: Path) -> bool:
    return len(pointer) == len(path) and all(one in (ANY, part) for one, part in zip(pointer, path, strict=True))


def _blank(value: Any) -> Any:
    """Something of the same type that says nothing."""
    if value is None:
        return None
    return REDACTED if isinstance(value, str) else type(value)()
