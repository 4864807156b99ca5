"""Checks JSON against a schema, and says what is wrong in words that name the member and the remedy.

The schemas are those published at /openapi.json (JSON Schema 2020-12): what is documented is what is checked. In a
schema of what comes in only the keywords of `KEYWORDS` and `NOTES` may stand; a test sees to that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from bgproxy.errors import BadInput

Schema = Mapping[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "number": (int, float),
    "null": (type(None),),
}
NOTES = frozenset({"type", "description", "default", "examples"})  # nothing to check: `type` goes first


def check(value: Any, schema: Schema, name: str = "") -> None:
    """Raise BadInput where `value` does not fit. `name`: what the value is called in the text, empty for the whole."""
    kinds = schema.get("type", ())
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        wanted = " or ".join(map(_article, kinds))
        raise BadInput(f"{_label(name)} must be {wanted}, it is {_article(kind_of(value))}")
    if value is None:
        return  # where nothing may stand, nothing more is asked of it
    for keyword, rule in KEYWORDS.items():
        if keyword in schema:
            rule(value, schema[keyword], schema, name)


def _is(value: Any, kind: str) -> bool:
    """Whether the value is of that JSON type. In Python true is an int; in JSON it is none."""
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def query_values(texts: Mapping[str, str], schema: Schema) -> dict[str, Any]:
    """A query's texts as the values that the schema wants, checked, defaults filled in. Raises BadInput."""
    members = schema.get("properties", {})
    values: dict[str, Any] = {name: member["default"] for name, member in members.items() if "default" in member}
    for name, text in texts.items():
        values[name] = _read(text, members.get(name, {}).get("type"))
    check(values, schema)
    return values


def _read(text: str, kind: str | None) -> Any:
    """A text that fits the type as its value, any other as it is: then the check says what is wrong with it."""
    if kind == "integer" and re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text


def kind_of(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    if isinstance(value, float):
        return "number that is no integer"
    return next(kind for kind in ("boolean", "integer", "string", "array", "object") if isinstance(value, _TYPES[kind]))


def _known(value: dict[str, Any], allowed: Schema | bool, schema: Schema, name: str) -> None:
    """`additionalProperties`: False, or the schema of members under free names."""
    members = schema.get("properties", {})
    for key, inner in value.items():
        if key in members or allowed is True:
            continue
        if allowed is False:
            raise BadInput(f"{_label(_inside(name, key))} is not known{_nearest(key, members)}")
        check(inner, allowed, _inside(name, key))


def _nearest(key: str, members: Mapping[str, Any]) -> str:
    if not members:
        return "; there is none to give"
    close = get_close_matches(key, members, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(members)}"


def _members(value: dict[str, Any], members: Mapping[str, Schema], _schema: Schema, name: str) -> None:
    for key, inner in members.items():
        if key in value:
            check(value[key], inner, _inside(name, key))


def _required(value: dict[str, Any], names: list[str], _schema: Schema, name: str) -> None:
    for key in names:
        if key not in value:
            raise BadInput(f"{_label(_inside(name, key))} is missing")


def _items(value: list[Any], inner: Schema, _schema: Schema, name: str) -> None:
    for index, item in enumerate(value):
        check(item, inner, f"{name}[{index}]")


def _pattern(value: str, pattern: str, _schema: Schema, name: str) -> None:
    if not re.fullmatch(pattern, value):
        raise BadInput(f"{_label(name)} has the wrong form; it must match {pattern}")


def _bound(words: str, fits: Callable[[Any, int], bool]) -> Callable[[Any, int, Schema, str], None]:
    def refuse(value: Any, limit: int, _schema: Schema, name: str) -> None:
        if not fits(value, limit):
            raise BadInput(f"{_label(name)} {words.format(limit)}")

    return refuse


# In the order in which they are looked at: a misspelt member is told before the one that it leaves missing.
KEYWORDS: dict[str, Callable[[Any, Any, Schema, str], None]] = {
    "additionalProperties": _known,
    "properties": _members,
    "required": _required,
    "items": _items,
    "pattern": _pattern,
    "minimum": _bound("must be at least {}", lambda value, limit: value >= limit),
    "maximum": _bound("must be at most {}", lambda value, limit: value <= limit),
    "minLength": _bound("must have at least {} characters", lambda value, limit: len(value) >= limit),
    "maxLength": _bound("must have at most {} characters", lambda value, limit: len(value) <= limit),
    "maxItems": _bound("must have at most {} items", lambda value, limit: len(value) <= limit),
    "maxProperties": _bound("must have at most {} members", lambda value, limit: len(value) <= limit),
}


def _label(name: str) -> str:
    return f"member {name!r}" if name else "the body"


def _inside(name: str, key: str) -> str:
    """A member's name within its parents; cut, since it may come from outside."""
    return f"{name}.{key[:64]}" if name else key[:64]


def _article(kind: str) -> str:
    return kind if kind == "null" else f"{'an' if kind[0] in 'aio' else 'a'} {kind}"
