"""What a reload makes of two configurations: which keys it takes over, which not, and what is said of that.

Promises that no key is called reloaded that was not taken over. Must not know how anything is taken over.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Any

from bgproxy.config.document import ROOT
from bgproxy.config.keys import Path, dotted, leaves
from bgproxy.config.settings import NEEDS_RESTART, Settings
from bgproxy.rules.fleet import FleetState


def reload_diff(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """The keys that differ: those that a reload takes over, and those that need a restart. Dotted, sorted."""
    before, after = _values(old), _values(new)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    kept = [path for path in changed if path in NEEDS_RESTART or path[:1] in NEEDS_RESTART]
    return [dotted(path) for path in changed if path not in kept], [dotted(path) for path in kept]


def outcome(changed: list[str], new: Settings, state: FleetState | None, refused: str) -> tuple[int, str]:
    """A log level and one line for all that became of the `changed` keys (dotted).

    `refused`: why the releases were not taken over, or nothing. `state`: the fleet's, after that; a release that was
    staged by the API stays whatever the configuration says.
    """
    staged = {} if refused else _staged_over(new, state)
    left = _of_releases(changed, new.colors() if refused else staged)
    taken = ", ".join(key for key in changed if key not in left)
    if not refused and not left:
        return logging.INFO, f"reloaded: {taken or 'nothing has changed'}"
    stays = "; ".join(f"{color} holds {label}, which was staged there and stays" for color, label in staged.items())
    first = f"reloaded: {taken}; but " if taken else ""
    last = f" (not taken over: {', '.join(left)})" if left else ""
    return logging.ERROR, f"{first}{refused or stays}{last}"


def _staged_over(new: Settings, state: FleetState | None) -> dict[str, str]:
    """By color: the label of the release that was staged there, where the configuration says something else."""
    standing = state.releases if state is not None else {}
    return {
        color: standing[color].label
        for color, wanted in new.releases().items()
        if color in standing and standing[color].origin != "config" and not standing[color].same_content(wanted)
    }


def _of_releases(keys: list[str], colors: Collection[str]) -> list[str]:
    """Those of the dotted keys that say what these colors hold."""
    names = "|".join(map(re.escape, colors))
    own = re.compile(rf"colors\.({names})\..*|route\..*\.upstreams\.({names})")
    return [key for key in keys if own.fullmatch(key)]


def _values(settings: Settings) -> dict[Path, Any]:
    values = {path: value for path, _, value in leaves(ROOT, settings.written())}
    for number, token in enumerate(settings.admin().tokens):
        values["token", token.name, f"secret {number}"] = token.secret  # a file's content may change behind its name
    for number, digest in enumerate(settings.preview().tokens):
        values["token", "preview", f"secret {number}"] = digest
    return values
