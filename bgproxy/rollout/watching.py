"""How every node's windows come to one judgement: each tells its own in the store, once a second, and the node that
leads reads them all.

What is watched, and from when on, is read off the state (`rules/watch.py`) by each node at the moment at which it
applies it, right after its routing has. What a node told is kept until nobody tells of it any more, so that one that
died still counts. Nobody waits for this: while the store is away windows are told late, and none is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import orjson

from bgproxy.errors import StoreUnavailable
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding
from bgproxy.rules.watch import JUDGEMENT, watched
from bgproxy.rules.window import Window
from bgproxy.store.base import Store
from bgproxy.tasks import spawn, stop
from bgproxy.telemetry.windows import Key, Report, Windows, report_from, summed

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0  # seconds between two tellings
SILENT: Final = 3.0  # seconds without news, after which a node that is registered is named


class Reporter:
    """This node's part: it counts, and tells while something is watched."""

    def __init__(self, node_id: str, store: Store, windows: Windows) -> None:
        self._node_id = node_id
        self._store = store
        self._windows = windows
        self._epoch = 0
        self._task: asyncio.Task[None] | None = None

    def apply(self, state: FleetState) -> None:
        """A state is applied, and routed by."""
        if state.pointer.epoch != self._epoch:
            self._epoch = state.pointer.epoch
            self._windows.flipped()
        if (watch := watched(state)) != self._windows.watch:
            self._windows.begin(watch)

    def start(self) -> None:
        """Begin to count."""
        self._task = spawn(self._run(), "tell windows")

    async def stop(self) -> None:
        """Tell what came last, and stop."""
        await stop(self._task)
        self._windows.tick()
        await self._tell()

    async def _run(self) -> None:
        while True:
            try:
                self._windows.tick()
                await self._tell()
            except Exception:
                log.exception("the windows could not be told")
            await asyncio.sleep(INTERVAL)

    async def _tell(self) -> None:
        if not (name := self._windows.watch.name):
            return
        text = orjson.dumps(self._windows.report().document()).decode()
        with suppress(StoreUnavailable):  # the mirror tells of a store that is away
            await self._store.tell(name, self._node_id, text)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What all nodes told of what is watched, added up by color and label. `since`: it began; `before`: as baseline.

    `nodes`: how many told; `silent`: those registered, by id, of which there is no news.
    """

    since: Mapping[Key, Window] = field(default_factory=dict)
    before: Mapping[Key, Window] = field(default_factory=dict)
    nodes: int = 0
    silent: tuple[str, ...] = ()

    def evidence(self, left: float) -> dict[str, Any]:
        """Whose word a judgement rests on. `left`: seconds to its end."""
        told: dict[str, Any] = {"nodes": self.nodes, "left": round(left, 1)}
        return {**told, "silent": list(self.silent)} if self.silent else told


class Gatherer:
    """Reads what all nodes tell of one topic; to be asked again and again by whoever judges."""

    def __init__(self, store: Store, topic: str, clock: Callable[[], float] = monotonic) -> None:
        self._store = store
        self._topic = topic
        self._clock = clock
        self._began = clock()
        self._heard: dict[str, tuple[int, float]] = {}  # serials, and when each was seen first

    async def look(self) -> Gathered:
        """As of now. Raises `StoreUnavailable`."""
        reports = reports_of(await self._store.told(self._topic))
        now = self._clock()
        for node, report in reports.items():
            if self._heard.get(node, (0, 0.0))[0] != report.serial:
                self._heard[node] = report.serial, now
        silent = [
            node.id
            for node in await self._store.nodes()
            if now - self._heard.get(node.id, (0, self._began))[1] > SILENT
        ]
        since, before = (summed([getattr(one, part) for one in reports.values()]) for part in ("since", "before"))
        return Gathered(since, before, len(reports), tuple(silent))

    async def tell(self, found: Finding, *, held: bool = False) -> None:
        """Tell whoever follows the release what it comes to as of now. `held`: its time is over, and it goes on."""
        found = found.bounded()
        told = {"verdict": str(found.verdict), "why": found.why, "held": held, **found.evidence}
        with suppress(StoreUnavailable):
            await self._store.tell(self._topic, JUDGEMENT, orjson.dumps(told).decode())


def reports_of(told: Mapping[str, str]) -> dict[str, Report]:
    """By node; what cannot be understood is left out, as another version's may be."""
    found: dict[str, Report] = {}
    for node, text in told.items():
        if node == JUDGEMENT:
            continue
        try:
            found[node] = report_from(orjson.loads(text))
        except (KeyError, TypeError, ValueError):
            log.debug("the windows that %s told are not understood", node)
    return found
