"""What a client asks of a node: one request, which is to the node's turn an exchange, with its request and its client.

No bytes move: where it is placed is bgproxy's own code, how long its agent takes the world's dice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from bench.history import Execution
from bgproxy.proxy.hold import admitted, waited_too_long
from bgproxy.proxy.plane import DataPlane
from bgproxy.proxy.routing import Group
from bgproxy.proxy.turn import Turn
from bgproxy.proxy.wait import Wait

if TYPE_CHECKING:
    from bench.simulate.node import Fleet, Node

FIELD = b"x-session-id"
HOP = 0.0002  # seconds between client and node, and node and agent, on average


class Visit:
    """One request on a connection of its own: to the turn an exchange, with its request and its client."""

    upstream = None  # no key is ever learned here
    request_done = True
    bytes_in = 0
    fields = b""
    wish = ""  # nobody asks for an idle color
    over = False
    waits = 0  # for how many things it has waited, or been placed

    def __init__(self, fleet: Fleet, number: int, session: str) -> None:
        self.fleet = fleet
        self.number = number
        self.name = f"r{number}"
        self.session = session
        self.sent = fleet.world.now
        self.status = 0
        self.code = ""
        self.group: Group | None = None
        self.turn: Turn | None = None
        self.node: Node | None = None
        self.run: Execution | None = None  # on the agent
        self.marks = ((FIELD, session.encode()),) if session else ()
        fleet.visits[number] = self

    def __repr__(self) -> str:
        return f"<Visit {self.name} {self.session}>"

    @property
    def request(self) -> Visit:
        return self

    @property
    def client(self) -> Visit:
        return self

    @property
    def plane(self) -> DataPlane:
        assert self.node is not None
        return self.node.plane

    def expect(self, what: int, seconds: float, _: float) -> None:
        """Of what a client waits for here only what holds may last too long: the store's own time-outs are shorter."""
        self.waits = self.waits + 1
        if what == Wait.HOLD:
            assert self.node is not None
            self.node.process.call_later(seconds, self._waited, self.waits)

    def _waited(self, waits: int) -> None:
        if waits == self.waits and not self.over:
            waited_too_long(cast("Any", self))

    def go(self, now: float) -> None:
        """On to the agent, as soon as it is known to which. See `Exchange.go`."""
        assert self.group is not None
        visit, turn = cast("Any", self), self.turn
        group = admitted(visit, self.group, now) if turn is None else turn.place(now)
        if group is not None:
            self.placed(group, now)

    def placed(self, group: Group, _: float) -> None:
        """The agent runs it; the node hears of its end a little later."""
        assert self.node is not None
        self.waits += 1
        self.group = group
        if self.node.is_blind:
            self.fleet.strayed.add(self.name)
        node, world = self.node, self.fleet.world
        began = world.now + world.dice.expovariate(1 / HOP)
        long = 1.5 if world.dice.random() < 0.05 else 0.02
        ended = began + min(world.dice.expovariate(1 / long), 3.0)
        self.run = Execution(self.name, group.release, began, ended)
        world.at(ended + world.dice.expovariate(1 / HOP), lambda: node.process.give(self._ends, 200))

    def refuse(self, code: str, _: str, __: object = None) -> None:
        """One of the proxy's own answers."""
        self.code = code
        self._ends(503)

    def release(self) -> None:
        """No answer is held back here."""

    def _ends(self, status: int) -> None:
        """In the node's process."""
        self.over = True
        self.status = status
        if self.turn is not None:
            self.turn.over()
        world = self.fleet.world
        world.after(world.dice.expovariate(1 / HOP), self._arrives)

    def _arrives(self) -> None:
        if self.number in self.fleet.visits:
            self.fleet.answered(self)
