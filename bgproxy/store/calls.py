"""A store's calls as messages: what one process of a host asks another one's memory store, and what it hears.

The calls are those of the protocols `Store` and `PinStore`, read off their annotations. Values travel as plain ones
(numbers, texts, bytes, lists, tuples, dictionaries) by the names of their members, so that two versions understand one
another as far as they can: a member that is not known is left out, one that is missing has its default.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, get_args, get_type_hints

from pydantic import TypeAdapter

from bgproxy.errors import BadInput, BgproxyError, CannotJoin, StoreBroken, StoreUnavailable, UnknownSession
from bgproxy.rules.fleet import FleetState
from bgproxy.store.base import Conflict, Store
from bgproxy.store.once import AlreadyDone, Done
from bgproxy.store.pinning import PinStore

LARGEST: Final = 64 * 1024 * 1024  # bytes of a message

Message = tuple[int, str, Any]
"""The number of the call, what is said (a call's name; ok, item or failed), and with what."""

_OWN: Final = frozenset({"open", "close", "routes_by"})  # of each process's own store
_PLAIN_ERRORS: Final[Mapping[str, type[BgproxyError]]] = {
    error.__name__: error for error in (StoreUnavailable, StoreBroken, BadInput, CannotJoin, UnknownSession)
}


class Call:
    """One method of a protocol: how its arguments and its answer are read."""

    def __init__(self, method: Callable[..., Any]) -> None:
        hints = get_type_hints(method)
        self.streams = not inspect.iscoroutinefunction(method)
        answer = hints.pop("return")
        self.answer: TypeAdapter[Any] = TypeAdapter(get_args(answer)[0] if self.streams else answer)
        self._names = [name for name in inspect.signature(method).parameters if name != "self"]
        self._arguments: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(hint) for name, hint in hints.items()}

    def written(self, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """The arguments by name, as they travel."""
        return plain({**dict(zip(self._names, arguments, strict=False)), **named})

    def read(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that came; what this version does not know is left out. Raises ValidationError."""
        return {name: self._arguments[name].validate_python(told[name]) for name in self._names if name in told}


def _calls(protocol: type, prefix: str = "") -> dict[str, Callable[..., Any]]:
    names = (name for name in dir(protocol) if not name.startswith("_") and name not in _OWN)
    return {prefix + name: getattr(protocol, name) for name in names if callable(getattr(protocol, name))}


_METHODS: Final = {**_calls(Store), **_calls(PinStore, "pins.")}
_made: dict[str, Call] = {}


def call_of(name: str) -> Call | None:
    """The call of that name, `pins.` before those of the pins; None where there is none."""
    if name not in _made and name in _METHODS:
        _made[name] = Call(_METHODS[name])
    return _made.get(name)


def plain(value: Any) -> Any:
    """A value as it travels."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.init}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, list | set | frozenset):
        return [plain(item) for item in value]
    return value


# Errors


def error_written(error: BgproxyError) -> Any:
    """An error as it travels: its kind, its text, and what stands or was done in its stead."""
    if isinstance(error, Conflict):
        return ("Conflict", "", plain(error.current))
    if isinstance(error, AlreadyDone):
        return ("AlreadyDone", "", plain(error.done))
    return (type(error).__name__, str(error), None)


def error_read(told: Any) -> BgproxyError:
    """The error that was told."""
    kind, text, more = told
    if kind == "Conflict":
        return Conflict(TypeAdapter(FleetState | None).validate_python(more))
    if kind == "AlreadyDone":
        return AlreadyDone(TypeAdapter(Done).validate_python(more))
    return _PLAIN_ERRORS.get(kind, StoreUnavailable)(text)


# Messages


class _Plain(pickle.Unpickler):
    """Reads plain values only: nothing is imported, and nothing called."""

    def find_class(self, module_name: str, name: str) -> Any:
        """What a plain value has none of."""
        raise pickle.UnpicklingError(f"{module_name}.{name} is no plain value")


def packed(message: Message) -> bytes:
    """A message with its length before it."""
    text = pickle.dumps(message, protocol=4)
    return len(text).to_bytes(4, "big") + text


async def next_message(reader: asyncio.StreamReader) -> Message:
    """Raises EOFError at the end of the line, and ValueError for what is no message."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > LARGEST:
            raise ValueError("a message is too large")
        found = _Plain(io.BytesIO(await reader.readexactly(size))).load()
    except (asyncio.IncompleteReadError, ConnectionError):
        raise EOFError from None
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    if not (isinstance(found, tuple) and len(found) == 3):
        raise ValueError("a message has three parts")
    return found
