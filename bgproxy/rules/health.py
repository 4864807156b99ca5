"""Whether one upstream may be chosen: active checks raise and lower it, failures of live requests eject it for a while.

Pure: the caller brings the time (monotonic seconds). An upstream starts as usable: nothing is known against it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

# Errors of our own side: they say nothing about the upstream, which is not called ill for them.
OUR_FAULT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """Active checks and passive ejection; times in seconds."""

    path: str = ""  # checked with GET, any 2xx or 3xx is well; empty: only a connection is tried
    interval: float = 2.0  # between two checks of one upstream, jittered by a tenth
    timeout: float = 1.0  # of one check
    rise: int = 2  # checks in a row that bring an upstream back
    fall: int = 3  # checks in a row that take it out
    eject_after: int = 3  # failures of live requests in a row (connect, reset, time-out); 0: never
    eject_timeout: float = 10.0  # how long an ejected upstream is left alone


class Health:
    """The state of one upstream. `usable(now)` is asked on the data path, so it is two comparisons."""

    __slots__ = (
        "_ejected_until",
        "_failing",
        "_falling",
        "_options",
        "_rising",
        "checked",
        "reason",
        "up",
    )

    def __init__(self, options: HealthOptions) -> None:
        self._options = options
        self.up = True
        self.checked = False
        self.reason = ""
        self._rising = 0
        self._falling = 0
        self._failing = 0
        self._ejected_until = 0.0

    def __repr__(self) -> str:
        return f"<Health {'up' if self.up else 'down'} {self.reason}>"

    def configure(self, options: HealthOptions) -> None:
        """Take new options; what is known stays."""
        self._options = options

    def usable(self, now: float) -> bool:
        """Whether a request may be sent there now."""
        return self.up and now >= self._ejected_until

    def check_passed(self) -> None:
        """An active check went well; the first one ever counts in full, so that a start is not slow."""
        self._falling = 0
        self._rising += 1
        if not self.checked or self._rising >= self._options.rise:
            self.up = True
            self.reason = ""
        self.checked = True

    def check_failed(self, reason: str) -> None:
        """An active check failed; the first one ever counts in full."""
        self._rising = 0
        self._falling += 1
        if not self.checked or self._falling >= self._options.fall:
            self.up = False
            self.reason = reason
        self.checked = True

    def request_done(self) -> None:
        """A live request was answered: the row of failures is broken."""
        self._failing = 0

    def request_failed(self, now: float, reason: str) -> None:
        """A live request met a refused, broken or timed-out connection."""
        self._failing += 1
        if self._options.eject_after and self._failing >= self._options.eject_after:
            self._failing = 0
            self.reason = reason
            self._ejected_until = now + self._options.eject_timeout
