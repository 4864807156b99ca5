"""Who runs a release's plan: the node that leads takes one step after the other, and puts each on record.

Every node looks at the run in the fleet's state. The one that is named there as its leader leads it; where that is not
live any more, the first one that finds out takes over, and goes on with the first step that is not done. Leading ends
with the state: an abort, a flip by hand or another leader cancels the step that is under way, with all that it started.
Must not know how a gate is tried, only what its verdict leads to.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from bgproxy.errors import BadInput, ConfigError, Problem, StoreUnavailable
from bgproxy.rollout.bake import bake
from bgproxy.rollout.cut_over import cut_over
from bgproxy.rollout.flip import Switch
from bgproxy.rollout.foreseen import missing
from bgproxy.rollout.gates.kinds import try_gate
from bgproxy.rollout.gates.trial import Trial, trial_of
from bgproxy.rollout.hooks import run_hook
from bgproxy.rollout.judges import unjudged
from bgproxy.rollout.leading import Absences, Bell, failed_in_itself, look_for_ever, put_on_record, rung
from bgproxy.rollout.live import LIVE, watch_live
from bgproxy.rollout.migrate import try_migration
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rollout.parity import try_parity
from bgproxy.rollout.ready import await_ready
from bgproxy.rollout.records import Records
from bgproxy.rules import running
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.plan import ManualGate, Plan
from bgproxy.rules.release import Release
from bgproxy.rules.route import RouteTable
from bgproxy.rules.run import (
    AFTER,
    APPROVAL,
    BAKE,
    BEFORE,
    FLIP,
    MIGRATE,
    PARITY,
    READY,
    Kind,
    Run,
    after_the_end,
    step_of,
)
from bgproxy.store.base import Store
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.store.once import Once
from bgproxy.tasks import spawn, stop

log = logging.getLogger(__name__)

HOLD = 5.0  # seconds between two tries to roll back what must not stay

ReadPlan = Callable[[Mapping[str, Any]], Plan]


class Conductor:
    """This node's part in every run."""

    def __init__(
        self,
        node_id: str,
        ledger: Ledger,
        mirror: Mirror,
        store: Store,
        switch: Switch,
        read_plan: ReadPlan,
        routes: Callable[[], RouteTable],
        options: RolloutOptions,
        health: HealthOptions,
        default: Mapping[str, Any],
        records: Records | None = None,
    ) -> None:
        """`read_plan`: a plan as it is written → as it is meant, raises ConfigError; `default`: the plan of who gives
        none, empty: there is none; `records`: sessions to replay, None: this host keeps none."""
        self.configure(options, health, default)
        self._node_id = node_id
        self._ledger = ledger
        self._mirror = mirror
        self._store = store
        self._switch = switch
        self._read_plan = read_plan
        self._routes = routes
        self._records = records
        self._bell = Bell(mirror)
        self._absences = Absences(store)
        self._leading: tuple[tuple[str, bool], asyncio.Task[None]] | None = None  # which run, and whether it was open
        self._task: asyncio.Task[None] | None = None

    def configure(self, options: RolloutOptions, health: HealthOptions, default: Mapping[str, Any]) -> None:
        """Take new options, for every next step, and another plan for every next run that is given none."""
        self.options, self.health, self._default = options, health, default

    def start(self) -> None:
        self._task = spawn(look_for_ever(self._bell, self._look, "the run"), "conduct releases")

    async def stop(self) -> None:
        """Lead no more, and let another node go on at once."""
        await stop(self._task)
        await self._let_go()
        if (run := self._unfinished()) is not None and run.leader == self._node_id:
            with suppress(Problem):
                await self._change_leader(run, "")

    # What is asked for

    async def begin(
        self,
        color: str,
        release: Release | None,
        written: Mapping[str, Any] | None,
        *,
        actor: str,
        reason: str,
        if_epoch: int | None = None,
        force: bool = False,
        once: Once | None = None,
        kind: Kind = "release",
    ) -> Outcome:
        """Begin to run a plan (None: the configured one), led by this node; see `rules.running.begin`.

        Raises `BadInput` for the plan's faults, and where there is none.
        """
        if written is None and not self._default:
            raise BadInput("plan is missing: give one, or write [release] in the proxy's configuration")
        written = self._default if written is None else written
        plan = self._plan(written)
        why = self.options.refuse(plan) or missing(plan, written, self._routes(), os.environ)
        state = self._mirror.state
        tried = state.active if kind == "bake" and state is not None else release
        if not why and tried is not None and state is not None:
            why = await unjudged(plan, Trial(color, tried, state.active, self._routes(), self.options), state)
        if why:
            raise BadInput(why)
        terms: dict[str, Any] = {"leader": self._node_id, "actor": actor, "reason": reason}
        terms |= {"at": await self._store.now(), "if_epoch": if_epoch, "force": force, "kind": kind}

        def decide(state: FleetState) -> Change | None:
            return running.begin(state, color, release, plan, written, **terms)

        return await self._ledger.make(decide, once=once)

    async def approve(self, gate: str, *, actor: str, reason: str) -> Outcome:
        """See `rules.running.approve`. An empty `gate`: the one that is waited for."""

        def decide(state: FleetState) -> Change | None:
            run = state.run
            name = gate or (run.next.removeprefix(APPROVAL) if run is not None else "")
            plan = self._plan(run.plan) if run is not None and run.is_open else Plan()
            manual = next((one for one in plan.gates if isinstance(one, ManualGate) and one.name == name), ManualGate())
            return running.approve(state, name, actor=actor, reason=reason, four_eyes=manual.four_eyes, by=manual.by)

        return await self._ledger.make(decide)

    async def abort(self, *, actor: str, reason: str) -> Outcome:
        """End the run: see `rules.running.abort`; once it has flipped, by a rollback."""
        state = await self._mirror.refresh()
        run = state.run if state is not None else None
        if state is not None and run is not None and run.is_open and run.has_flipped and run.kind != "bake":
            await self._switch.rollback(
                actor=actor, reason=reason or f"{run.id} is aborted", if_epoch=state.pointer.epoch, force=False
            )
            run_id, at = run.id, await self._store.now()
            return await self._ledger.make(lambda state: running.close(state, run_id, at=at))
        at = await self._store.now()
        return await self._ledger.make(lambda state: running.abort(state, actor=actor, reason=reason, at=at))

    # Leading

    async def _look(self) -> None:
        self._absences.begin()
        run = self._unfinished()
        if run is None or run.leader != self._node_id:
            await self._let_go()
        if run is None:
            return
        if run.leader == self._node_id:
            part = run.id, run.is_open
            if self._leading is None or self._leading[0] != part or self._leading[1].done():
                await self._let_go()
                work = self._lead(run.id) if run.is_open else self._tell(run.id)
                self._leading = part, spawn(work, f"lead {run.id}")
        elif not run.leader or await self._absences.is_gone(run.leader, run.id):  # one that leaves says so
            await self._take_over(run)

    async def _take_over(self, run: Run) -> None:
        if (await self._change_leader(run, self._node_id)).changed:
            log.warning("%s is gone, this node leads %s from now on", run.leader or "its leader", run.id)

    async def _change_leader(self, run: Run, leader: str) -> Outcome:
        at = await self._store.now()
        return await self._ledger.make(lambda state: running.take_over(state, run.id, run.leader, leader, at=at))

    async def _let_go(self) -> None:
        if self._leading is not None:
            _, task = self._leading
            self._leading = None
            await stop(task)

    async def _lead(self, run_id: str) -> None:
        """One step after the other, as long as this node leads."""
        while (run := self._mine(run_id)) is not None and (state := self._mirror.state) is not None:
            if running.misplaced(state) is not None:
                await self._put(partial(running.close, run_id=run_id))
            elif run.has_failed:
                await self._roll_back(run)
            else:
                began = monotonic()
                finding = await self._step(state, run, run.next)
                await self._record(run, finding, monotonic() - began)

    async def _tell(self, run_id: str) -> None:
        """Who is to be told of what it came to."""
        while (run := self._mine(run_id, is_open=False)) is not None and (state := self._mirror.state) is not None:
            finding = await self._step(state, run, after_the_end(run.tell[0]))
            await self._put(
                partial(running.told, run_id=run_id, leader=self._node_id, hook=run.tell[0], finding=finding)
            )

    async def _record(self, run: Run, finding: Finding, took: float) -> None:
        def decide(state: FleetState, *, at: float) -> Change | None:
            return running.record(state, run.id, self._node_id, run.next, finding, at=at, took=took)

        await self._put(decide)
        log.info("%s, %s: %s (%s)", run.id, run.next, finding.verdict, finding.why)

    async def _put(self, decide: Callable[..., Change | None]) -> None:
        await put_on_record(self._ledger, self._store, decide, "a step of the run")

    async def _step(self, state: FleetState, run: Run, name: str) -> Finding:
        try:
            return await self._found(state, run, name, self._plan(run.plan))
        except BadInput as error:
            return Finding(Verdict.UNDECIDED, f"this node does not understand the plan: {error.detail}")
        except Exception as error:
            return failed_in_itself(f"{run.id}, {name}", error)

    async def _found(self, state: FleetState, run: Run, name: str, plan: Plan) -> Finding:
        trial = trial_of(state, run, self._routes(), self.options, self._records)
        if name in LIVE:
            return await watch_live(name, run, plan, state, self._store, trial)
        if name == FLIP:
            return await cut_over(run, plan, trial, self._mirror, self._switch)
        if name == BAKE and plan.bake is not None:
            return await bake(plan.bake, run, trial, self._store, lambda: self._mirror.state)
        if name.startswith((BEFORE, AFTER)):
            hook = next(hook for hook in plan.hooks if hook.name == name.split(":", 2)[2])
            return await run_hook(hook, name, trial, run)
        if name.startswith(MIGRATE):
            return await try_migration(plan.migrate, name, state, trial, run)
        if name == READY:
            return await await_ready(trial.everywhere(), self.health, plan.ready_timeout)
        if name == PARITY:
            return await try_parity(plan.parity, trial)
        gate = next(gate for gate in plan.gates if step_of(gate) == name)
        if isinstance(gate, ManualGate):
            return await self._approval(run, gate)
        return await try_gate(gate, trial)

    async def _approval(self, run: Run, gate: ManualGate) -> Finding:
        """Wait until somebody approves, or the time for that is over by the store's clock."""
        while True:
            change = self._bell.next
            standing = self._mine(run.id)
            if standing is not None and gate.name in standing.approvals:
                return Finding(Verdict.PASS, f"{standing.approvals[gate.name]} approved it")
            with suppress(StoreUnavailable):
                if await self._store.now() >= run.since + gate.expires:
                    return Finding(Verdict.UNDECIDED, f"nobody approved it within {gate.expires:g} s")
            await rung(change)

    async def _roll_back(self, run: Run) -> None:
        """The bake has failed: back to where traffic came from, never onto a release that is down."""
        why = next(step.why for step in run.done if step.name == BAKE)
        try:
            await self._switch.rollback(
                actor=running.ACTOR, reason=f"bake of {run.label}: {why}", if_epoch=run.epoch + 1, force=False
            )
        except Problem as error:
            log.error("%s is bad and cannot be rolled back: %s (tried again in %g s)", run.label, error, HOLD)
            if not run.trouble:
                trouble = f"it is bad and cannot be rolled back, which is tried again and again: {error}"
                await self._put(partial(running.troubled, run_id=run.id, leader=self._node_id, why=trouble))
            await asyncio.sleep(HOLD)

    def _plan(self, written: Mapping[str, Any]) -> Plan:
        try:
            return self._read_plan(written)
        except ConfigError as error:
            raise BadInput(str(error)) from None

    def _unfinished(self) -> Run | None:
        """The run that is open, or of whose end somebody is still to be told."""
        run = self._mirror.state.run if self._mirror.state is not None else None
        return run if run is not None and (run.is_open or run.tell) else None

    def _mine(self, run_id: str, *, is_open: bool = True) -> Run | None:
        """The run of that id, while it is open (or over, with something left to do) and this node leads it."""
        run = self._unfinished()
        is_mine = run is not None and run.is_open == is_open and (run.id, run.leader) == (run_id, self._node_id)
        return run if is_mine else None
