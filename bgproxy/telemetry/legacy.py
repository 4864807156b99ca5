"""What a worker leaves behind when it dies: its counters, in a file of its host's runtime directory.

Its successor goes on from there, and while there is none its siblings tell the counters for it. Whoever saves before
telling keeps a promise with that: no total that anybody has seen ever falls. The file is not synced to the disk: what
it has to survive is a process, not the machine.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)


def path_of(directory: Path, slot: int) -> Path:
    """The file of the worker in that place."""
    return directory / f"worker-{slot}.json"


def save(directory: Path, slot: int, metrics: dict[str, Any]) -> None:
    """Replace the file, whole, by a worker's last snapshot, gauges included.

    What goes wrong is only logged: counters are not worth a worker.
    """
    path = path_of(directory, slot)
    new = path.with_suffix(".new")
    try:
        new.write_bytes(orjson.dumps({"metrics": metrics}))
        new.replace(path)
    except OSError as error:
        log.debug("the counters were not saved: %s", error)


def read(directory: Path, slot: int) -> dict[str, Any] | None:
    """What was left in that place; None where there is nothing, or nothing that can be understood."""
    path = path_of(directory, slot)
    try:
        return dict(orjson.loads(path.read_bytes())["metrics"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the counters in %s are lost: %s", path, error)
        return None
