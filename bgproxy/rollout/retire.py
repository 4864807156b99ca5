"""Takes down what is drained: the hook is run (scale to zero), and what that freed goes on record.

Orders stand in the fleet's state (`rules/retire.py`). Every node looks at them; the first one that finds one due leads
it, and where that is not live any more another goes on. So an order is carried out once; what it runs may be run twice,
under the same id, where a node died meanwhile. Where the plan says so, what is drained is ordered down by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from bgproxy.errors import ConfigError, Problem, Refused, StoreUnavailable
from bgproxy.rollout.gates.trial import Trial, about
from bgproxy.rollout.hooks import act
from bgproxy.rollout.leading import Absences, Bell, failed_in_itself, look_for_ever, put_on_record
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rules import retire
from bgproxy.rules.action import Action, Decommission
from bgproxy.rules.fleet import Change, FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Plan
from bgproxy.rules.release import Phase, Release, Retirement
from bgproxy.rules.route import RouteTable
from bgproxy.store.base import Store
from bgproxy.store.ledger import Ledger, Outcome
from bgproxy.store.mirror import Mirror
from bgproxy.tasks import spawn, stop

log = logging.getLogger(__name__)

ACTOR = "bgproxy"
STEP = "retire"
RIPE = frozenset({Phase.DRAINED, Phase.RETIRED})  # the second: its contract step is left

ReadPlan = Callable[[Mapping[str, Any]], Plan]


class Retirer:
    """This node's part in taking releases down."""

    def __init__(
        self,
        node_id: str,
        ledger: Ledger,
        mirror: Mirror,
        store: Store,
        read_plan: ReadPlan,
        routes: Callable[[], RouteTable],
        options: RolloutOptions,
        default: Mapping[str, Any],
    ) -> None:
        """`read_plan`: a plan as it is written → as it is meant, raises ConfigError. `default`: the configured one; its
        decommission counts where the plan that brought the successor has none, and after a flip by hand."""
        self._node_id = node_id
        self._ledger = ledger
        self._mirror = mirror
        self._store = store
        self._read_plan = read_plan
        self._routes = routes
        self.configure(options, default)
        self._bell = Bell(mirror)
        self._absences = Absences(store)
        self._leading: dict[str, asyncio.Task[None]] = {}  # by color
        self._task: asyncio.Task[None] | None = None

    def configure(self, options: RolloutOptions, default: Mapping[str, Any]) -> None:
        """Take new options and another configured plan, for everything that begins from now on."""
        self._options, self._default = options, default

    def start(self) -> None:
        self._task = spawn(look_for_ever(self._bell, self.look, "what is to be retired"), "retire releases")

    async def stop(self) -> None:
        """Lead no more, and let another node go on at once."""
        await stop(self._task)
        for color, task in list(self._leading.items()):
            await stop(task)
            release = self._release(color)
            if self._mine(release) is not None and release is not None:
                with suppress(Problem):
                    await self._lead(color, release.label, self._node_id, "")
        self._leading.clear()

    # What is asked for

    async def order(
        self, color: str, *, actor: str, reason: str, force: bool = False, when_drained: bool = False
    ) -> Outcome:
        """See `rules.retire.order`."""

        def decide(state: FleetState) -> Change | None:
            policy = self.policy(state.releases.get(color))
            terms = {"force": force, "when_drained": when_drained, "again": policy.automatic}
            return retire.order(state, color, window=policy.rollback_window, actor=actor, reason=reason, at=at, **terms)

        at = await self._store.now()
        return await self._ledger.make(decide)

    async def cancel(self, color: str, *, actor: str, reason: str) -> Outcome:
        """See `rules.retire.cancel`."""
        at = await self._store.now()
        return await self._ledger.make(lambda state: retire.cancel(state, color, actor=actor, reason=reason, at=at))

    def policy(self, release: Release | None) -> Decommission:
        """How a release is taken down: by the plan that brought its successor, by the configured one, or as is usual.

        Raises `Refused` where this node does not understand the first.
        """
        parting = release.parting if release is not None else {}
        written = parting if "decommission" in parting else self._default
        if "decommission" not in written:
            return Decommission()
        return self._read({"decommission": written["decommission"]}).decommission or Decommission()

    # Carrying it out

    async def look(self) -> None:
        """One look at all colors: what is due is begun, what a dead node has left is taken over."""
        self._absences.begin()
        state = self._mirror.state
        for color, task in list(self._leading.items()):
            if task.done() or self._mine(self._release(color)) is None:
                await stop(self._leading.pop(color))
        if state is None:
            return
        for color in state.colors:
            release = state.releases.get(color)
            if release is None or color == state.pointer.active:
                continue
            standing = release.retirement
            if standing is None or standing.is_over:
                await self._order_by_itself(color, release)
            elif standing.leader == self._node_id:
                if color not in self._leading:
                    self._leading[color] = spawn(self._carry_out(color, release.label), f"retire {color}")
            elif standing.leader:
                await self._watch_over(color, release, standing)
            elif release.phase in RIPE and retire.is_due(state, color, await self._store.now()):
                await self._lead(color, release.label, "", self._node_id)

    async def _order_by_itself(self, color: str, release: Release) -> None:
        """Where the plan says so: once it is drained and the window is over."""
        if release.phase is not Phase.DRAINED or release.retirement is not None:
            return
        # This node does not understand how, what it came from is still watched, or somebody was faster.
        with suppress(Refused):
            policy = self.policy(release)
            if policy.automatic and await self._store.now() >= release.idle_since + policy.rollback_window:
                await self.order(color, actor=ACTOR, reason="drained, and the rollback window has passed")

    async def _watch_over(self, color: str, release: Release, standing: Retirement) -> None:
        if not await self._absences.is_gone(standing.leader, color):
            return
        if (await self._lead(color, release.label, standing.leader, self._node_id)).changed:
            log.warning("%s is gone, this node retires %s from now on", standing.leader, release.label)

    async def _lead(self, color: str, label: str, before: str, leader: str) -> Outcome:
        at = await self._store.now()
        return await self._ledger.make(lambda state: retire.lead(state, color, label, before, leader, at=at))

    async def _carry_out(self, color: str, label: str) -> None:
        """Run the hook, and put on record what came of it, whatever the store does meanwhile."""
        state, release = self._mirror.state, self._release(color)
        if state is None or release is None or release.label != label:
            return
        standing = self._mine(release)
        if standing is None:
            return
        finding = await self._tell(state, color, release)
        log.info("%s on %s, retire: %s (%s)", label, color, finding.verdict, finding.why)
        done = partial(retire.finish, color=color, label=label, leader=self._node_id, contract=standing.contract)
        await put_on_record(self._ledger, self._store, partial(done, finding=finding), f"what became of {label}")

    async def _tell(self, state: FleetState, color: str, release: Release) -> Finding:
        try:
            step, action = self._step(release)
            if not action.what:
                return Finding(Verdict.PASS, "no hook takes it down: its replicas are whoever's who deploys")
            event = {**told_of(state, color, release), "event": step}
            with suppress(StoreUnavailable):  # no reason not to do it
                spent = retire.cost(release, await self._store.now())
                event |= {"double_running": spent.document()} if spent is not None else {}
            trial = Trial(color, release, state.active, self._routes(), self._options, event)
            return await act(action, step, event, trial, f"{step} {color} {release.label} {release.left}")
        except Problem as error:
            return Finding(Verdict.UNDECIDED, str(error))
        except Exception as error:
            return failed_in_itself(f"the retirement of {release.label}", error)

    def _step(self, release: Release) -> tuple[str, Action]:
        """What its order is about now, and who does it. Raises `Refused` where this node does not understand it."""
        if release.retirement is None or not release.retirement.contract:
            return STEP, self.policy(release)
        migrate = self._read({"migrate": release.parting["migrate"]}).migrate
        return retire.CONTRACT, (migrate.contract if migrate is not None else None) or Action()

    def _read(self, written: Mapping[str, Any]) -> Plan:
        try:
            return self._read_plan(written)
        except ConfigError as error:  # a newer node took it over, with a key that this one does not know
            raise Refused(f"this node does not understand how it is to be taken down: {error}") from None

    def _release(self, color: str) -> Release | None:
        return self._mirror.state.releases.get(color) if self._mirror.state is not None else None

    def _mine(self, release: Release | None) -> Retirement | None:
        """The order that this node carries out on a release."""
        standing = release.retirement if release is not None else None
        return standing if standing is not None and standing.leader == self._node_id else None


def told_of(state: FleetState, color: str, release: Release) -> dict[str, object]:
    """What a hook is told of a release that has left."""
    standing = release.retirement
    by = {"actor": standing.actor, "reason": standing.reason} if standing is not None else {}
    return {**about(color, release, state.active), **by}
