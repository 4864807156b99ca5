"""Pins as lines of a file, and what a file of such lines says: each line replaces what earlier ones said of its pin.

    {"schema": 1, "fleet": FLEET}                   the first line
    ["pin", ID, [its fields], expiry, [aliases]]    a pin as it stands; aliases of earlier lines still lead to it
    ["alias", KEY, ID, expiry]                      an older alias, which expires by itself
    ["end", ID]                                     it is over, and all its aliases with it

Keys are hex, times unix seconds. A last line without its end was being written when its writer died: it says nothing.
Anything else that cannot be understood is `StoreBroken`. Must not know where the file is.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson

from bgproxy.errors import StoreBroken
from bgproxy.rules.pin import Pin
from bgproxy.store.document import check_schema

SCHEMA: Final = 1
_NAMES: Final = [field.name for field in fields(Pin)][1:]  # in the order in which a pin takes them, behind its id
_fields = attrgetter(*_NAMES)


class Standing(NamedTuple):
    """A pin, when it expires, and the aliases that live as long as it does, oldest first."""

    pin: Pin
    expires: int
    aliases: tuple[bytes, ...]


class Read(NamedTuple):
    """What a file says, and how many bytes of it are whole lines. `aliases`: the pin's id, and the alias' expiry."""

    pins: dict[bytes, Standing]
    aliases: dict[bytes, tuple[bytes, int]]
    size: int


def head_line(fleet: str) -> bytes:
    """The first line of a file."""
    return orjson.dumps({"schema": SCHEMA, "fleet": fleet}) + b"\n"


def pin_line(pin_id: bytes, standing: Standing | None) -> bytes:
    """What stands under an id; None: nothing does any more."""
    if standing is None:
        return orjson.dumps(["end", pin_id.hex()]) + b"\n"
    aliases = [key.hex() for key in standing.aliases]
    return orjson.dumps(["pin", pin_id.hex(), _fields(standing.pin), standing.expires, aliases]) + b"\n"


def alias_line(key: bytes, pin_id: bytes, expires: int) -> bytes:
    """An alias that may expire before its pin."""
    return orjson.dumps(["alias", key.hex(), pin_id.hex(), expires]) + b"\n"


def read_lines(raw: bytes, fleet: str, where: str) -> Read:
    """What the lines say; `where` (the file) is named by an error. Raises `StoreBroken` and `SchemaTooNew`."""
    size = raw.rfind(b"\n") + 1
    lines = raw[:size].split(b"\n")[:-1]
    replay = _Replay()
    try:
        if lines:
            _check_head(orjson.loads(lines[0]), fleet, where)
        for line in lines[1:]:
            replay.take(orjson.loads(line))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreBroken(
            f"{where} cannot be understood ({type(error).__name__}: {error}): remove it to begin without the sessions "
            "that are known; it is left as it is"
        ) from error
    return Read(replay.pins, replay.aliases(), size)


def _check_head(head: Any, fleet: str, where: str) -> None:
    check_schema(head["schema"], where, SCHEMA)
    if head["fleet"] != fleet:
        raise StoreBroken(
            f"{where} holds the sessions of fleet {head['fleet']!r}, and this one is {fleet!r}: name another snapshot; "
            "it is left as it is"
        )


def _checked(values: list[Any]) -> list[Any]:
    if len(values) != len(_NAMES):
        raise ValueError(f"{len(values)} fields where {len(_NAMES)} belong")
    return values


class _Replay:
    """The lines one after the other. An id may begin anew after its end: aliases are of one of its lives."""

    def __init__(self) -> None:
        self.pins: dict[bytes, Standing] = {}
        self._aliases: dict[bytes, tuple[bytes, int, int]] = {}  # the pin's id, its life, and when the alias expires
        self._lives: dict[bytes, int] = {}  # how often an id has ended

    def take(self, record: list[Any]) -> None:
        match record:
            case ["pin", text, values, expires, aliases]:
                pin = Pin(bytes.fromhex(text), *_checked(values))
                self._pin(Standing(pin, int(expires), tuple(map(bytes.fromhex, aliases))))
            case ["alias", key, text, expires]:
                self._alias(bytes.fromhex(key), bytes.fromhex(text), int(expires))
            case ["end", text]:
                self._end(bytes.fromhex(text))
            case _:
                raise ValueError(f"{str(record)[:64]} is no record")

    def aliases(self) -> dict[bytes, tuple[bytes, int]]:
        """Those that lead to a pin."""
        return {
            key: (pin_id, expires)
            for key, (pin_id, life, expires) in self._aliases.items()
            if pin_id in self.pins and life == self._lives.get(pin_id, 0)
        }

    def _pin(self, standing: Standing) -> None:
        pin_id = standing.pin.id
        before = self.pins.get(pin_id)
        if before is not None and before.pin.created != standing.pin.created:
            self._end(pin_id)
        self.pins[pin_id] = standing
        for key in standing.aliases:
            self._alias(key, pin_id, standing.expires)

    def _alias(self, key: bytes, pin_id: bytes, expires: int) -> None:
        self._aliases[key] = pin_id, self._lives.get(pin_id, 0), expires

    def _end(self, pin_id: bytes) -> None:
        self.pins.pop(pin_id, None)
        self._lives[pin_id] = self._lives.get(pin_id, 0) + 1
