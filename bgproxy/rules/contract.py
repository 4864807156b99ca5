"""What agents expose, as names with schemas, and what a new release takes away from it.

A part is *removed* where its name is gone, *narrowed* where the schema of what it takes refuses something that it took
(JSON Schema 2020-12: a new required member, fewer types or values, tighter bounds), or where the schema of what it
gives promises less. What is new or wider is no difference. Combinations that cannot be compared member by member
(allOf, not, if) are taken for equal: this finds what breaks clients, it proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bgproxy.rules.assertion import same, shown

Schema = Any  # an object, or true and false
Kind = Literal["removed", "narrowed"]

MOST: Final = 100  # differences that are looked for
_DEPTH: Final = 24  # of schemas within schemas
_WORK: Final = 20_000  # schemas of one part that are looked at

_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that clients use. `takes`, `gives`: schemas; None where there is none to compare."""

    takes: Schema = None
    gives: Schema = None


@dataclass(frozen=True, slots=True)
class Contract:
    """All that is exposed under one protocol, by name. `root`: the document that `$ref`s in the schemas lead into."""

    parts: Mapping[str, Part]
    root: Any = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that clients of the old release had."""

    kind: Kind
    what: str


def compare(old: Contract, new: Contract) -> list[Difference]:
    """What the new one takes away, at most `MOST` differences."""
    found: list[Difference] = []
    for name, part in old.parts.items():
        if name not in new.parts:
            found.append(Difference("removed", name))
            continue
        pair = _Pair(old.root, new.root)
        whys = [*pair.takes(part.takes, new.parts[name].takes, ""), *pair.gives(part.gives, new.parts[name].gives, "")]
        found += [Difference("narrowed", f"{name} {why}") for why in dict.fromkeys(whys)]
    return found[:MOST]


class _Pair:
    """Two documents whose schemas are compared."""

    def __init__(self, old_root: Any, new_root: Any) -> None:
        self._old = old_root
        self._new = new_root
        self._left = _WORK
        self._open: set[tuple[int, int]] = set()  # a schema within itself says nothing new

    def takes(self, old: Schema, new: Schema, at: str, depth: int = 0) -> Iterator[str]:
        """How `new` refuses what `old` took. `at`: where that is, as a JSON pointer into a value."""
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if not isinstance(old, Mapping) or new is None or new is True:
            return
        if not isinstance(new, Mapping):
            yield f"takes nothing any more{_here(at)}"
            return
        with self._looking(old, new, depth) as is_new:
            if is_new:
                yield from self._takes(old, new, at, depth)

    def _takes(self, old: Mapping[str, Any], new: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        if "anyOf" in old or "oneOf" in old or "anyOf" in new or "oneOf" in new:
            for one in _alternatives(old):
                if all(any(True for _ in self.takes(one, other, at, depth + 1)) for other in _alternatives(new)):
                    yield f"does not take all alternatives any more{_here(at)}"
            return
        yield from _fewer_types(_types(old), _types(new), f"does not take {{}} any more{_here(at)}")
        yield from _fewer_values(old, new, at)
        yield from _tighter(old, new, at)
        yield from self._members_taken(old, new, at, depth)
        if isinstance(new.get("items"), Mapping):
            yield from self.takes(old.get("items", {}), new["items"], f"{at}/*", depth + 1)

    def gives(self, old: Schema, new: Schema, at: str, depth: int = 0) -> Iterator[str]:
        """How `new` breaks what `old` promised."""
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        if not isinstance(old, Mapping):
            return
        if not isinstance(new, Mapping):
            if old:
                yield f"promises nothing of what it gives any more{_here(at)}"
            return
        with self._looking(old, new, depth) as is_new:
            if is_new:
                yield from self._gives(old, new, at, depth)

    def _gives(self, old: Mapping[str, Any], new: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        if "anyOf" in old or "oneOf" in old or "anyOf" in new or "oneOf" in new:
            for other in _alternatives(new):
                if all(any(True for _ in self.gives(one, other, at, depth + 1)) for one in _alternatives(old)):
                    yield f"may give an alternative that it did not give{_here(at)}"
            return
        yield from _fewer_types(_types(new), _types(old), f"may give {{}} now{_here(at)}")
        if _values(old) is not None:
            fresh = [value for value in _values(new) or [] if not any(same(value, one) for one in _values(old) or [])]
            if fresh or _values(new) is None:
                yield f"may give {shown(fresh[0]) if fresh else 'any value'} now{_here(at)}"
        for name in _required(old):
            if name not in _required(new):
                yield f"does not promise {name} any more{_here(at)}"
        for name, schema in _properties(old).items():
            if name in _properties(new):
                yield from self.gives(schema, _properties(new)[name], f"{at}/{name}", depth + 1)
            elif name not in _required(old):
                yield f"does not give {name} any more{_here(at)}"
        if isinstance(old.get("items"), Mapping):
            yield from self.gives(old["items"], new.get("items"), f"{at}/*", depth + 1)

    @contextmanager
    def _looking(self, old: object, new: object, depth: int) -> Iterator[bool]:
        """Whether these two are worth a look."""
        pair = (id(old), id(new))
        self._left -= 1
        if pair in self._open or depth > _DEPTH or self._left < 0:
            yield False
            return
        self._open.add(pair)
        try:
            yield True
        finally:
            self._open.discard(pair)

    def _members_taken(self, old: Mapping[str, Any], new: Mapping[str, Any], at: str, depth: int) -> Iterator[str]:
        for name in _required(new):
            if name not in _required(old):
                yield f"requires {name}{_here(at)}"
        rest = new.get("additionalProperties", True)
        for name, schema in _properties(old).items():
            if name in _properties(new):
                yield from self.takes(schema, _properties(new)[name], f"{at}/{name}", depth + 1)
            else:
                yield f"does not know {name} any more{_here(at)}"
        if rest is False and old.get("additionalProperties", True) is not False:
            yield f"takes no further members any more{_here(at)}"


def _resolved(schema: Schema, root: Any) -> Schema:
    """The schema that a chain of local `$ref`s leads to; one that leads nowhere is taken for anything."""
    for _ in range(_DEPTH):
        ref = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(ref, str):
            return schema
        schema = root if ref.startswith("#") else None
        for part in ref.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name) if isinstance(schema, Mapping) else None
    return None


def _alternatives(schema: Mapping[str, Any]) -> list[Any]:
    found = schema.get("anyOf") or schema.get("oneOf")
    return found if isinstance(found, list) else [schema]


def _types(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """None: any."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    return frozenset(map(str, kind)) if isinstance(kind, list) else None


