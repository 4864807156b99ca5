"""Which keys a configuration may have, read off the classes that take the values; no second list to keep in step.

A key is a dotted path such as `timeouts.connect_timeout`. Where a table's names are free (`colors.<name>`), the same
keys stand under each name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A key with a value: its type and its default."""

    type: Any
    default: Any

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)


@dataclass(frozen=True, slots=True)
class Table:
    """A key with keys below it: known ones in `keys`, or any name, each followed by `each`."""

    keys: Mapping[str, Leaf | Table] = field(default_factory=dict)
    each: Leaf | Table | None = None
    short: str = ""  # the key that a plain value stands for: store = "redis://…" is store.url
    repeats: bool = False  # whether two may have one name

    def below(self, name: str) -> Leaf | Table | None:
        """What stands under a name; None where there is no such key."""
        return self.each if self.each is not None else self.keys.get(name)


@cache
def table_of(cls: type, *, hidden: frozenset[str] = frozenset(), short: str = "") -> Table:
    """The keys of an options dataclass, without those that are written elsewhere. Told apart once for each."""
    types = get_type_hints(cls)
    keys = {f.name: _node(types[f.name], _default(f)) for f in dataclasses.fields(cls) if f.name not in hidden}
    return Table(keys=keys, short=short)


def named(cls: type, *, repeats: bool = False) -> Table:
    """A table whose names are free, each holding the keys of `cls`."""
    return Table(each=table_of(cls), repeats=repeats)


def _node(kind: Any, default: Any) -> Leaf | Table:
    """A mapping to lists has free names; a mapping to anything is one value; None says that nothing was written."""
    if isinstance(kind, UnionType):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is dict and get_args(kind)[1] is not object:
        return Table(each=Leaf(get_args(kind)[1], ()))
    return Leaf(kind, default)


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def find(root: Table, path: Path) -> Leaf | Table | None:
    """What stands at a path; what lies inside a value (an item of a list) is the value's own key."""
    node: Leaf | Table | None = root
    for name in path:
        if not isinstance(node, Table):
            break
        node = node.below(name)
    return node


def leaves(table: Table, tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Leaf, Any]]:
    """Each key of the table with its value in `tree`; free names as far as the tree has them."""
    names = tree if table.each is not None else table.keys
    for name in names:
        node = table.below(name)
        value = tree.get(name)
        if isinstance(node, Table):
            yield from leaves(node, value if isinstance(value, Mapping) else {}, (*path, name))
        elif node is not None:
            yield (*path, name), node, value


def nearest(root: Table, path: Path, table: Table, spell: Callable[[Path], str]) -> str:
    """What may have been meant by an unknown key of `table`: a name beside it, else one like it elsewhere."""
    beside = difflib.get_close_matches(path[-1], list(table.keys), 1, 0.7)
    everywhere = {name: known for known in _all_paths(root) for name in (known[-1], "_".join(known))}
    elsewhere = difflib.get_close_matches(path[-1], list(everywhere), 1, 0.7)
    slip = bool(beside) and difflib.SequenceMatcher(None, path[-1], beside[0]).ratio() > 0.85
    if beside and (slip or path[-1] not in everywhere):  # else it is the right name in the wrong table
        return f"did you mean {spell((*path[:-1], beside[0]))}?"
    if elsewhere:
        return f"did you mean {spell(everywhere[elsewhere[0]])}?"
    return f"the keys here are {', '.join(table.keys)}"


def _all_paths(table: Table, path: Path = ()) -> Iterator[Path]:
    if table.each is not None:
        table = table.each if isinstance(table.each, Table) else Table()
        path = (*path, "<name>")
    for name, node in table.keys.items():
        yield (*path, name)
        if isinstance(node, Table):
            yield from _all_paths(node, (*path, name))


def dotted(path: Path) -> str:
    """The path as it is written in messages."""
    return ".".join(path)
