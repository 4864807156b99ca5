"""kind = "replay": recorded sessions are had once more with the idle color, turn by turn, and its answers compared.

Ids that the agent makes now stand in for those it made then. What was redacted is left out of a request's head, so
credentials come from the gate's own fields. Sessions run side by side, a few at a time; each stays at one upstream, as
a live one does, and ends at its first turn that differs. A record that cannot be used is named and left out.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bgproxy.rollout.gates.ask import KEPT_BYTES, Upstream, upstream
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.records import Broken, Records
from bgproxy.rules.comparing import ReplayGate
from bgproxy.rules.gate import Answer, Finding, Verdict
from bgproxy.rules.likeness import Likeness, Told, documents_of, pointers
from bgproxy.rules.mirrored import MARKER
from bgproxy.rules.redaction import REDACTED
from bgproxy.sessions.renaming import Renaming, Said
from bgproxy.telemetry.taken import Fields, value_of

_EXAMPLES: Final = 10
_SHOWN: Final = 12  # characters of a session's name
_NOT_SENT: Final = frozenset({"host", "accept-encoding", "idempotency-key", "traceparent", "tracestate"})


@dataclass(slots=True)
class Played:
    """One session. `turn`: the number of the one that differed, from 1; 0: none did."""

    session: str
    turns: int = 0
    slow: int = 0
    turn: int = 0
    asked: str = ""
    why: str = ""


@dataclass(slots=True)
class Replay:
    """All that was played. `left`: sessions that may still be begun."""

    left: int
    played: list[Played] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    in_time: bool = True


async def try_replay(gate: ReplayGate, trial: Trial) -> Finding:
    """Play the newest sessions."""
    if trial.records is None:
        raise Unanswerable(
            "the proxy that leads this run records no sessions: write [recording] in its configuration, and try again "
            "when sessions have been recorded"
        )
    names = await asyncio.to_thread(_sessions, trial.records)
    replay, fields = Replay(gate.sessions), trial.fields(gate.headers)
    waiting = iter(names)

    async def player() -> None:
        for name in waiting:
            await _one(gate, trial, fields, name, replay)
            if replay.left == 0:
                return

    try:
        async with asyncio.timeout(gate.duration), asyncio.TaskGroup() as group:
            for _ in range(gate.at_once):
                group.create_task(player())
    except TimeoutError:
        replay.in_time = False
    return judge(gate, replay)


def _sessions(records: Records) -> list[str]:
    try:
        return records.sessions()
    except OSError as error:
        raise Unanswerable(f"the recordings cannot be read: {error.strerror}") from None


async def _one(gate: ReplayGate, trial: Trial, fields: Mapping[str, str], name: str, replay: Replay) -> None:
    assert trial.records is not None, "it was looked at"
    if not replay.left:
        return
    replay.left -= 1  # before anything is waited for
    try:
        turns = await asyncio.to_thread(trial.records.read, name)
        urls = trial.upstreams(turns[0]["route"], "", "/")
    except (Broken, Unanswerable, KeyError, TypeError, ValueError) as error:
        why = str(error) if isinstance(error, Broken | Unanswerable) else "it was written by another version"
        replay.left += 1
        replay.skipped.append({"session": name[:_SHOWN], "why": why})
        return
    played = Played(name)
    replay.played.append(played)
    if not urls:
        played.turn, played.why = 1, "the release has no upstream for its route"
        return
    async with upstream(urls[len(replay.played) % len(urls)]) as agent:
        await _play(gate, agent, fields, turns[: gate.max_turns], played)


async def _play(
    gate: ReplayGate, agent: Upstream, own: Mapping[str, str], turns: Sequence[Mapping[str, Any]], played: Played
) -> None:
    likeness = Likeness(
        status="status" in gate.compare,
        shape="shape" in gate.compare,
        tools="tools" in gate.compare,
        slower=gate.max_latency_ratio or 0.0,
        slack=gate.latency_tolerance,
        ignored=pointers(gate.ignore),
    )
    renaming = Renaming()
    for number, turn in enumerate(turns, start=1):
        target = renaming.text(_target(turn["target"]))
        body = renaming.text(b64decode(turn["body"]).decode("utf-8", "surrogateescape"))
        fields = [(name, renaming.text(value)) for name, value in _sent(turn, own)]
        answer = await agent.ask(
            turn["method"],
            target,
            fields=[*fields, *own.items(), (MARKER, "1")],
            body=body.encode("utf-8", "surrogateescape"),
            timeout=gate.timeout,
        )
        # Not on the loop that serves: two large documents take tens of milliseconds.
        found, is_slow = await asyncio.to_thread(_compared, likeness, renaming, turn, answer)
        played.turns += 1
        played.slow += is_slow
        if found:
            played.turn, played.why = number, "; ".join(found)
            played.asked = f"{turn['method']} {target.partition('?')[0]}"
            return


def _compared(
    likeness: Likeness, renaming: Renaming, turn: Mapping[str, Any], answer: Answer
) -> tuple[list[str], bool]:
    """How the new answer differs, and whether it took too long. The ids in one that does not differ are learned."""
    old, new = _recorded(turn), _answered(answer)
    was, now = (Told(said.status, took, tuple(said.documents) or None) for said, took in (old, new))
    found = [answer.trouble] if answer.trouble else likeness.differences(was, now)
    if not found:
        renaming.learn(turn["method"], turn["target"], old[0], new[0])
    return found, likeness.is_slow(was, now)


def _target(target: str) -> str:
    """A recorded target without the parameters that were redacted."""
    path, mark, query = target.partition("?")
    kept = "&".join(pair for pair in query.split("&") if not pair.endswith(f"={REDACTED}"))
    return path + (mark + kept if kept else "")


def _sent(turn: Mapping[str, Any], own: Mapping[str, str]) -> Fields:
    left_out = _NOT_SENT | {name.lower() for name in own}
    host = [("Host", turn["host"])] if turn["host"] and "host" not in {name.lower() for name in own} else []
    kept = [(name, value) for name, value in turn["fields"] if name.lower() not in left_out and REDACTED not in value]
    return [*host, *kept]


def _recorded(turn: Mapping[str, Any]) -> tuple[Said, float]:
    fields: Fields = [(name, value) for name, value in turn["answer_fields"]]
    body = b64decode(turn["answer"]) if turn["answer"] is not None else b""
    found = documents_of(value_of(fields, "content-type"), "", body, KEPT_BYTES) if body else None
    return Said(turn["status"], fields, body, found or ()), turn["latency"]


def _answered(answer: Answer) -> tuple[Said, float]:
    whole = len(answer.body) == answer.size
    found = documents_of(answer.values("content-type") or "", "", answer.body, KEPT_BYTES) if whole else None
    return Said(answer.status, list(answer.fields), answer.body, found or ()), answer.latency


def judge(gate: ReplayGate, replay: Replay) -> Finding:
    """What all sessions come to."""
    played = replay.played
    turns, slow = sum(one.turns for one in played), sum(one.slow for one in played)
    differed = [one for one in played if one.turn]
    told = [
        {"session": one.session[:_SHOWN], "turn": one.turn, "asked": one.asked[:160], "why": one.why[:400]}
        for one in differed[:_EXAMPLES]
    ]
    evidence: dict[str, Any] = {"sessions": len(played), "turns": turns, "slow": slow, "differed": len(differed)}
    evidence |= {"examples": told, "skipped": replay.skipped[:_EXAMPLES]}
    first = f"; session {told[0]['session']}, turn {told[0]['turn']}: {told[0]['why']}" if told else ""
    if len(differed) > gate.max_differing * len(played):
        return Finding(Verdict.FAIL, f"{len(differed)} of {len(played)} sessions went otherwise{first}", evidence)
    if slow > gate.max_slow * turns:
        return Finding(Verdict.FAIL, f"{slow} of {turns} turns took too long beside their recording", evidence)
    if not replay.in_time:
        return Finding(
            Verdict.UNDECIDED,
            f"{len(played)} sessions were not over within {gate.duration:g} s: raise duration, or lower sessions",
            evidence,
        )
    if len(played) < gate.min_sessions:
        unused = f", {len(replay.skipped)} could not be used ({replay.skipped[0]['why']})" if replay.skipped else ""
        return Finding(
            Verdict.UNDECIDED,
            f"{len(played)} sessions were played, {gate.min_sessions} are needed{unused}: let more be recorded",
            evidence,
        )
    return Finding(Verdict.PASS, f"{len(played)} sessions, {turns} turns went as they were recorded{first}", evidence)
