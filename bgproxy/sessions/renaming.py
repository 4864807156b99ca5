"""The ids of a conversation that is had a second time: those that an agent makes now in place of those it made then.

What an answer mints is known as the data path knows it (`learn.py`). Beside that a member of JSON whose name says that
it is an id counts, such as a call's that a client sends back with its result: the first of the old answer and the
first of the new one at the same place are one id, and so on. Ids shorter than `LEAST` are left alone, as they may be
anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from bgproxy.sessions.keys import Key
from bgproxy.sessions.presets import PROTOCOLS
from bgproxy.sessions.recognise import Recogniser

LEAST: Final = 3  # characters
MOST: Final = 2_000  # ids of one conversation
_BODY_BYTES: Final = 1_048_576
_DEEPEST: Final = 48  # levels of JSON
_HALF: Final = re.compile("[\ud800-\udfff]")  # of a surrogate pair: JSON may name one, no text can be sent with it
_ID_NAME: Final = re.compile(r"(?:.*(?:_id|Id|ID|-id))|id|cursor|nextCursor|requestState")

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Said:
    """An answer. `documents`: its JSON, of a stream each event's."""

    status: int
    fields: Fields
    body: bytes  # without its content coding
    documents: Sequence[Any] = ()


@lru_cache(1)
def _recogniser() -> Recogniser:
    """Of all protocols: what an answer mints is looked for wherever one of them has it."""
    return Recogniser(tuple(PROTOCOLS.values()), inspect_bytes=_BODY_BYTES)


class Renaming:
    """What is known of one conversation."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None

    def learn(self, method: str, target: str, old: Said, new: Said) -> None:
        """The two answers to a request."""
        before, after = self._minted(method, target, old), self._minted(method, target, new)
        for space, values in before.items():
            self._pair(values, after.get(space, []))
        was, now = _ids(old.documents), _ids(new.documents)
        for place, values in was.items():
            self._pair(values, now.get(place, []))
        words = sorted(self._names, key=len, reverse=True)
        found = "|".join(map(re.escape, words))
        self._pattern = re.compile(rf"(?<![\w-])(?:{found})(?![\w-])") if words else None

    def text(self, text: str) -> str:
        """A target, a field's value or a body with the ids of now."""
        return self._pattern.sub(lambda match: self._names[match[0]], text) if self._pattern is not None else text

    def _pair(self, old: Sequence[str], new: Sequence[str]) -> None:
        for was, now in zip(old, new, strict=False):
            if was != now and len(was) >= LEAST and len(self._names) < MOST and not _HALF.search(was + now):
                self._names[was] = now
                if (coded := quote(was, safe="")) != was:
                    self._names[coded] = quote(now, safe="")

    def _minted(self, method: str, target: str, said: Said) -> dict[str, list[str]]:
        """The ids that an answer makes, by their kind, in order."""
        marks = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in said.fields]
        marks = [(name, value) for name, value in marks if name != b"content-encoding"]
        kinds = [(name, value) for name, value in marks if name == b"content-type"]
        found: dict[str, list[str]] = {}
        # What its head names would be all that is looked for; the ids in its body are wanted too.
        for key in (*self._keys(method, target, said, marks), *self._keys(method, target, said, kinds)):
            value = key.value.decode("latin-1")
            if value not in found.setdefault(key.space, []):
                found[key.space].append(value)
        return found

    def _keys(self, method: str, target: str, said: Said, marks: Sequence[tuple[bytes, bytes]]) -> Iterable[Key]:
        # As if the request named nothing: what it names does not keep its answer from being read.
        sighting = _recogniser().request(method.encode(), target.encode("latin-1"), (), False, b"")
        learner = sighting.response(said.status, marks)
        if learner is None:
            return []
        keys = [*learner.keys, *learner.feed(said.body)]
        learner.close()
        return keys


def _ids(documents: Sequence[Any]) -> Mapping[tuple[str, ...], list[str]]:
    """What is called an id, by where it stands; the numbers of items do not count."""
    found: dict[tuple[str, ...], list[str]] = {}
    for document in documents:
        for path, value in _leaves(document, ()):
            if value not in found.setdefault(path, []):
                found[path].append(value)
    return found


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if len(path) > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, str):
                if _ID_NAME.fullmatch(name):
                    yield (*path, name), inner
            else:
                yield from _leaves(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, (*path, "*"))
