"""The doors of nodes that admit nothing in a test anyway."""

from __future__ import annotations


class Shut:
    """Always."""

    is_shut = True

    def shut(self) -> None: ...

    def settle(self) -> None: ...
