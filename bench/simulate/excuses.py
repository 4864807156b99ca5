"""What no protocol can promise, said so narrowly that a judge may let nothing else pass.

Redis confirms a flip before its replicas have it, so a failover may lose it. Those who have applied it write it back,
and for `UNDECIDED` seconds nobody else moves the pointer. Where each of them is stopped, dead or cannot reach the store
in that time, the fleet goes on without the flip, as nobody that can be asked has ever heard of it. Then what was
answered by it before it was written back is no evidence against what others do; nor is that it was told as done.

A worker that is started while the store is away, and keeps no fence, goes by what its host knew last. Until it has read
the state once, it may not know of a flip by which its predecessor held when it died.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from bench.history import Flip, Request
from bgproxy.store.mirror import UNDECIDED

STORE = "store"


class Troubles:
    """When somebody (a node's id, or `STORE`) could not do what it should. Times in seconds of the world."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def befall(self, who: str, since: float, until: float) -> None:
        """From one time to the other."""
        self._spans[who].append((since, until))

    def meet(self, who: str, since: float, until: float) -> bool:
        """Whether anything of it was between these two."""
        return any(begun < until and over > since for begun, over in self._spans[who])


@dataclass(slots=True)
class LostFlip:
    """One that the store lacked when it was there again. `knew`: the nodes that had applied it, and lived then."""

    epoch: int
    since: float  # when the store was there again
    knew: frozenset[str]
    returned: float = inf  # when that epoch stood in the store again

    def is_unknown(self, troubles: Troubles) -> bool:
        """Whether nobody who knew of it could tell in time."""
        until = self.since + UNDECIDED
        if troubles.meet(STORE, self.since, until):
            return True
        return all(troubles.meet(one, self.since, until) for one in self.knew)

    def excuses(self, one: Request) -> bool:
        """Whether it was answered by this flip while the store lacked it, or before."""
        return one.epoch == self.epoch and one.answered < self.returned

    def seen(self, flip: Flip) -> Flip:
        """As it may be told: it is known as done once it stands again."""
        return flip._replace(told=max(flip.told, self.returned)) if flip.epoch == self.epoch else flip


def excused(requests: Iterable[Request], lost: Iterable[LostFlip]) -> set[str]:
    """The names of those that one of these flips excuses."""
    lost = [*lost]
    return {one.id for one in requests if any(flip.excuses(one) for flip in lost)}
