"""What a plan may say of a value: that it is exactly this, or a table of tests that it must pass.

    "assistant"                          equal to it
    { min = 1, max = 100 }               a number within
    { like = "gpt-*" }                   a text of this form: * any characters, ? one, [abc] one of them
    { contains = "ok" }                  a text, list or object with this in it
    { one_of = ["stop", "length"] }      equal to one of them
    { type = "array", min_length = 1 }   of this JSON type; so many characters, items or members
    { exists = false }                   that nothing stands there
    { equals = { a = 1 } }               an object has to be told apart from tests
    { not = "error" }                    different from it

There are no regular expressions: one that backtracks without end would hold up the live traffic beside the judge.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

TYPES: Final = ("string", "number", "integer", "boolean", "array", "object", "null")
SHOWN: Final = 120  # characters of a value in a text for people

_ESCAPE = re.compile(r"~(?![01])")


class _Missing:
    """What stands where nothing stands; JSON's null is something."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()


def fault(expected: object) -> str:
    """What is wrong with an assertion as it is written, or nothing."""
    if not isinstance(expected, Mapping):
        return ""
    if not expected:
        return f"there is no test in it; write for example {{ exists = true }}; the tests are {', '.join(TESTS)}"
    for name, value in expected.items():
        if name not in TESTS:
            close = difflib.get_close_matches(str(name), list(TESTS), 1, 0.5)
            meant = f'did you mean "{close[0]}"?' if close else f"the tests are {', '.join(TESTS)}"
            return f'there is no test "{name}"; {meant} (an object to be met is written {{ equals = {{ … }} }})'
        if why := _argument_fault(str(name), value):
            return why
    return ""


def pointer_fault(pointer: str) -> str:
    """What is wrong with a JSON pointer (RFC 6901 §3), or nothing."""
    if pointer and not pointer.startswith("/"):
        return f'"{pointer}" is no JSON pointer; it begins with "/", as in "/choices/0/message/role"'
    return f'in "{pointer}" a "~" stands alone; write it as "~0"' if _ESCAPE.search(pointer) else ""


def at(document: object, pointer: str) -> object:
    """What stands at a JSON pointer (RFC 6901 §4); `MISSING` where nothing does."""
    found = document
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", name) and int(name) < len(found):
            found = found[int(name)]
        else:
            return MISSING
    return found


def broken(expected: object, value: object) -> str:
    """How a value fails what was expected of it, or nothing. `value`: JSON's, or `MISSING`."""
    if not isinstance(expected, Mapping):
        return "" if same(expected, value) else f"is {shown(value)}, expected is {shown(expected)}"
    if value is MISSING and expected.get("exists") is False:
        return ""
    if value is MISSING:
        return "is not there"
    for name, argument in expected.items():
        if not TESTS[name](value, argument):
            return f"is {shown(value)}, expected is {name.replace('_', ' ')} {shown(argument)}"
    return ""


def same(one: object, other: object) -> bool:
    """Equal as JSON is: true is not 1, 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def shown(value: object) -> str:
    """A value for people, cut where it is long."""
    words = {True: "true", False: "false"}
    text = words[value] if isinstance(value, bool) else "null" if value is None else repr(value)
    if isinstance(value, str):
        text = f'"{value}"'
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def is_type(value: object, name: str) -> bool:
    """Whether a value is of that JSON type."""
    if name in ("number", "integer"):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return isinstance(value, int | float) and not isinstance(value, bool) and (whole or name == "number")
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "boolean": bool,
        "array": list,
        "object": Mapping,
        "null": type(None),
    }
    return isinstance(value, kinds[name])


def _argument_fault(name: str, value: object) -> str:
    good = {
        "exists": (isinstance(value, bool), "true or false"),
        "type": (value in TYPES, f"one of {', '.join(TYPES)}"),
        "like": (isinstance(value, str), 'a text, such as "gpt-*"'),
        "one_of": (isinstance(value, list) and bool(value), 'a list, such as ["stop", "length"]'),
    }
    if name in ("min", "max"):
        good[name] = is_type(value, "number"), "a number"
    if name in ("min_length", "max_length"):
        good[name] = is_type(value, "integer") and not (isinstance(value, int) and value < 0), "a whole number"
    is_good, wanted = good.get(name, (True, ""))
    return "" if is_good else f"{name} = {shown(value)} cannot be tested; write {wanted}"


def _within(value: object, argument: Any, sign: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and sign * value >= sign * argument


def _long(value: object, argument: Any, sign: int) -> bool:
    return isinstance(value, str | list | Mapping) and sign * len(value) >= sign * argument


def _contains(value: object, argument: object) -> bool:
    if isinstance(value, str):
        return isinstance(argument, str) and argument in value
    if isinstance(value, Mapping):
        return argument in value
    return isinstance(value, Sequence) and any(same(argument, item) for item in value)


def _like(value: object, argument: str) -> bool:
    return isinstance(value, str) and fnmatch.fnmatchcase(value, argument)


TESTS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "equals": same,
    "not": lambda value, argument: not same(value, argument),
    "exists": lambda _value, argument: bool(argument),
    "type": is_type,
    "min": lambda value, argument: _within(value, argument, 1),
    "max": lambda value, argument: _within(value, argument, -1),
    "like": _like,
    "contains": _contains,
    "one_of": lambda value, argument: any(same(value, one) for one in argument),
    "min_length": lambda value, argument: _long(value, argument, 1),
    "max_length": lambda value, argument: _long(value, argument, -1),
}
"""Each test of a value that is there, by name."""
