"""The configuration on a screen: as TOML that could be a file again, or as plain values; every secret masked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bgproxy.config.document import ROOT
from bgproxy.config.keys import Leaf, Path, Table
from bgproxy.config.secrets import name_of
from bgproxy.config.settings import Settings
from bgproxy.config.wording import MASK
from bgproxy.store.address import redacted


def as_tree(settings: Settings) -> dict[str, Any]:
    """All keys with the values that hold, in the shape of the file."""
    tree: dict[str, Any] = _known(settings.written(), ROOT)
    tree["store"]["url"] = redacted(tree["store"]["url"])
    for name in ("route", "token"):
        tree[name] = [{"name": name_of(key), **item} for key, item in tree[name].items()]
    for token in tree["token"]:
        token["secret"] = MASK if token["secret"] else ""
    return tree


def as_toml(settings: Settings) -> str:
    """`as_tree` as TOML; beside each value that is not a default stands where it came from."""
    return "\n".join(_lines(as_tree(settings), settings.origins, ())) + "\n"


def _known(values: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Without the keys that are written elsewhere (the fleet of the store, the tokens of the admin plane), and without
    those that a route leaves to [sessions]: TOML has no word for nothing."""
    known: dict[str, Any] = {}
    for name, value in values.items():
        node = table.below(name)
        if isinstance(node, Table):
            known[name] = _known(value, node)
        elif isinstance(node, Leaf) and value is not None:
            known[name] = value
    return known


def _lines(tree: Mapping[str, Any], origins: Mapping[Path, str], path: Path) -> Iterator[str]:
    for name, value in tree.items():
        if not _is_table(value, (*path, name)):
            origin = origins.get((*path, name), "")
            yield f"{_key(name)} = {_value(value)}" + (f"  # {origin}" if origin else "")
    for name, value in tree.items():
        below = (*path, name)
        if isinstance(value, list) and _is_table(value, below):
            for item in value:
                yield from ("", f"[[{name}]]")
                yield from _lines(item, origins, (*below, item["name"]))
        elif _is_table(value, below):
            if any(not _is_table(item, (*below, key)) for key, item in value.items()):
                yield from ("", f"[{'.'.join(_key(part) for part in below)}]")
            yield from _lines(value, origins, below)


def _is_table(value: Any, path: Path) -> bool:
    """Tables get a header of their own, but for those inside a color or a route, which stand on one line."""
    if isinstance(value, list):
        return path in {("route",), ("token",)}
    return isinstance(value, Mapping) and path[-1] not in {"metadata", "upstreams"}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else _text(name)


def _text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's too, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