def _fewer_types(old: frozenset[str] | None, new: frozenset[str] | None, text: str) -> Iterator[str]:
    if new is None:
        return
    if old is None:
        yield text.format(f"anything but {' or '.join(sorted(new))}")
        return
    gone = {kind for kind in old - new if not (kind == "integer" and "number" in new)}
    if gone:
        yield text.format(" or ".join(sorted(gone)))


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """The values that alone are possible; None: any."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _fewer_values(old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[str]:
    before, after = _values(old), _values(new)
    if after is None:
        return
    if before is None:
        yield f"takes {' or '.join(map(shown, after[:3]))} only{_here(at)}"
        return
    gone = [value for value in before if not any(same(value, one) for one in after)]
    if gone:
        yield f"does not take {' or '.join(map(shown, gone[:3]))} any more{_here(at)}"


def _tighter(old: Mapping[str, Any], new: Mapping[str, Any], at: str) -> Iterator[str]:
    for names, sign in ((_LOWER, 1), (_UPPER, -1)):
        for name in names:
            before, after = old.get(name), new.get(name)
            kept = isinstance(before, int | float) and isinstance(after, int | float) and sign * after <= sign * before
            if isinstance(after, int | float) and not kept:
                yield f"has {name} {after:g} now{_here(at)}"
    for name in ("pattern", "multipleOf"):
        if name in new and not same(new[name], old.get(name)):
            yield f"has {name} {shown(new[name])} now{_here(at)}"


def _required(schema: Mapping[str, Any]) -> list[str]:
    found = schema.get("required")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _here(at: str) -> str:
    return f" (at {at})" if at else ""
