"""This node's fence: closed while its lease is not held, and then it admits nothing that is new to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from bgproxy.rules.lease import Lease


def since_boot() -> float:
    """Seconds by a clock that only goes forward, and goes on while the machine is asleep, where it has such a one."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class Fence:
    """A lease by a clock. `Heartbeat` tells it of beats, `Mirror` of readings; what admits asks `is_closed`."""

    def __init__(self, fence_after: float = 0.0, clock: Callable[[], float] = since_boot) -> None:
        """In seconds; 0: it is never closed."""
        self.fence_after = fence_after
        self.lease = Lease(fence_after)
        self.clock = clock

    def __repr__(self) -> str:
        return f"<Fence {'closed' if self.is_closed() else 'open'}, {self.lease!r}>"

    def is_closed(self) -> bool:
        """Asked anew for whatever is to be admitted: a process that was stopped finds its lease run out."""
        return not self.lease.is_held(self.clock())
