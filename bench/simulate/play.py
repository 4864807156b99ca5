"""One world by its seed: a fleet, clients, operators who flip, and what goes wrong; at its end the judge.

All comes from the dice, so that a seed is a whole story. After the faults everything is mended, and the fleet must find
itself again: then a flip has to succeed, and all nodes have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from math import inf

from bench.history import LINEARIZABLE, STICKY, Flip, History, Move, Request, Verdict
from bench.judge import check
from bench.simulate.excuses import STORE, LostFlip, Troubles, excused
from bench.simulate.node import COLORS, RELEASES, Fleet, Node, Terms
from bench.simulate.store import Server
from bench.simulate.visit import Visit
from bench.simulate.world import World
from bgproxy.rollout.barrier import FlipOptions
from bgproxy.rules.barrier import Strategy
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pin import OnRollback, Policy
from bgproxy.store.base import StoreOptions
from bgproxy.store.memory import MemoryStore
from bgproxy.store.pin_outage import PinOptions

JOIN = 0.5  # seconds until the fleet stands
MENDED = 6.5  # seconds after them until the fleet must have found itself again: ROLL_CALL, and what comes before it
LAST = 1.5  # seconds for the last flip
PAUSES, KEYS = 0.06, 0.2  # shares of what operators ask for: pauses, and flips under an idempotency key, twice
LONGEST_PAUSE = 0.8  # seconds
MEANWHILE, SHORT = 0.06, 0.003  # how often something goes wrong, so many seconds after a node has asked those near it
LAG = 0.03  # seconds by which a replica is behind, on average
RATE = 25.0  # requests a second


@dataclass(slots=True)
class Outcome:
    """What came of a world. `problems`: what no history shows, such as nodes that do not agree in the end."""

    seed: int
    verdict: Verdict
    flips: int
    problems: list[str] = field(default_factory=list)
    left_behind: int = 0  # flips that were made without a node
    at_once: int = 0  # flips by one commit, for which no node held by a state

    def told(self) -> str:
        """All of it in a few lines."""
        return "\n".join([self.verdict.told(), *(f"  {problem}" for problem in self.problems)])


@dataclass(frozen=True, slots=True)
class Plan:
    """Of what kind the worlds are."""

    faults: bool = True
    trouble: float = 4.0  # seconds of flips and faults
    forgetful: bool = False  # the store may come back empty
    strategy: Strategy = "auto"
    fenced: bool = False  # nodes fence themselves
    replicated: bool = False  # a replica takes the store's place, that lacks what was done last
    near: bool = False  # nodes are workers of one host, or of two

    def blames(self, outcome: Outcome) -> bool:
        """Whether something is wrong in such a world."""
        not_promised = set[int]()
        if self.strategy == "swap":
            not_promised.add(LINEARIZABLE)
        if self.forgetful or self.replicated:  # a pin that is lost is told again by the nodes that use it, and no other
            not_promised.add(STICKY)
        return bool(outcome.verdict.broken.keys() - not_promised or outcome.problems)


class Play:
    """A world under way."""

    def __init__(self, seed: int, plan: Plan, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.world = world = World(seed, trace)
        self.dice = dice = world.dice
        self.flips: list[Flip] = []
        self.moves: list[Move] = []
        self.told: dict[int, float] = {}
        self.problems: list[str] = []
        self.sessions: list[str] = []
        self.numbers = 0
        self.keys = 0
        self.came: dict[str, tuple[str, int]] = {}  # what was told under an idempotency key
        self.done = 0
        self.is_mended = False
        self.vacant = set[Node]()  # the dead that have no successor yet
        self.troubles = Troubles()
        self.lost: list[LostFlip] = []
        store = StoreOptions(node_ttl=1.0, fence_after=0.3) if plan.fenced else StoreOptions(node_ttl=1.6)
        self.terms = Terms(
            store,
            PinOptions(on_store_outage=dice.choice(("admit", "refuse"))),
            FlipOptions(plan.strategy, dice.choice((0.1, 0.4, 1.0))),
            dice.choice((Policy.PINNED, Policy.PINNED, Policy.FOLLOW)),
            dice.choice((OnRollback.MOVE, OnRollback.STAY)),
            0.1 if plan.fenced else 1.0,
        )
        world.at(0.0, self._begin)

    def run(self, seed: int) -> Outcome:
        """The whole story."""
        world, over = self.world, JOIN + self.plan.trouble
        try:
            world.run(JOIN)
            self._plan_trouble()
            world.run(over)
            self._mend()
            world.run(over + MENDED)
            self._last_flip()
            world.run(over + MENDED + LAST)
            self._look_at_the_end()
        finally:
            world.end()
        problems = [*self.problems, *world.failures]
        server = self.server
        return Outcome(seed, self._judged(), len(self.flips), problems, server.left_behind, server.at_once)

    # The fleet

    def _begin(self) -> None:
        self.server = Server(self.world, self.terms.store, self._committed)
        self.server.tells = self.dice.random() < 0.7
        self.fleet = Fleet(self.world, self.server, self.terms, self._is_asked)
        near = self.plan.near
        hosts = self.dice.choice((1, 1, 1, 2)) if near else None  # None: one for each
        for number in range(self.dice.choice((1, 2, 3, 4) if near else (2, 3, 3, 4))):
            self._join(number if hosts is None else self.dice.randrange(hosts), beside=False)
        for _ in range(self.dice.choice((0, 0, 1, 2)) if hosts and self.plan.faults else 0):
            host = self.dice.choice(self.fleet.nodes).host
            self.world.at(JOIN + self.dice.random() * self.plan.trouble, partial(self._join, host, beside=True))

    def _join(self, host: int, *, beside: bool) -> None:
        """One worker more."""
        Node(self.fleet, host, len(self.fleet.nodes), beside=beside, rate=self.dice.uniform(0.95, 1.05))

    def _committed(self, state: FleetState) -> None:
        """In the moment in which the store makes a change."""
        pointer = state.pointer
        known = self.flips[-1] if self.flips else None
        for flip in self.lost:
            if pointer.epoch >= flip.epoch:
                flip.returned = min(flip.returned, self.world.now)
        if known is not None and pointer.epoch <= known.epoch:
            if not self.plan.replicated and pointer.epoch == known.epoch and pointer.active != known.color:
                self.problems.append(f"epoch {pointer.epoch} was given twice")
            return
        now = self.world.now
        self.world.say("store", f"epoch {pointer.epoch} is {pointer.active}")
        self.flips.append(Flip(pointer.epoch, pointer.active, now if known is not None else -inf))
        if self.moves and self.moves[-1].until == inf:
            self.moves = [move._replace(until=now) if move.until == inf else move for move in self.moves]
        label = RELEASES[pointer.active].label
        if self.terms.on_rollback is OnRollback.MOVE and self.terms.policy is Policy.PINNED:
            left = [release.label for release in state.releases.values() if release.rolled_back]
            self.moves += [Move(label, now, left=one) for one in left if one != label]

    # Clients and operators

    def _plan_trouble(self) -> None:
        dice, world = self.dice, self.world
        at, over = world.now, JOIN + self.plan.trouble
        while at < over + 1.0:
            at += dice.expovariate(RATE)
            world.at(at, self._ask)
        at = world.now
        while at < over:
            world.at(at, self._flip)
            at += dice.uniform(0.02, 0.8)
        if self.plan.faults:
            for _ in range(dice.choice((0, 1, 1, 2, 2, 3, 4))):
                world.at(world.now + dice.random() * self.plan.trouble, self._go_wrong)

    def _ask(self) -> None:
        """A client sends a request to whoever serves."""
        serving = [node for node in self.fleet.nodes if node.is_serving]
        if not serving:
            return
        kind = self.dice.random()
        if kind < 0.4:
            session = ""
        elif kind < 0.6 or not self.sessions:
            session = f"s{len(self.sessions)}"
            self.sessions.append(session)
        else:
            session = self.dice.choice(self.sessions[-8:])
        self.numbers += 1
        visit, node = Visit(self.fleet, self.numbers, session), self.dice.choice(serving)
        if self.world.is_traced:
            self.world.say("client", f"{visit.name} {session} is sent to {node.id}")
        self._send(visit, node)
        if session and self.dice.random() < 0.2:  # two nodes meet one session at once
            self.numbers += 1
            self._send(Visit(self.fleet, self.numbers, session), self.dice.choice(serving))

    def _send(self, visit: Visit, node: Node) -> None:
        def arrive() -> None:
            # What is queued at the socket of a worker that has died goes to another.
            serving = [node, *(one for one in self.fleet.nodes if one.is_serving)]
            living = [one for one in serving if one.is_serving]  # the first is the one that was meant, or another
            if not living:
                self.world.after(0.05, arrive)
            else:
                visit.node = living[0]
                living[0].process.give(living[0].arrives, visit)

        self.world.after(self.dice.expovariate(1 / 0.0002), arrive)

    def _flip(self) -> None:
        """An operator asks one node."""
        serving = [node for node in self.fleet.nodes if node.is_serving]
        if not serving:
            return
        node = self.dice.choice(serving)
        if self.dice.random() < PAUSES:
            seconds = self.dice.uniform(0.05, LONGEST_PAUSE)
            self.world.say("operator", f"asks {node.id} for a pause of {seconds:.3f} s")
            node.pause(seconds)
            return
        to = self.dice.choice((*COLORS, None))
        if self.dice.random() >= KEYS:
            self._ask_for(node, to)
            return
        self.keys += 1
        for _ in range(2):  # a retry, which may overtake what it repeats
            node = self.dice.choice(serving)
            again = partial(self._ask_for, node, to, f"key{self.keys}")
            self.world.after(self.dice.choice((0.0, 0.01, 0.3)) * self.dice.random(), again)

    def _ask_for(self, node: Node, to: str | None, key: str = "") -> None:
        if not node.is_serving:
            return
        what = f"flip to {to}" if to is not None else "rollback"
        self.world.say("operator", f"asks {node.id} for a {what} {key}")

        def told(what_came: str, epoch: int) -> None:
            self.world.say("operator", f"{node.id} says of the {what} {key}: {what_came} {epoch or ''}")
            loses = self.plan.forgetful or self.plan.replicated  # keys, too
            if key and epoch and self.came.setdefault(key, (what_came, epoch)) != (what_came, epoch) and not loses:
                self.problems.append(f"{key} was told as {self.came[key]} and as {(what_came, epoch)}")
            if what_came == "done":
                self.done += 1
            if epoch:
                self.told[epoch] = min(self.world.now, self.told.get(epoch, inf))

        node.flip(to, told, key)

    # What goes wrong

    def _is_asked(self, who: str) -> None:
        """A node asks the others of its host to hold: what can go wrong meanwhile should often do so."""
        if self.plan.faults and not self.is_mended and self.dice.random() < MEANWHILE:
            near = [node for node in self.fleet.nodes if node.id == who or self.dice.random() < 0.3]
            self.world.after(self.dice.random() * SHORT, partial(self._go_wrong, near))

    def _go_wrong(self, near: Collection[Node] = ()) -> None:
        """`near`: with one of these nodes; with any, where none is named."""
        if self.is_mended:
            return
        dice, world = self.dice, self.world
        # Who is to be left behind must be away for a while.
        seconds = dice.choice((2.5, 3.0) if self.plan.fenced else (0.05, 0.3, 1.0, 2.5)) * dice.uniform(0.5, 1.5)
        living = [node for node in near or self.fleet.nodes if not node.process.is_dead]
        if not living:
            return
        node = dice.choice(living)
        what = dice.choice((0, 2, 0, 2, *range(8))) if self.plan.fenced else dice.randrange(8)
        if self.plan.replicated and dice.random() < 0.6:
            what = 5
        until = world.now + seconds
        if what in (0, 2, 3):
            self.troubles.befall(node.id, world.now, until)
        elif what in (1, 7):
            self.troubles.befall(node.id, world.now, inf)
        if what == 0:
            world.say(node.id, f"is stopped for {seconds:.3f} s")
            node.process.pause(seconds)
        elif what == 1:
            self._kill(node, seconds)
        elif what == 2:
            world.say(node.id, f"is cut off for {seconds:.3f} s")
            node.line.cut(seconds)
        elif what == 3:
            world.say(node.id, f"has a slow line for {seconds:.3f} s")
            node.line.slow(seconds)
        elif what == 4:
            world.say("store", f"is stopped for {seconds:.3f} s")
            self.server.process.pause(seconds)
            self.troubles.befall(STORE, world.now, until)
        elif what == 5 and self.server.is_up:
            if self.plan.replicated:
                world.after(dice.expovariate(1 / LAG), partial(self._fail_over, self.server.replica(), seconds))
                return
            self._kill_store(seconds)
            keep = not (self.plan.forgetful and dice.random() < 0.5)
            world.after(seconds, lambda: self._start_store(keep))
        elif what == 6:
            world.say(node.id, "hears few bells")
            node.line.loses_bells = dice.choice((0.3, 1.0))
        else:
            world.say(node.id, "has a bad line")
            node.line.loses_calls, node.line.loses_answers = dice.random() * 0.5, dice.random() * 0.5

    def _start_store(self, keep: bool, replica: MemoryStore | None = None) -> None:
        if not self.server.is_up:
            self.server.start(keep=keep, replica=replica)
            self._note_lost()

    def _kill_store(self, seconds: float) -> None:
        self.server.kill()
        self.troubles.befall(STORE, self.world.now, self.world.now + seconds)

    def _note_lost(self) -> None:
        """The flips that the store lacks by now, and who could tell it."""
        epoch = self.server.epoch
        living = [node for node in self.fleet.nodes if not node.process.is_dead]
        for flip in self.flips:
            if flip.epoch > epoch:
                knew = frozenset(node.id for node in living if node.epoch >= flip.epoch)
                self.lost.append(LostFlip(flip.epoch, self.world.now, knew))

    def _fail_over(self, replica: MemoryStore, seconds: float) -> None:
        if self.server.is_up and not self.is_mended:
            self._kill_store(seconds)
            self.world.after(seconds, partial(self._start_store, True, replica))

    def _kill(self, node: Node, seconds: float) -> None:
        node.kill()
        self.vacant.add(node)
        self.world.after(seconds, lambda: self._succeed(node) if node in self.vacant else None)

    def _succeed(self, node: Node) -> None:
        """Its supervisor starts a successor, which signs it off."""
        self.vacant.discard(node)
        self.world.say(node.id, "gets a successor")
        Node(self.fleet, node.host, node.slot, successor_of=node, rate=self.dice.uniform(0.95, 1.05))

    def _mend(self) -> None:
        """Everything is well again."""
        self.world.say("world", "all is mended")
        self.is_mended = True
        self._start_store(keep=True)
        self.server.process.resume()
        for node in sorted(self.vacant, key=lambda node: node.slot):
            self._succeed(node)
        for node in self.fleet.nodes:
            line = node.line
            line.loses_calls = line.loses_answers = line.loses_bells = line.cut_until = line.slow_until = 0.0
            node.process.resume()

    # The end

    def _last_flip(self) -> None:
        serving = [node for node in self.fleet.nodes if node.is_serving]
        self.done = 0
        if not serving:
            self.problems.append("no node serves any more")
            return
        active = self.server.active  # a flip that nobody remembers is none
        self._ask_for(self.dice.choice(serving), next(color for color in COLORS if color != active))

    def _look_at_the_end(self) -> None:
        if not self.done:
            self.problems.append("the flip after all was mended was not made")
        states = [node.mirror.state for node in self.fleet.nodes if node.is_serving]
        if len({(state.revision, state.pointer) for state in states if state is not None}) > 1:
            self.problems.append(f"the nodes do not agree: {sorted(state.revision for state in states if state)}")
        for node in self.fleet.nodes:
            if node.is_serving and node.plane.hold is not None:
                self.problems.append(f"{node.id} holds new requests still")
            if node.is_serving and node.plane.busy:
                self.problems.append(f"{node.id} counts turns that are over")

    def _judged(self) -> Verdict:
        fleet = self.fleet
        for visit in [*fleet.visits.values()]:
            fleet.requests.append(Request(visit.name, visit.sent, session=visit.session, line=visit.number))
        flips = [flip._replace(told=self.told.get(flip.epoch, inf)) for flip in self.flips]
        unknown = [flip for flip in self.lost if flip.is_unknown(self.troubles)]
        for lost in unknown:
            flips = [lost.seen(flip) for flip in flips]
        return check(
            History(
                fleet.requests,
                flips,
                fleet.executions,
                self.moves,
                fleet.dead,
                fleet.unsure,
                fleet.strayed | excused(fleet.requests, unknown),
                follow=self.terms.policy is Policy.FOLLOW,
            )
        )


def play(seed: int, plan: Plan | None = None, trace: Callable[[str], None] | None = None) -> Outcome:
    """One world from its first moment to its verdict."""
    return Play(seed, plan or Plan(), trace).run(seed)
