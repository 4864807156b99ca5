"""What the nodes have said of themselves, for the pins of a single process: which state each routes by, its turns.

Decides whether a session may be moved now. Must not know where it is to go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bgproxy.store.pinning import Turn


class NodeTurns:
    """See `PinStore.applied` and `PinStore.idle`."""

    def __init__(self, nodes: Callable[[], Iterable[str]]) -> None:
        """`nodes`: the registered nodes' ids, and others' of whom nothing is known."""
        self._nodes = nodes
        self.states: dict[str, tuple[int, int]] = {}  # epoch and revision by node
        self.under_way: dict[tuple[bytes, str], int] = {}  # serials by pin and node
        self.said: dict[str, int] = {}  # at which serial each node has last said all anew

    def applied(self, node: str, epoch: int, revision: int, turns: Sequence[Turn], anew: bool, serial: int) -> bool:
        """What a node says of itself; whether it was known."""
        known = node in self.states
        if serial < self.said.get(node, 0):
            return known
        if anew:
            others = {*self._nodes()} - {node}
            self.said = {name: at for name, at in self.said.items() if name in others} | {node: serial}
            self.states = {name: said for name, said in self.states.items() if name in others}
            self.under_way = {place: serial for place, serial in self.under_way.items() if place[1] in others}
        for turn in turns:
            self._begin(node, turn)
        if known or anew:
            self.states[node] = epoch, revision
        return known

    def begin(self, node: str, turn: Turn) -> None:
        """A turn is under way, unless it was said long ago."""
        if turn.serial >= self.said.get(node, 0):
            self._begin(node, turn)

    def _begin(self, node: str, turn: Turn) -> None:
        """Earlier turns of a session may be heard of after later ones."""
        place = turn.pin_id, node
        self.under_way[place] = max(turn.serial, self.under_way.get(place, 0))

    def idle(self, node: str, turns: Sequence[Turn]) -> None:
        """They are over, but for those that a later one has replaced."""
        for turn in turns:
            if self.under_way.get((turn.pin_id, node)) == turn.serial:
                del self.under_way[turn.pin_id, node]

    def may_move(self, pin_id: bytes, node: str, epoch: int, revision: int) -> bool:
        """Whether all nodes, and this one ("": none), route by such a state, and none has a turn of the session."""
        nodes = {*self._nodes(), node} - {""}
        states = [self.states.get(name, (0, 0)) for name in nodes]
        everywhere = all(known[0] >= epoch and known[1] >= revision for known in states)
        return everywhere and not any((pin_id, name) in self.under_way for name in nodes)
