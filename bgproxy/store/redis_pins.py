"""The pins of many nodes: one script in Redis per verb, which keep the promises of `store/pinning.py`.

Knows the spelling of keys and pins, which the scripts share (`pin.lua`). Must not know the client library: it is given
a client, and a border that names what goes wrong.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from importlib.resources import files
from itertools import chain
from typing import Any, cast

from bgproxy.errors import BadInput, StoreBroken, StoreUnavailable
from bgproxy.rules.pin import Pin
from bgproxy.store.pinning import ID_BYTES, Learned, PinCount, Resolved, Turn, Want

_FIELDS = 12  # of a pin's text, the raw aliases included
_SCANS = 16  # steps of the cursor in one page at most: other fleets' keys are passed over too
_SCAN_KEYS = 500
_VERBS = ("resolve", "learn", "refresh", "end", "place", "migrate")


class RedisPins:
    """See `PinStore`."""

    def __init__(
        self,
        client: Any,
        border: Callable[[], AbstractAsyncContextManager[None]],
        hear: Callable[[str], AsyncGenerator[bytes | None, None]],
        prefix: str,
    ) -> None:
        """`hear` yields None once it is subscribed to a channel, then what comes."""
        self.least_epoch = 0  # of a pointer by which a pin may be made
        self._client = client
        self._border = border
        self._hear = hear
        self._prefix = (prefix + "k:").encode()
        self._state_key, self._counts_key = prefix + "state", prefix + "n"
        self._nodes_key, self._turns_key, self._flips_key = prefix + "nodes", prefix + "turns", prefix + "flips"
        self._bell, self._roll_key = prefix + "pins", prefix + "roll"
        common = _script("pin.lua")
        self._scripts = {verb: client.register_script(common + _script(f"pin_{verb}.lua")) for verb in _VERBS}
        self._applied_script = client.register_script(_script("pin_applied.lua"))
        self._idle_script = client.register_script(_script("pin_idle.lua"))

    def __repr__(self) -> str:
        return f"<RedisPins {self._prefix.decode()}>"

    async def resolve(self, wants: Sequence[Want]) -> list[Resolved | None]:
        """See `PinStore.resolve`."""
        if not wants:
            return []
        arguments = chain([self.least_epoch], chain.from_iterable(_want_arguments(want) for want in wants))
        answer = await self._run("resolve", chain.from_iterable(want.keys for want in wants), arguments)
        if not answer:
            raise self._no_pointer()
        now, rows = float(answer[0]), (answer[at : at + 5] for at in range(1, len(answer), 5))
        return [self._resolved_as(row, now) if row[0] else None for row in rows]

    async def learn(self, learned: Sequence[Learned]) -> list[Resolved]:
        """See `PinStore.learn`."""
        if not learned:
            return []
        arguments = chain.from_iterable(_learned_arguments(one) for one in learned)
        answer = await self._run("learn", chain.from_iterable(one.keys for one in learned), arguments)
        now = float(answer[0])
        return [self._resolved_as(answer[at : at + 5], now) for at in range(1, len(answer), 5)]

    async def refresh(self, keys: Sequence[bytes]) -> list[bytes]:
        """See `PinStore.refresh`."""
        return cast("list[bytes]", await self._run("refresh", keys)) if keys else []

    async def end(self, keys: Sequence[bytes]) -> list[bool]:
        """See `PinStore.end`."""
        return [ended == 1 for ended in await self._run("end", keys)] if keys else []

    async def place(self, pin: Pin, upstream: str) -> Pin | None:
        """See `PinStore.place`."""
        answer = await self._run("place", [pin.id], (pin.color, pin.release, pin.upstream, upstream))
        return self._pin(*answer) if answer else None

    async def move(self, key: bytes) -> Pin | None:
        """See `PinStore.move`."""
        [pin] = await self.migrate("", [Turn(key, 0)])
        return pin

    async def migrate(self, node: str, turns: Sequence[Turn]) -> list[Pin | None]:
        """See `PinStore.migrate`. Without a node (""): for orders only, and for no turn."""
        if not turns:
            return []
        arguments = (node, *chain.from_iterable((turn.serial, turn.epoch) for turn in turns))
        tables = (self._nodes_key, self._turns_key, self._flips_key, self._roll_key)
        answer = await self._run("migrate", (turn.pin_id for turn in turns), arguments, tables)
        if answer == [b"none"]:
            raise self._no_pointer()
        return [self._pin(id_, text) if id_ else None for id_, text in zip(answer[::2], answer[1::2], strict=True)]

    async def applied(
        self, node: str, epoch: int, revision: int, turns: Sequence[Turn], *, anew: bool = True, serial: int = 0
    ) -> bool:
        """See `PinStore.applied`."""
        arguments = [node, f"{epoch} {revision}", int(anew), serial, *_told(turns)]
        async with self._border():
            known = await self._applied_script(keys=[self._nodes_key, self._turns_key], args=arguments)
        return bool(known)

    async def idle(self, node: str, turns: Sequence[Turn]) -> None:
        """See `PinStore.idle`."""
        async with self._border():
            await self._idle_script(keys=[self._turns_key], args=[node, *_told(turns)])

    async def find(self, key: bytes) -> Pin | None:
        """See `PinStore.find`."""
        found = await self.look(key)
        return found[0] if found is not None else None

    async def look(self, key: bytes) -> tuple[Pin, float] | None:
        """See `PinStore.look`."""
        async with self._border():
            text = await self._client.get(self._prefix + key)
            if text is not None and text[:1] == b"@":
                key = text[1:]
                text = await self._client.get(self._prefix + key)
        return None if text is None or text[:1] == b"@" else self._parsed(key, text)

    async def counts(self) -> Mapping[tuple[str, str], PinCount]:
        """See `PinStore.counts`."""
        async with self._border():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hgetall(self._counts_key)
            (seconds, micros), fields = await pipeline.execute()
        now = seconds + micros / 1e6
        found: dict[tuple[str, str], PinCount] = {}
        for field, count in fields.items():
            color, release, expires = self._understood(field, 3)
            if float(expires) > now:
                live, last = found.get((color, release), (0, 0.0))
                found[color, release] = PinCount(live + int(count), max(last, float(expires)))
        return found

    async def page(self, cursor: str, limit: int, color: str | None = None) -> tuple[list[tuple[Pin, float]], str]:
        """See `PinStore.page`. The cursor is Redis' own; a page holds what its last step brought, so maybe more."""
        if not (
            cursor.isascii() and (cursor.isdigit() or not cursor) and len(cursor) <= 20 and int(cursor or 0) < 1 << 64
        ):
            raise BadInput(f"cursor: {cursor[:64]!r} is none that a page has given")
        at, found = int(cursor or 0), dict[bytes, tuple[Pin, float]]()
        async with self._border():
            for _ in range(_SCANS):
                steps = max(1, min(limit, _SCAN_KEYS))
                at, keys = await self._client.scan(at, match=self._prefix + b"*", count=steps)
                texts = await self._client.mget(keys) if keys else ()
                for key, text in zip(keys, texts, strict=True):
                    if text is not None and text[:1] != b"@":
                        pin, expires = self._parsed(key[len(self._prefix) :], text)
                        if color in (None, pin.color):
                            found[pin.id] = pin, expires
                if not at or len(found) >= limit:
                    break
        return [*found.values()], str(at) if at else ""

    async def watch(self) -> AsyncIterator[tuple[bytes, ...]]:
        """See `PinStore.watch`."""
        async with aclosing(self._hear(self._bell)) as line:
            async for ids in line:
                if ids is None:
                    yield ()
                elif ids and len(ids) % ID_BYTES == 0:  # whoever rings with anything else is not heard
                    yield tuple(ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES))

    async def _run(
        self, verb: str, keys: Iterable[bytes], arguments: Iterable[Any] = (), tables: Sequence[str] = ()
    ) -> Any:
        names = [self._state_key, self._counts_key, *tables, *(self._prefix + key for key in keys)]
        async with self._border():
            return await self._scripts[verb](keys=names, args=[self._prefix, self._bell, *arguments])

    def _resolved_as(self, row: list[Any], now: float) -> Resolved:
        pin_id, text, created, aliases, conflicts = row
        return Resolved(self._pin(pin_id, text), created == 1, aliases, conflicts, now)

    def _pin(self, pin_id: bytes, text: bytes) -> Pin:
        return self._parsed(pin_id, text)[0]

    def _parsed(self, pin_id: bytes, text: bytes) -> tuple[Pin, float]:
        """A pin of its text (see `pin.lua`) and its expiry."""
        texts = self._understood(text, _FIELDS)
        color, release, epoch, created, ttl, max_age, moved, expires, preset, route, upstream = texts[: _FIELDS - 1]
        try:
            pin = Pin(
                id=pin_id,
                color=color,
                release=release,
                upstream=upstream,
                epoch=int(epoch),
                created=float(created),
                preset=preset,
                route=route,
                moved=int(moved),
                ttl=float(ttl),
                max_age=float(max_age),
            )
            return pin, float(expires)
        except ValueError as error:
            raise self._broken(str(error)) from error

    def _understood(self, text: bytes, count: int) -> list[str]:
        """The fields of a text; of a pin's the last are raw bytes, which say nothing here."""
        fields = text.split(b"\t", count - 1)
        if len(fields) != count:
            raise self._broken(f"{len(fields)} fields where {count} belong")
        try:
            return [field.decode() for field in (fields[:-1] if count == _FIELDS else fields)]
        except UnicodeDecodeError as error:
            raise self._broken(str(error)) from error

    def _broken(self, problem: str) -> StoreBroken:
        where = self._prefix.decode()
        return StoreBroken(f"store: a pin below {where} cannot be understood ({problem}): remove it to begin anew")

    def _no_pointer(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"store: {self._state_key} holds no pointer, or has lost the one of epoch {self.least_epoch}: no session "
            "can be pinned by it"
        )


