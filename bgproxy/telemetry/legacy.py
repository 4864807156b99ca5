"""What a worker leaves behind when it dies: its counters, in a file of its host's runtime directory.

Its successor goes on from there, and while there is none its siblings tell the counters for it. Whoever saves before
telling keeps a promise with that: no total that anybody has seen ever falls. The file is not synced to the disk: what
it has to survive is a process, not the machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from bgproxy.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

SAVE_INTERVAL = 1.0  # seconds between two savings of the counters for a successor


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


class Estate:
    """What a worker takes over from the one before it in its place, and leaves to the next one."""

    def __init__(self, directory: Path, slot: int, metrics: Metrics, collect: Callable[[], dict[str, Any]]) -> None:
        """`collect`: all that this worker has counted, with what it has taken over."""
        self._directory = directory
        self._slot = slot
        self._metrics = metrics
        self._collect = collect

    def carry_on(self) -> int:
        """Go on from where a dead predecessor in this place stood, so that the host's totals never fall.

        How many exchanges it held when it died.
        """
        left = read(self._directory, self._slot)
        if left is None:
            return 0
        try:
            return self._metrics.carry(left)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("the counters of the worker before are lost: %s", error)
        return 0

    def save(self) -> dict[str, Any]:
        """Leave what is counted by now; that."""
        metrics = self._collect()
        save(self._directory, self._slot, metrics)
        return metrics

    async def save_for_ever(self) -> None:
        """Save every second."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            self.save()
