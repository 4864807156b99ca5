"""How a bad value is told: the value (never a secret), what it is not, and what to write instead."""

from __future__ import annotations

import difflib
import math
import re
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from bgproxy.config.keys import Leaf, Path

MASK = "********"
MOST_SECONDS = 10**8  # three years; far larger timers overflow in the event loop
MOST_BYTES = 2**40  # and counts: more is a slip of the finger

_LISTS: dict[Any, tuple[str, str]] = {
    int: ("a list of whole numbers", "[200, 204]"),
    dict[str, object]: ("a list of tables", '[{ key = "value" }]'),
}
_SECONDS = ("timeout", "interval", "ttl", "max_age")
_PASSWORD = re.compile(r"(?<=://)([^/@\s]*):([^/\s]*)@")
_QUERY_PASSWORD = re.compile(r"(?<=[?&])((?:sentinel_)?password=)[^&#]*", re.IGNORECASE)


def shown(path: Path, value: Any) -> str:
    """A value as it may appear in a message or on a screen."""
    if value is None:
        return "nothing"
    if path and path[-1] == "secret" and value:
        return f'"{MASK}"'
    text = mask_url(str(value))
    if isinstance(value, bool):
        return text.lower()
    if isinstance(value, str):
        return f'"{text}"'
    return text if len(text) <= 80 else text[:77] + "..."


def mask_url(text: str) -> str:
    """The text without the passwords of URLs in it."""
    text = _PASSWORD.sub(rf"\1:{MASK}@", text)
    return _QUERY_PASSWORD.sub(rf"\1{MASK}", text)


def not_of_type(path: Path, leaf: Leaf, value: Any) -> str:
    """That a value is not what its key takes, and what would be."""
    words = _words(leaf.type)
    if words:
        return f"{shown(path, value)} is not known; {near(value, words)}"
    what, example = _expected(path, leaf)
    return f"{shown(path, value)} is not {what}; write for example {example}"


def number_fault(path: Path, leaf: Leaf, value: float, least: float) -> str | None:
    """What is wrong with a number that has the right type, or None."""
    if not math.isfinite(value):
        return f"{value} is not a finite number; write for example {_expected(path, leaf)[1]}"
    if value < least:
        return f"{value} is too small; the least is {least:g}"
    most = MOST_BYTES if leaf.type is int else MOST_SECONDS
    if value > most:
        return f"{value} is too large; the most is {most}"
    return None


def near(value: object, known: list[str]) -> str:
    """What may have been meant by a word that is not one of the known ones."""
    close = difflib.get_close_matches(str(value), known, 1, 0.6)
    return f'did you mean "{close[0]}"?' if close else f"write one of {', '.join(known)}"


def _words(kind: Any) -> list[str]:
    """The words that a key takes, if it takes words only."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [word.value for word in kind]
    if get_origin(kind) is tuple:  # a list of words: pydantic tells of the one that is at fault
        kind = get_args(kind)[0]
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else []


def _expected(path: Path, leaf: Leaf) -> tuple[str, str]:
    kind, name, default = leaf.type, path[-1], leaf.default
    if kind is bool:
        return "true or false", str(bool(default)).lower()
    if kind in (int, float):
        return _expected_number(name, kind, default)
    if get_origin(kind) is tuple:
        return _LISTS.get(get_args(kind)[0], ("a list of texts", '["…", "…"]'))
    if kind is str:
        return "a text", f'"{default or "…"}"'
    return "a table", '{ key = "value" }'


def _expected_number(name: str, kind: type, default: float | None) -> tuple[str, str]:
    whole = "a whole number" if kind is int else "a number"
    if name.endswith("_bytes"):
        return f"{whole} of bytes", str(default)
    if name.endswith(_SECONDS):
        return f"{whole} of seconds", str(default or 30.0)
    return whole, str(1.5 if default is None else default)
