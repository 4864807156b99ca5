"""A canary's synthetic traffic: requests that the leading node makes itself, so that a fleet with little has samples.

They go straight to the idle color's upstreams, beside the data path, so no node's windows know of them. They are few,
so they are made in this process, and they end with the block that they run for, whatever ends that.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from bgproxy.rollout.gates.ask import Upstream, fault_of, upstream
from bgproxy.rollout.gates.load import targets
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rules.plan import Synthetic
from bgproxy.rules.window import LEAST, Times, Window
from bgproxy.tasks import spawn, stop

MOST_OPEN: Final = 32  # requests at once; what is due then is left out
_KINDS: Final = 16  # of errors that are counted by what they are, and …
_KINDS_TOLD: Final = 4  # … that are told

Sleep = Callable[[float], Awaitable[object]]


class Traffic:
    """What is sent, and what came of it so far."""

    def __init__(self, plan: Synthetic, fields: dict[str, str], body: bytes) -> None:
        self._plan = plan
        self._fields = fields
        self._body = body
        self._sent = self._answered = self._left_out = self._open = 0
        self._parts: Counter[int] = Counter()  # of whole answers
        self._kinds: Counter[str] = Counter()  # of errors
        self._task: asyncio.Task[None] | None = None

    @property
    def window(self) -> Window:
        """Answers and errors so far. What is still open is neither."""
        times = Times(dict(self._parts))
        return Window(self._answered, self._kinds.total(), times, times)

    def evidence(self) -> dict[str, Any]:
        """As plain JSON values; p95 in seconds, where there was a whole answer."""
        told: dict[str, Any] = {"sent": self._sent, "answers": self._answered, "errors": self._kinds.total()}
        if self._parts:
            told["p95"] = round(Times(dict(self._parts)).quantile(0.95), 6)
        if self._left_out:
            told["left_out"] = self._left_out
        if self._kinds:
            told["kinds"] = dict(self._kinds.most_common(_KINDS_TOLD))
        return told

    def start(self, upstreams: Iterable[Upstream]) -> None:
        """Begin to send."""
        self._task = spawn(self.run(upstreams), "send synthetic traffic")

    async def stop(self) -> None:
        """Send no more; what is open is broken off."""
        await stop(self._task)

    def check(self) -> None:
        """Raises what it died of, if it did."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def run(self, upstreams: Iterable[Upstream], sleep: Sleep = asyncio.sleep) -> None:
        """Send until cancelled, each upstream in its turn. What was missed while this node stood still is not made up
        for: it would come all at once, and be held against the release."""
        following = itertools.cycle(upstreams)
        async with asyncio.TaskGroup() as group:
            while True:
                if self._open < MOST_OPEN:
                    self._open += 1
                    self._sent += 1
                    group.create_task(self._ask(next(following)))
                else:
                    self._left_out += 1
                await sleep(1.0 / self._plan.rate)

    async def _ask(self, agent: Upstream) -> None:
        plan = self._plan
        try:
            answer = await agent.ask(plan.method, plan.path, fields=self._fields, body=self._body, timeout=plan.timeout)
        finally:
            self._open -= 1
        self._answered += 1
        if fault := fault_of(answer, plan.expect_status):
            self._kinds[fault if fault in self._kinds or len(self._kinds) < _KINDS else "others"] += 1
        else:
            self._parts[bisect_right(LEAST, answer.latency) - 1] += 1


@asynccontextmanager
async def sending(plan: Synthetic | None, trial: Trial) -> AsyncIterator[Traffic | None]:
    """Traffic for as long as the block runs; None where the plan has none. Raises `Unanswerable`."""
    if plan is None:
        yield None
        return
    urls, fields, body = targets(plan, trial)
    if not urls:
        raise Unanswerable("synthetic traffic: the release has no upstream for this route")
    traffic = Traffic(plan, fields, body)
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(upstream(url)) for url in urls]
        traffic.start(upstreams)
        try:
            yield traffic
        finally:
            await traffic.stop()
