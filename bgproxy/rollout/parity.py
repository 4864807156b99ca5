"""The second step of a run: is the idle color what the active one is? How many upstreams, which facts are declared, and
what agents expose to their clients. What is missing blocks or warns, as the plan has it.

A contract that the active color does not have is not looked for. One that only the new release lacks is removed as a
whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bgproxy.rollout.contracts import READERS
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.gates.tried import Broken
from bgproxy.rules.contract import Contract, compare
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Parity, Severity
from bgproxy.rules.release import Release

MOST_UPSTREAMS = 8  # of the idle color, whose contracts are read: its others run the same release
_TOLD = 5


@dataclass(slots=True)
class _Comparison:
    blocks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    compared: dict[str, Any] = field(default_factory=dict)

    def say(self, severity: Severity, text: str) -> None:
        if severity != "ignore":
            found = self.blocks if severity == "block" else self.warnings
            found.extend([text] if text not in found else [])


async def try_parity(parity: Parity, trial: Trial) -> Finding:
    """Compare both colors."""
    if trial.active is None:
        return Finding(Verdict.PASS, "nothing is active, so there is nothing to compare with")
    found = _Comparison()
    _declared(parity, trial, trial.active, found)
    if {parity.removed, parity.narrowed} != {"ignore"}:
        fields = trial.fields(parity.headers)
        for one in await asyncio.gather(*(_contract(name, parity, trial, fields) for name in parity.contracts)):
            found.blocks += one.blocks
            found.warnings += one.warnings
            found.compared |= one.compared
    evidence = {"compared": found.compared, "blocks": found.blocks, "warnings": found.warnings}
    if found.blocks:
        return Finding(Verdict.FAIL, _joined(found.blocks), evidence)
    warned = f"; warnings: {_joined(found.warnings)}" if found.warnings else ""
    compared = ", ".join(f"{name} {count} parts" for name, count in found.compared.items() if isinstance(count, int))
    return Finding(Verdict.PASS, f"compared: {compared or 'no contract'}{warned}", evidence)


def _declared(parity: Parity, trial: Trial, active: Release, found: _Comparison) -> None:
    for route in trial.routes.routes:
        old, new = len(active.upstreams_for(route.name)), len(trial.release.upstreams_for(route.name))
        if new < old:
            found.say(parity.upstreams, f"route {route.name} has {new} upstreams, the active color has {old}")
    missing = sorted(active.metadata.keys() - trial.release.metadata.keys())
    if missing:
        found.say(parity.metadata, f"not declared: {', '.join(missing)} (stage with --metadata)")
    both = sorted(active.metadata.keys() & trial.release.metadata.keys())
    changed = {name: [active.metadata[name], trial.release.metadata[name]] for name in both}
    found.compared["metadata"] = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}


async def _contract(name: str, parity: Parity, trial: Trial, fields: Mapping[str, str]) -> _Comparison:
    path, found = getattr(parity, name), _Comparison()
    try:
        old_urls, new_urls = trial.active_upstreams("", "", path), trial.upstreams("", "", path)
    except Unanswerable:  # no route of this fleet leads there, so no client comes there
        return found
    read = READERS[name]
    old: Contract | None = None
    for url in old_urls[:MOST_UPSTREAMS]:
        try:
            old = await read(url, path, fields, parity.timeout)
            break
        except Broken:
            continue
    if old is None:
        return found
    found.compared[name] = len(old.parts)
    for url in new_urls[:MOST_UPSTREAMS]:
        try:
            new = await read(url, path, fields, parity.timeout)
        except Broken as error:
            found.say(parity.removed, f"{name}: {url} does not have it any more: {error}")
            continue
        # Not on the loop that serves: a large OpenAPI document takes a tenth of a second.
        for one in await asyncio.to_thread(compare, old, new):
            severity = parity.removed if one.kind == "removed" else parity.narrowed
            found.say(severity, f"{name}: {one.what} is gone" if one.kind == "removed" else f"{name}: {one.what}")
    return found


def _joined(texts: list[str]) -> str:
    more = f" and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return "; ".join(texts[:_TOLD]) + more
