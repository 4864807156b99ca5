"""What came of trying something on each upstream, put together to one finding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bgproxy.rollout.gates.ask import Upstream, upstream
from bgproxy.rules.gate import Answer, Finding, Verdict

AT_ONCE = 8  # upstreams that are asked side by side
_TOLD = 3  # faults that are told of one upstream


@dataclass(slots=True)
class Tried:
    """What was asked of one upstream, and how it failed."""

    url: str
    faults: list[str] = field(default_factory=list)
    answers: list[tuple[str, Answer]] = field(default_factory=list)

    def note(self, what: str, answer: Answer) -> Answer:
        """Keep an answer as evidence."""
        self.answers.append((what, answer))
        return answer

    def fail(self, *faults: str) -> None:
        """Something is not as it should be."""
        self.faults.extend(faults)

    def evidence(self) -> Iterator[dict[str, Any]]:
        """The answers, the last one first: it is what a failing upstream failed by."""
        for what, answer in reversed(self.answers):
            yield {"upstream": self.url, "asked": what, **answer.evidence()}


def items_of(document: Mapping[str, Any], name: str) -> list[Any]:
    """A member of what an agent says as the list that it should be; empty where it is none."""
    found = document.get(name)
    return found if isinstance(found, list) else []


class Broken(Exception):
    """A conversation cannot go on; the text says what the agent did."""


async def on_each(urls: Sequence[str], one: Callable[[Upstream, Tried], Awaitable[None]]) -> Finding:
    """Try `one` on every upstream; all must pass. What raises `Broken` fails."""
    if not urls:
        return Finding(Verdict.FAIL, "the release has no upstream for this route")
    limit = asyncio.Semaphore(AT_ONCE)

    async def attempt(url: str) -> Tried:
        tried = Tried(url)
        async with limit, upstream(url) as agent:
            try:
                await one(agent, tried)
            except Broken as error:
                tried.fail(str(error))
        return tried

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(url)) for url in urls]
    return together([task.result() for task in tasks])


def together(tried: Sequence[Tried]) -> Finding:
    """FAIL where one upstream failed, those first in the evidence."""
    failed = [one for one in tried if one.faults]
    ordered = [*failed, *(one for one in tried if not one.faults)]
    evidence = {"answers": [entry for one in ordered for entry in one.evidence()]}
    if failed:
        why = "; ".join(f"{one.url}: {', '.join(one.faults[:_TOLD])}" for one in failed)
        return Finding(Verdict.FAIL, why, {"faults": {one.url: one.faults[:20] for one in failed}, **evidence})
    answers = [answer for one in tried for _, answer in one.answers]
    slowest = max((answer.latency for answer in answers), default=0.0)
    why = f"upstreams {len(tried)}, answers {len(answers)}, the slowest took {slowest:.3f} s"
    return Finding(Verdict.PASS, why, evidence)
