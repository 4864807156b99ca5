"""Where values come from: a TOML file, the environment, the command line. Each becomes a tree of known keys.

Refuses here, with the nearest right name, whatever is not a key; whether a value is any good is decided later.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from bgproxy.config.keys import Leaf, Path, Table, dotted, find, nearest
from bgproxy.config.wording import not_of_type, shown
from bgproxy.errors import ConfigError

PREFIX = "BGPROXY_"
CLIENT_VARIABLES = frozenset({"BGPROXY_ADMIN", "BGPROXY_TOKEN", "BGPROXY_CONFIG"})
"""What the command line reads for itself. The server's own addresses are BGPROXY_ADMIN__LISTEN and so on."""

REPEAT = "#"
"""Stands between a name that is taken already and a number; no name has it."""

_SERVICE_LINK = re.compile(
    r"BGPROXY_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets in every container beside a Service that is called bgproxy; not ours, so not an error."""

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(slots=True)
class Layer:
    """One source: its values by key, where each came from, and what is wrong with it."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def from_file(path: FilePath, root: Table) -> Layer:
    """The keys of a TOML file. Raises ConfigError where it cannot be read or is no TOML."""
    layer = Layer()
    layer.tree = _Reading(layer, root, f"file {path}").table(read_toml(path), root, ())
    return layer


def from_flags(flags: Mapping[str, Any], root: Table) -> Layer:
    """The keys given on the command line, in the shape of the file."""
    layer = Layer()
    layer.tree = _Reading(layer, root, "command line").table(flags, root, ())
    return layer


def from_environment(environ: Mapping[str, str], root: Table) -> Layer:
    """The keys of BGPROXY_… variables, `__` between the parts. An empty variable counts as not set.

    A list is separated by commas or written as JSON; a whole section may be written as JSON.
    """
    layer = Layer()
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith(PREFIX) or not text or name in CLIENT_VARIABLES or _SERVICE_LINK.fullmatch(name):
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        try:
            value = _from_text(text, find(root, path))
        except ValueError as error:
            layer.faults.append(f'{name}: this is no JSON: {error}; write for example \'["a", "b"]\'')
            continue
        reading = _Reading(layer, root, f"environment variable {name}", variable=True)
        _merge(layer.tree, reading.table(_nest(path, value), root, ()))
    return layer


def variable(path: Path) -> str:
    """The environment variable of a key."""
    return PREFIX + "__".join(path).upper()


def read_toml(path: FilePath) -> dict[str, Any]:
    """The tables of a file. Raises ConfigError naming the file and, where it is malformed, line and column."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name a file that can be") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_malformed(path, text, str(error))) from None


def _malformed(path: FilePath, text: str, message: str) -> str:
    at = _AT.search(message)
    lines = text.split("\n")
    line, column = (at[1], at[2]) if at and at[1] else (len(lines), len(lines[-1]) + 1)
    what = _AT.sub("", message)
    return f"{path}, line {line}, column {column}: {what}; correct the TOML there"


def _from_text(text: str, node: Leaf | Table | None) -> Any:
    is_text = isinstance(node, Leaf) and node.type is str
    if not is_text and text[0] in "[{":
        return json.loads(text)
    if isinstance(node, Leaf) and node.is_list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _nest(path: Path, value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value  # type: ignore[no-any-return]  # a path has at least one name


def _merge(into: dict[str, Any], tree: Mapping[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


class _Reading:
    """One walk over a source's tree beside the tree of known keys."""

    def __init__(self, layer: Layer, root: Table, origin: str, *, variable: bool = False) -> None:
        self._layer = layer
        self._root = root
        self._origin = origin
        self._variable = variable

    def table(self, value: Any, table: Table, path: Path) -> dict[str, Any]:
        """The known keys of a table's value, in the one shape that all sources share."""
        if isinstance(value, list) and isinstance(table.each, Table):
            value = self._by_name(value, table, path)
        if not isinstance(value, Mapping):
            if not table.short:
                self._fault(path, f"{shown(path, value)} is not a table; write [{dotted(path)}] and its keys below it")
                return {}
            value = {table.short: value}
        found: dict[str, Any] = {}
        for name, item in value.items():
            node = table.below(name)
            if node is None:
                self._unknown((*path, name), table)
            elif isinstance(node, Table):
                found[name] = self.table(item, node, (*path, name))
            else:
                found[name] = self._leaf(item, node, (*path, name))
        return found

    def _leaf(self, value: Any, leaf: Leaf, path: Path) -> Any:
        self._layer.origins[path] = self._origin
        if leaf.is_list and isinstance(value, str):
            return [value]
        if leaf.is_number and isinstance(value, bool):  # pydantic would take true for 1
            self._fault(path, not_of_type(path, leaf, value))
        return value

    def _by_name(self, items: list[Any], table: Table, path: Path) -> dict[str, Any]:
        """[[route]] and [[token]] as tables by name: so that sources can be laid over one another."""
        named: dict[str, Any] = {}
        for number, item in enumerate(items, start=1):
            place = (f"{dotted(path)}[{number}]",)
            if not isinstance(item, Mapping):
                self._fault(place, f"this is not a table; write [[{dotted(path)}]] and its keys below it")
                continue
            name = item.get("name")
            if not isinstance(name, str) or not name:
                self._fault((*place, "name"), f'this {path[-1]} has no name; write for example name = "chat"')
                continue
            if name in named and not table.repeats:
                self._fault((*place, "name"), f'there are two of the name "{name}"; give each its own')
            key = f"{name}{REPEAT}{number}" if name in named else name
            named[key] = {key: value for key, value in item.items() if key != "name"}
        return named

    def _unknown(self, path: Path, table: Table) -> None:
        meant = nearest(self._root, path, table, variable if self._variable else dotted)
        if self._variable:
            self._layer.faults.append(f"{variable(path)}: there is no such key; {meant}")
        else:
            self._fault(path, f"there is no such key; {meant}")

    def _fault(self, path: Path, text: str) -> None:
        self._layer.faults.append(f"{dotted(path)}: {text} ({self._origin})")