def _told(turns: Sequence[Turn]) -> Iterator[bytes | int]:
    """Each one's pin and serial."""
    return chain.from_iterable((turn.pin_id, turn.serial) for turn in turns)


def _want_arguments(want: Want) -> Iterator[str | bytes | int]:
    """See `pin_resolve.lua`."""
    was = b"" if want.was is None else want.was.id + _text(want.was)
    yield from (len(want.keys), _number(want.ttl), _number(want.max_age), _plain(want.route), _plain(want.preset))
    yield from (*want.offer, was, want.wish)


def _learned_arguments(one: Learned) -> Iterator[str | bytes | int]:
    """See `pin_learn.lua`."""
    yield from (len(one.keys), one.pin_id or b"", one.color, one.release, one.epoch)
    yield from (_number(one.ttl), _number(one.max_age), _plain(one.route), _plain(one.preset), one.upstream)


def _text(pin: Pin) -> bytes:
    """A pin as it is written, without aliases; its expiry is the script's to find."""
    fields = (
        pin.color, pin.release, str(pin.epoch), _number(pin.created), _number(pin.ttl), _number(pin.max_age),
        str(pin.moved), "0", _plain(pin.preset), _plain(pin.route), pin.upstream, "",
    )  # fmt: skip
    return "\t".join(fields).encode()


def _number(value: float) -> str:
    """As short as it can be, to the millisecond."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _plain(name: str) -> str:
    """A configured name without what parts the fields."""
    return name.replace("\t", " ")


def _script(name: str) -> str:
    return files("bgproxy.store").joinpath(name).read_text(encoding="utf-8")
