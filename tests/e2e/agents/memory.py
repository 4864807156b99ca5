"""What one agent process remembers of its sessions, and who came to it that it does not know.

It promises that a session which this process has not begun is never served: `recall` counts the stranger and raises.
A turn that arrives twice, as its first answer was lost with a proxy that was killed, is remembered once.
"""

from __future__ import annotations

from collections import Counter
from typing import Any


class Stranger(LookupError):
    """A session that another process has begun, or none."""


class Memory:
    """The sessions of one process, by protocol. `place` is the release and the number of the process, as `v1/0`."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._words: dict[tuple[str, str], list[str]] = {}
        self._begun: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._strangers: Counter[str] = Counter()

    def begin(self, protocol: str, *ids: str) -> None:
        """A new session, under all of its ids."""
        self._begun[protocol] += 1
        words: list[str] = []
        for each in ids:
            self._words[protocol, each] = words

    def knows(self, protocol: str, session: str) -> bool:
        return (protocol, session) in self._words

    def also(self, protocol: str, session: str, another: str) -> None:
        """One more id of a session that is known."""
        self._words[protocol, another] = self._words[protocol, session]

    def branch(self, protocol: str, session: str, another: str) -> None:
        """An id that stands for what has been said so far, as each response of a chain does."""
        self._words[protocol, another] = list(self._words[protocol, session])

    def stranger(self, protocol: str) -> None:
        """Put down one that came here and does not belong here."""
        self._strangers[protocol] += 1

    def recall(self, protocol: str, session: str) -> dict[str, Any]:
        """Where a session lives and what has been said in it; raises Stranger."""
        if not self.knows(protocol, session):
            self.stranger(protocol)
            raise Stranger(f"{self.place} does not know {protocol} {session}")
        return {"place": self.place, "words": list(self._words[protocol, session])}

    def turn(self, protocol: str, session: str, word: str) -> dict[str, Any]:
        """One turn of a session: its word is remembered; as `recall`."""
        self.recall(protocol, session)
        words = self._words[protocol, session]
        if word not in words:
            words.append(word)
        self._turns[protocol] += 1
        return self.recall(protocol, session)

    def document(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "begun": dict(self._begun),
            "turns": dict(self._turns),
            "strangers": dict(self._strangers),
        }
