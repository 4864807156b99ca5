"""A release's plan as it is written in TOML, read into its options; each fault names its key, the problem, the remedy.

The written plan travels: a command line sends it, the store keeps it with the release that it is for, the node that
leads reads it again. So reading knows nothing of the host: what only a host can say (which programs may run there) is
asked by the one who runs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bgproxy.config import plan_checks
from bgproxy.config.keys import Leaf, Path, Table, dotted, find, nearest, table_of
from bgproxy.config.sources import read_toml
from bgproxy.config.wording import near, not_of_type, shown
from bgproxy.errors import ConfigError
from bgproxy.rules.action import Action, Decommission, Hook, Migrate
from bgproxy.rules.comparing import Mirror, ReplayGate
from bgproxy.rules.jury import PrometheusJudge, WebhookJudge
from bgproxy.rules.plan import (
    A2aGate,
    Bake,
    Canary,
    ChatGate,
    CommandGate,
    Gate,
    HttpGate,
    LoadGate,
    ManualGate,
    Match,
    McpGate,
    Parity,
    Plan,
    Slo,
    Synthetic,
    WebhookGate,
    WebsocketGate,
)

MAX_BYTES = 24_576  # as JSON: it stands in the fleet's state, which every node reads

KINDS: Mapping[str, type] = {
    "http": HttpGate,
    "mcp": McpGate,
    "a2a": A2aGate,
    "chat": ChatGate,
    "websocket": WebsocketGate,
    "command": CommandGate,
    "webhook": WebhookGate,
    "load": LoadGate,
    "manual": ManualGate,
    "replay": ReplayGate,
}

JUDGES: Mapping[str, type] = {"prometheus": PrometheusJudge, "webhook": WebhookJudge}

_T = TypeVar("_T")


_OPTIONAL: Mapping[str, type] = {"mirror": Mirror, "decommission": Decommission, "migrate": Migrate}
"""Sections that a plan may have, each a field of `Plan` by its name."""


_NESTED: Mapping[str, type] = {
    "slo": Slo,
    "synthetic": Synthetic,
    "expand": Action,
    "revert": Action,
    "contract": Action,
}
"""Keys of a section that are tables themselves."""


def _table(cls: type) -> Table:
    table = table_of(cls)
    nested = {name: table_of(inner) for name, inner in _NESTED.items() if name in table.keys}
    return Table(keys={**table.keys, **nested})


_GATES: Mapping[str, Table] = {kind: _table(cls) for kind, cls in KINDS.items()}
_BAKE = Table(keys={name: node for name, node in table_of(Bake).keys.items() if name != "judges"})
_ROOT = Table(
    keys={
        "ready_timeout": Leaf(float, Plan().ready_timeout),
        "parity": table_of(Parity),
        "gate": Table(),  # by kind
        "hook": table_of(Hook),
        "canary": _table(Canary),
        **{name: _table(cls) for name, cls in _OPTIONAL.items()},
        "bake": _BAKE,
    }
)


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """Made once: it takes milliseconds, and a node that leads reads its plan at each step, beside the traffic."""
    return TypeAdapter(cls)


def load_plan(path: FilePath) -> tuple[dict[str, Any], Plan]:
    """A file's plan, as it is written and as it is meant. Raises ConfigError, a line per key at fault."""
    tree = read_toml(path)
    return tree, plan_from(tree, f"file {path}")


def plan_from(tree: Mapping[str, Any], origin: str = "") -> Plan:
    """The plan that is written so. `origin`: where, for the texts. Raises ConfigError as `load_plan` does."""
    reading = _Reading()
    plan = reading.plan(tree)
    faults = reading.faults or list(plan_checks.faults(plan))
    if faults:
        after = f" ({origin})" if origin else ""
        raise ConfigError("\n".join(f"{dotted(path)}{': ' if path else ''}{text}{after}" for path, text in faults))
    return plan


