"""One exchange of the live traffic as it was, handed over when it had ended: what mirroring and recording work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgproxy.http1.head import RequestHead

Fields = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Taken:
    """An exchange that is over. Heads are the first line and the fields, as they went on, with CRLF.

    `complete`: it was answered to its end, and there was room for a copy; else nothing of its bodies is here.
    """

    method: str
    target: str
    request_head: bytes
    body: bytes
    status: int
    answer_head: bytes
    answer: bytes
    complete: bool
    whole: bool  # whether `answer` is all of the body
    at: float  # when it began, unix seconds by this host's clock
    latency: float  # seconds to the answer's end
    route: str
    color: str
    release: str
    preset: str = ""  # by which its session was known
    session_ids: tuple[bytes, ...] = ()  # that the request named
    pin: bytes = b""  # of its session; empty: it has none, as far as is known

    @property
    def path(self) -> str:
        """The target without its query, which may hold secrets."""
        return self.target.partition("?")[0]


Wants = Callable[[RequestHead], bool]
"""Whether a copy of a request is wished for, asked when its head has come. Must be quick."""

Take = Callable[[Taken], None]
"""Takes one that was wished for. Must be quick, and may not wait."""


def fields_of(head: bytes) -> Fields:
    """The fields of a head, its first line left out."""
    found: Fields = []
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found.append((name, value.strip(" \t")))
    return found


def value_of(fields: Fields, name: str) -> str:
    """A field's value by its name in lower case; empty where it is not there."""
    return ", ".join(value for own, value in fields if own.lower() == name)
