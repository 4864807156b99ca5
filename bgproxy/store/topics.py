"""What nodes tell one another for a while, beside the state: short texts by topic and by who told them.

Each topic is kept as long as anybody tells of it, and for `TOPIC_TTL` after that, with the last words of those who are
gone. Nothing depends on it that could not be told anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TOPIC_TTL: Final = 600.0
"""Seconds."""


class TopicTable:
    """The topics of a store that lives in one process. See `Store.tell` and `Store.told`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._topics: dict[str, tuple[float, dict[str, str]]] = {}  # each with when it was told of last

    def tell(self, topic: str, who: str, text: str) -> None:
        """Keep this in place of what was told before by that one."""
        now = self._clock()
        self._topics = {name: kept for name, kept in self._topics.items() if now < kept[0] + TOPIC_TTL}
        self._topics[topic] = now, {**self.told(topic), who: text}

    def told(self, topic: str) -> dict[str, str]:
        """By who told it."""
        at, texts = self._topics.get(topic, (0.0, {}))
        return dict(texts) if self._clock() < at + TOPIC_TTL else {}
