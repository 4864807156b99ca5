"""Live requests asked once more of the idle color, by every node, while a release's run stands at its step `mirror`.

The data path hands over copies of exchanges that have ended; what comes of them here is never waited for there. At
most `max_in_flight` requests are under way and `max_rate` begin per second on each node; beyond that they are counted
and left out, none waits. A node tells what it has seen with its beats, and whoever leads the run judges the lot.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any, Protocol

from bgproxy.errors import ConfigError, StoreUnavailable
from bgproxy.http1.head import RequestHead
from bgproxy.rollout.gates.ask import KEPT_BYTES, Upstream, upstream
from bgproxy.rules.comparing import Mirror
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Answer, Finding
from bgproxy.rules.likeness import Told, documents_of
from bgproxy.rules.mirrored import Repeating, Tally, judge, tally_from
from bgproxy.rules.plan import Plan
from bgproxy.rules.run import MIRROR, Run
from bgproxy.rules.variables import filled, unset
from bgproxy.store.base import Store
from bgproxy.store.mirror import Mirror as KnownState
from bgproxy.tasks import spawn, stop
from bgproxy.telemetry.taken import Fields, Take, Taken, Wants, fields_of, value_of

log = logging.getLogger(__name__)

NAME = "mirror"
INTERVAL = 0.5  # seconds between two looks at what the nodes tell
LAST_WORDS = 4.0  # seconds beyond the duration in which nodes may still tell what they saw: two beats

ReadPlan = Callable[[Mapping[str, Any]], Plan]


class Tap(Protocol):
    """Where copies of the live traffic come from."""

    def add(self, name: str, wants: Wants, take: Take) -> None:
        """Show this observer what passes from now on."""

    def remove(self, name: str) -> None:
        """Show it no more."""


class Mirroring:
    """This node's part."""

    def __init__(
        self, tap: Tap, known: KnownState, read_plan: ReadPlan, environ: Mapping[str, str] = os.environ
    ) -> None:
        """`read_plan`: a plan as it is written → as it is meant, raises ConfigError."""
        self._tap = tap
        self._known = known
        self._read_plan = read_plan
        self._environ = environ
        self._job: Job | None = None
        known.listen(self._heard)

    async def stop(self) -> None:
        """Mirror no more."""
        if self._job is not None:
            self._tap.remove(NAME)
            await self._job.stop()

    def report(self) -> dict[str, Any]:
        """What this node has seen for the run that is open; empty: nothing was asked of it."""
        job = self._job
        return {"run": job.run_id, **job.tally.document()} if job is not None else {}

    def _heard(self, state: FleetState) -> None:
        run = state.run
        job = self._job
        if job is not None and (run is None or not run.is_open or run.id != job.run_id):
            self._tap.remove(NAME)
            spawn(job.stop(), "end mirroring")
            self._job = job = None
        if run is None or not run.is_open:
            return
        if run.next == MIRROR and job is None:
            self._job = job = self._begun(run)
            if job is not None:
                self._tap.add(NAME, job.wants, job.take)
        elif run.next != MIRROR:
            self._tap.remove(NAME)

    def _begun(self, run: Run) -> Job | None:
        try:
            mirror = self._read_plan(run.plan).mirror
        except ConfigError as error:
            log.error("%s: this node does not understand the plan, and mirrors nothing: %s", run.id, error)
            return None
        if mirror is None:
            return None
        return Job(run, mirror, lambda: self._known.state, self._environ)


