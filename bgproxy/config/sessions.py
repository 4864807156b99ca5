"""How sessions are written: lists of presets and numbers, by route, turned into what the data path and the node take.

Decides what holds for a route: its own keys, else those of [sessions]. Presets and fields are judged by those who read
them, in `bgproxy.sessions` and in the parser; here is only said which key is wrong. Nothing is recognised here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Final, TypeVar

from bgproxy.config.document import Document, PresetSection, RouteSection
from bgproxy.config.keys import Path
from bgproxy.config.wording import near
from bgproxy.errors import ConfigError
from bgproxy.http1.parser import check_marks
from bgproxy.proxy.options import RouteSessions, SessionOptions
from bgproxy.proxy.plane import SWEEP_INTERVAL, TOUCH_INTERVAL
from bgproxy.sessions.preset import Preset
from bgproxy.sessions.presets import PROTOCOLS
from bgproxy.sessions.spec import preset_from, preset_named
from bgproxy.store.pin_outage import PinOptions

LEAST_TTL: Final = 3 * (TOUCH_INTERVAL + SWEEP_INTERVAL)
"""Seconds. Use is told once a third of the time has passed. What is open says so at most the second third later, and
within the last one it is told (three `refresh_interval`s are the other bound): less would end a stream's session.
"""

OF_THE_NODE: Final = frozenset(item.name for item in fields(PinOptions))
"""The keys of [sessions] that are no route's, but of the memory that a worker has from its start."""

_Own = Mapping[str, Preset | None]  # the operator's presets by name; None: its table is wrong, which is told once
_T = TypeVar("_T")


def options(document: Document, routes: Iterable[str]) -> SessionOptions:
    """What is done to know sessions; `routes`: the names of all that there are. Those without presets are left out."""
    own = {name: _declared(name, section) for name, section in document.session_preset.items()}
    found = {name: _route(document, document.route.get(name, RouteSection()), own) for name in routes}
    return SessionOptions(
        routes={name: route for name, route in found.items() if route.presets},
        inspect_bytes=document.sessions.inspect_bytes,
        pin_write_timeout=document.sessions.pin_write_timeout,
    )


def pins(document: Document) -> PinOptions:
    """What a node remembers of sessions."""
    common = document.sessions
    return PinOptions(
        cache_size=common.cache_size,
        journal_size=common.journal_size,
        refresh_interval=common.refresh_interval,
        on_store_outage=common.on_store_outage,
    )


def faults(document: Document) -> Iterator[tuple[Path, str]]:
    """Everything about sessions that cannot be used, by key."""
    own: dict[str, Preset | None] = {}
    for name, section in document.session_preset.items():
        try:
            own[name] = _declared(name, section)
        except ConfigError as error:
            own[name] = None
            yield ("session_preset", name), _bare(str(error), name)
            continue
        if fault := _unseen(own[name], document):
            yield ("session_preset", name), fault
    for path, texts in _lists(document):
        for fault in _listing(texts, own, document):
            yield path, fault
    yield from _times(document)
    if any(_in_force(document)):
        yield from _inspection(document)


def _route(document: Document, section: RouteSection, own: Mapping[str, Preset]) -> RouteSessions:
    common = document.sessions
    return RouteSessions(
        presets=tuple(own.get(text) or preset_named(text) for text in _either(section.sessions, common.presets)),
        policy=_either(section.policy, common.policy),
        on_rollback=_either(section.on_rollback, common.on_rollback),
        bind_credentials=_either(section.bind_credentials, common.bind_credentials),
        pin_ttl=_either(section.pin_ttl, common.pin_ttl),
        max_age=_either(section.max_age, common.max_age),
    )


def _either(own: _T | None, common: _T) -> _T:
    return common if own is None else own


def _declared(name: str, section: PresetSection) -> Preset:
    return preset_from({"name": name, **asdict(section)})


def _lists(document: Document) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The lists of presets as they are written."""
    yield ("sessions", "presets"), document.sessions.presets
    for name, route in document.route.items():
        if route.sessions is not None:
            yield ("route", name, "sessions"), route.sessions


def _in_force(document: Document) -> Iterator[tuple[str, ...]]:
    """The list of presets of each route."""
    for route in document.route.values() or [RouteSection()]:
        yield _either(route.sessions, document.sessions.presets)


def _listing(texts: tuple[str, ...], own: _Own, document: Document) -> Iterator[str]:
    for number, text in enumerate(texts):
        if text in texts[:number]:
            yield f'"{text}" is there twice; remove one'
        elif text not in own:
            try:
                fault = _unseen(preset_named(text), document)
            except ConfigError as error:
                fault = _bare(str(error)) + _similar(text, own)
            if fault:
                yield fault


def _similar(text: str, own: _Own) -> str:
    """The operator's own presets, which `preset_named` cannot know."""
    hint = near(text, [*own]) if own else ""
    return f"; of your own, {hint}" if hint else ""


def _unseen(preset: Preset | None, document: Document) -> str | None:
    """Why a field of the preset's would never be seen; None where all are."""
    if preset is None or preset.name in PROTOCOLS:
        return None
    asked = frozenset(field.name for field in preset.fields)
    try:
        check_marks(asked | {field.name for field in preset.learn_fields})
    except ConfigError as error:
        return f"{error}; name a field of the agents' own, such as header:X-Session-Id"
    for name in sorted(asked):
        if b"_" in name and document.forwarding.underscores != "pass":
            return (
                f"{name.decode()!r} has an underscore, and forwarding.underscores is "
                f'"{document.forwarding.underscores}", so that it is never read; write '
                f'{name.decode().replace("_", "-")!r} if clients can send that, or forwarding.underscores = "pass"'
            )
    return None


def _times(document: Document) -> Iterator[tuple[Path, str]]:
    common, refresh = document.sessions, document.sessions.refresh_interval
    written: list[tuple[Path, float | None, float | None]] = [(("sessions",), common.pin_ttl, common.max_age)]
    written += [(("route", name), own.pin_ttl, own.max_age) for name, own in document.route.items()]
    for path, ttl, age in written:
        if ttl is not None and LEAST_TTL <= ttl < 3 * refresh:
            yield (
                (*path, "pin_ttl"),
                f"{ttl:g} is less than three times sessions.refresh_interval ({refresh:g}), so that a session in use "
                f"could end before the store hears of it; write at least {3 * refresh:g} or lower refresh_interval",
            )
        if age is not None and 0 < age < LEAST_TTL:
            yield (*path, "max_age"), f"{age:g} is too small; the least is {LEAST_TTL:g}, and 0 switches it off"


def _inspection(document: Document) -> Iterator[tuple[Path, str]]:
    """What is read for a key is held meanwhile, in the buffers whose bound that is."""
    own, most = document.sessions.inspect_bytes, document.limits.high_water_bytes
    if own > most:
        yield (
            ("sessions", "inspect_bytes"),
            f"{own} is more than limits.high_water_bytes ({most}), but what is read is held meanwhile; "
            f"write at most {most} or raise limits.high_water_bytes",
        )


def _bare(text: str, name: str = "") -> str:
    """What is wrong without the place, which is told by its key."""
    for place in (f"session {name!r}: ", "session: ", "sessions: "):
        text = text.removeprefix(place)
    return text
