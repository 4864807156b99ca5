"""A clock under a test's hand."""

from __future__ import annotations


class Clock:
    """Stands still until a test moves `now`, in seconds."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