class Job:
    """What one node mirrors for one run."""

    def __init__(
        self, run: Run, mirror: Mirror, state: Callable[[], FleetState | None], environ: Mapping[str, str]
    ) -> None:
        self.run_id = run.id
        self.tally = Tally()
        self._color = run.color
        self._mirror = mirror
        self._rules = Repeating(mirror)
        self._likeness = self._rules.likeness()
        self._state = state
        self._tokens = 1.0
        self._filled_at = monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._agents: dict[str, Upstream] = {}
        self._fields: dict[str, str] | None = None
        if why := unset(" ".join(mirror.headers.values()), environ):
            self.tally.fail("nothing was mirrored", why)
        else:
            self._fields = {name: filled(text, environ) for name, text in mirror.headers.items()}

    async def stop(self) -> None:
        """Give up what is under way."""
        await stop(*self._tasks)
        await self._stack.aclose()

    # What the data path asks and tells

    def wants(self, request: RequestHead) -> bool:
        """Whether to copy a request: it may be one to repeat, it is drawn, and there is room for it."""
        path = request.target.partition(b"?")[0].decode("latin-1")
        if self._fields is None or not self._rules.may(request.method.decode(), path):
            return False
        return self._mirror.share >= 1 or random.random() < self._mirror.share

    def take(self, taken: Taken) -> None:
        """An exchange that is over: ask the idle color the same, unless that would be too much."""
        fields = self._along(taken)
        urls = self._urls(taken)
        if fields is None or not urls:
            return
        if not self._has_room():
            self.tally.dropped += 1
            return
        task = spawn(self._ask(taken, fields, random.choice(urls)), "mirror a request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _along(self, taken: Taken) -> Fields | None:
        """The fields to send; None where this one is not repeated."""
        state = self._state()
        if (
            state is None
            or not taken.complete
            or taken.color != state.pointer.active
            or taken.status >= 500
            or self._fields is None
        ):
            return None
        streams = value_of(fields_of(taken.answer_head), "content-type").startswith("text/event-stream")
        if streams and taken.method != "POST":
            return None  # it may go on for ever
        live = fields_of(taken.request_head)
        if not self._rules.repeats(taken.method, taken.body, live):
            return None
        return self._rules.fields(live, [one.decode("latin-1") for one in taken.session_ids], self._fields)

    def _urls(self, taken: Taken) -> tuple[str, ...]:
        state = self._state()
        release = state.releases.get(self._color) if state is not None else None
        return release.upstreams_for(taken.route) if release is not None else ()

    def _has_room(self) -> bool:
        """Whether one more may begin now; if so it has."""
        now, rate = monotonic(), self._mirror.max_rate
        self._tokens = min(max(rate, 1.0), self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1 or len(self._tasks) >= self._mirror.max_in_flight:
            return False
        self._tokens -= 1
        return True

    # Asking

    async def _ask(self, taken: Taken, fields: Fields, url: str) -> None:
        asked = f"{taken.method} {taken.path}"
        try:
            agent = self._agents.get(url)
            if agent is None:
                agent = self._agents[url] = await self._stack.enter_async_context(upstream(url))
            answer = await agent.ask(
                taken.method, taken.target, fields=fields, body=taken.body, timeout=self._mirror.timeout
            )
            if answer.trouble:
                self.tally.fail(asked, answer.trouble)
            else:
                # Not on the loop that serves: two large documents take milliseconds.
                found, is_slow = await asyncio.to_thread(self._compared, taken, answer)
                self.tally.note(asked, found, slow=is_slow)
        except Exception as error:
            log.exception("a request could not be mirrored")
            self.tally.fail(asked, type(error).__name__)

    def _compared(self, taken: Taken, answer: Answer) -> tuple[list[str], bool]:
        old, new = told_live(taken), told(answer)
        return self._likeness.differences(old, new), self._likeness.is_slow(old, new)


def told_live(taken: Taken) -> Told:
    """What a live answer said."""
    fields = fields_of(taken.answer_head)
    documents = None
    if taken.whole:
        kind, coding = value_of(fields, "content-type"), value_of(fields, "content-encoding")
        documents = documents_of(kind, coding, taken.answer, KEPT_BYTES)
    return Told(taken.status, taken.latency, documents)


def told(answer: Answer) -> Told:
    """What an answer said that was asked for beside the live traffic; its content coding is off already."""
    documents = None
    if len(answer.body) == answer.size:
        documents = documents_of(answer.values("content-type") or "", "", answer.body, KEPT_BYTES)
    return Told(answer.status, answer.latency, documents)


async def watch_mirror(run: Run, mirror: Mirror, store: Store) -> Finding:
    """The leader's part: wait for the time to be over, and judge what all nodes have seen."""
    nodes: dict[str, Tally] = {}
    while True:
        try:
            for node in await store.nodes():
                if node.mirrored.get("run") == run.id:
                    nodes[node.id] = tally_from(node.mirrored)
            over = await store.now() - run.since - mirror.duration
        except StoreUnavailable as error:
            log.debug("what the nodes have mirrored cannot be read now: %s", error)
        else:
            enough = sum(tally.sent for tally in nodes.values()) >= mirror.min_samples
            if over >= (0.0 if enough else LAST_WORDS):
                return judge(mirror, nodes)
        await asyncio.sleep(INTERVAL)
