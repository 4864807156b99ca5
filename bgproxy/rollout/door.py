"""What lets new admissions in at this node, and why it is shut before any state says so."""

from __future__ import annotations

from typing import Protocol

from bgproxy.store.mirror import Mirror


class Door(Protocol):
    """What lets new admissions in."""

    @property
    def is_shut(self) -> bool:
        """Nothing new is admitted. Asked after the mirror has told of a state."""

    def shut(self) -> None:
        """Admit nothing new, whatever state is applied, until `settle`."""

    def settle(self) -> None:
        """By the state that was applied last."""


class Doorkeeper:
    """Keeps the door shut as long as there is any reason for it; then it is as the applied state has it."""

    def __init__(self, door: Door, mirror: Mirror) -> None:
        self._door = door
        self._mirror = mirror
        self._reasons: set[object] = set()

    def __repr__(self) -> str:
        return f"<Doorkeeper, {len(self._reasons)} reasons>"

    @property
    def is_shut(self) -> bool:
        """See `Door.is_shut`."""
        return self._door.is_shut

    def shut(self, why: object) -> None:
        """For this reason too, until it is settled."""
        self._reasons.add(why)
        self._mirror.held_early = True
        self._door.shut()

    def settle(self, why: object) -> None:
        """This is no reason any more."""
        self._reasons.discard(why)
        if not self._reasons:
            self._mirror.held_early = False
            self._door.settle()