class _Reading:
    """One walk over a written plan."""

    def __init__(self) -> None:
        self.faults: list[tuple[Path, str]] = []

    def plan(self, tree: Mapping[str, Any]) -> Plan:
        """What could be read of it; `faults` says whether that is all."""
        if fault := _size_fault(tree):
            self.faults.append(((), fault))
            return Plan()
        known = self._known(tree, _ROOT, ())
        plan = self._built(Plan, {name: known[name] for name in ("ready_timeout",) if name in known}, _ROOT, ())
        parity = self._section(Parity, known.get("parity", {}), "parity")
        gates, hooks = self._gates(known.get("gate", [])), self._hooks(known.get("hook", []))
        more: dict[str, Any] = {
            name: self._section(cls, known[name], name) for name, cls in _OPTIONAL.items() if name in known
        }
        bake = self._bake(known["bake"]) if "bake" in known else None
        canary = self._canary(known["canary"]) if "canary" in known else None
        plan = replace(plan or Plan(), parity=parity or Parity(), gates=gates, hooks=hooks, **more)
        return replace(plan, canary=canary, bake=bake)

    def _canary(self, written: Any) -> Canary | None:
        listed: list[Any] = []
        if isinstance(written, Mapping):
            listed = self._listed("canary.match", written.get("match", []))
            written = {name: value for name, value in written.items() if name != "match"}
        matches = [self._section(Match, item, f"canary.match[{number}]") for number, item in enumerate(listed, start=1)]
        canary = self._section(Canary, written, "canary")
        return canary and replace(canary, match=tuple(match for match in matches if match is not None))

    def _hooks(self, written: Any) -> tuple[Hook, ...]:
        found = []
        for number, item in enumerate(self._listed("hook", written), start=1):
            hook = self._section(Hook, item, f"hook[{number}]")
            found += [replace(hook, name=hook.name or f"hook-{number}")] if hook is not None else []
        return tuple(found)

    def _gates(self, written: Any) -> tuple[Gate, ...]:
        found = [self._gate(item, number) for number, item in enumerate(self._listed("gate", written), start=1)]
        return tuple(gate for gate in found if gate is not None)

    def _listed(self, name: str, written: Any) -> list[Any]:
        if isinstance(written, list):
            return written
        self._fault((name,), f"this is not a list of tables; write [[{name}]] before each {name}'s keys")
        return []

    def _gate(self, item: Any, number: int) -> Gate | None:
        gate: Gate | None = self._of_kind("gate", KINDS, item, number, f"gate[{number}]")
        return gate

    def _bake(self, written: Any) -> Bake | None:
        if not isinstance(written, Mapping):
            return self._section(Bake, written, "bake")
        own = {name: value for name, value in written.items() if name != "judge"}
        found = self._section(Bake, own, "bake", _BAKE)
        listed = self._listed("bake.judge", written.get("judge", []))
        judges = [
            self._of_kind("judge", JUDGES, item, number, f"bake.judge[{number}]")
            for number, item in enumerate(listed, start=1)
        ]
        return found and replace(found, judges=tuple(judge for judge in judges if judge is not None))

    def _of_kind(self, what: str, kinds: Mapping[str, type], item: Any, number: int, place: str) -> Any:
        """A table that says by `kind` which keys it has; None where it cannot be read."""
        if not isinstance(item, Mapping):
            self._fault((place,), f"this is not a table; write [[{place.partition('[')[0]}]] and its keys below it")
            return None
        kind = item.get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            fault = f"{shown((place,), kind)} is not known" if "kind" in item else f"this {what} has no kind"
            meant = near(kind, list(kinds)) if "kind" in item else f"write one of {', '.join(kinds)}"
            self._fault((place, "kind"), f"{fault}; {meant}")
            return None
        found: Any = self._section(kinds[kind], item, place)
        return found and replace(found, name=found.name or f"{kind}-{number}")

    def _section(self, cls: type[_T], written: Any, name: str, table: Table | None = None) -> _T | None:
        """A table's values as `cls`; None where they cannot be."""
        table = table or _table(cls)
        if not isinstance(written, Mapping):
            self._fault((name,), f"{shown((name,), written)} is not a table; write [{name}] and its keys below it")
            return None
        return self._built(cls, self._known(written, table, (name,)), table, (name,))

    def _known(self, written: Mapping[str, Any], table: Table, path: Path) -> dict[str, Any]:
        """The values of known keys, with tables where tables belong."""
        found: dict[str, Any] = {}
        for name, value in written.items():
            node = table.below(name)
            here = (*path, name)
            if node is None:
                self._fault(here, f"there is no such key; {_meant(here, table)}")
            elif isinstance(node, Leaf):
                # What pydantic would take too: true for 1, "1" for 1, 1 or "yes" for true.
                if (node.is_number and isinstance(value, bool | str)) or (
                    node.type is bool and not isinstance(value, bool)
                ):
                    self._fault(here, not_of_type(here, node, value))
                found[name] = [value] if node.is_list and isinstance(value, str | int) else value
            elif path == ():
                found[name] = value  # read by its own class
            elif isinstance(value, Mapping):
                found[name] = self._known(value, node, here)
            else:
                self._fault(here, f"{shown(here, value)} is not a table; write {{ … }} with its keys")
        return found

    def _built(self, cls: type[_T], values: Mapping[str, Any], table: Table, path: Path) -> _T | None:
        try:
            made: _T = _adapter(cls).validate_python(dict(values))  # type: ignore[arg-type]  # a class is hashable
            return made
        except ValidationError as error:
            for item in error.errors(include_url=False):
                inner = tuple(part for part in item["loc"] if isinstance(part, str))
                leaf, here = find(table, inner), (*path, *inner)
                text = not_of_type(here, leaf, item["input"]) if isinstance(leaf, Leaf) else "it cannot be used"
                self._fault(here, text)
        return None

    def _fault(self, path: Path, text: str) -> None:
        if (path, text) not in self.faults:
            self.faults.append((path, text))


def _meant(path: Path, table: Table) -> str:
    """What may have been meant by an unknown key: one beside it, or one of another kind of gate."""
    name = path[-1]
    kinds = [kind for kind, other in _GATES.items() if name in other.keys]
    if len(path) == 1 or not path[0].startswith("gate["):
        return nearest(_ROOT if len(path) == 1 else table, path, table, dotted)
    if len(path) == 2 and kinds:
        return f"gates of kind {' or '.join(kinds)} have it; the keys here are {', '.join(table.keys)}"
    if len(path) == 2 and name in table_of(Slo).keys:
        return f'it is a limit of a load gate; write kind = "load" and slo = {{ {name} = … }}'
    return nearest(table, path, table, dotted)


def _size_fault(tree: Mapping[str, Any]) -> str:
    try:
        size = len(json.dumps(tree, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        return (
            f"the plan holds a value that JSON cannot say ({error}); write dates as texts and numbers that are finite"
        )
    if size > MAX_BYTES:
        return f"the plan has {size} bytes as JSON, at most {MAX_BYTES} are taken; move long bodies into a command gate"
    return ""
