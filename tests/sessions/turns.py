"""A request and its answer, written as they go over the wire, seen in pieces of all sizes: all must be seen alike."""

from dataclasses import dataclass

from bgproxy.sessions.presets import DEFAULT_PRESETS
from bgproxy.sessions.recognise import Recogniser
from bgproxy.sessions.sighting import Sighting
from bgproxy.sessions.spec import preset_named

Keys = list[tuple[str, bytes]]
SIZES = (1 << 20, 1, 7, 64)


@dataclass(frozen=True)
class Turn:
    """What was seen: the request's keys, and those that its answer minted."""

    keys: Keys
    minted: Keys
    preset: str
    unread: str
    read: int  # bytes of the request's body that were read, when it came byte by byte


def recogniser(*names: str, inspect_bytes: int = 65_536) -> Recogniser:
    """For these presets; without any, for the default ones."""
    return Recogniser([preset_named(name) for name in names or DEFAULT_PRESETS], inspect_bytes=inspect_bytes)


DEFAULT = recogniser()


def split(message: str | bytes) -> tuple[str, list[tuple[bytes, bytes]], bytes]:
    """Start line, fields, body. The head's lines end with LF here, as examples are printed."""
    raw = message.encode() if isinstance(message, str) else message
    head, _, body = raw.lstrip(b"\n").partition(b"\n\n")
    line, *fields = head.split(b"\n")
    pairs = [field.partition(b":") for field in fields]
    return line.decode(), [(name.lower(), value.lstrip(b" ")) for name, _, value in pairs], body


def sighted(of: Recogniser, request: str | bytes, size: int = 1 << 20) -> tuple[Sighting, int]:
    """A request as it is seen when its body comes in pieces of that size; how many of its bytes were read."""
    line, fields, body = split(request)
    method, target, _ = line.split(" ")
    marks = [field for field in fields if field[0] in of.request_fields]
    upgrade = dict(fields).get(b"upgrade", b"").lower()
    sighting = of.request(method.encode(), target.encode(), marks, bool(body), upgrade)
    read = 0
    if sighting.body is not None:
        for at in range(0, len(body), size):
            read = at + size
            if sighting.body.feed(body[at : at + size]):
                assert sighting.body.feed(b"more")
                break
        else:
            sighting.body.end()
    return sighting, read


def learned(of: Recogniser, sighting: Sighting, answer: str | bytes, size: int = 1 << 20) -> Keys:
    """The keys that an answer mints, when its body comes in pieces of that size."""
    line, fields, body = split(answer)
    marks = [field for field in fields if field[0] in of.response_fields]
    learner = sighting.response(int(line.split(" ")[1]), marks)
    if learner is None:
        return []
    keys = list(learner.keys)
    for at in range(0, len(body), size):
        if learner.done:
            assert learner.feed(body[at:]) == []
            break
        keys += learner.feed(body[at : at + size])
    return [(key.space, key.value) for key in keys]


def turn(request: str | bytes, answer: str | bytes = b"", of: Recogniser = DEFAULT) -> Turn:
    """An exchange, seen in pieces of all sizes."""
    seen = []
    read = 0
    for size in SIZES:
        sighting, count = sighted(of, request, size)
        read = count if size == 1 else read
        keys = [(key.space, key.value) for key in sighting.keys]
        minted = learned(of, sighting, answer, size) if answer else []
        seen.append((keys, minted, sighting.preset, sighting.unread))
    assert all(other == seen[0] for other in seen)
    return Turn(*seen[0], read)
