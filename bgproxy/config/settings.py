"""The configuration of one proxy, read, checked and handed out as each package's own options.

Strength: flags, then the environment, then the file, then the defaults. Whatever is wrong is one ConfigError with a
line for each key. Nobody below this package sees Settings; it knows how values are told, not what is done with them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from bgproxy.admin.options import AdminOptions, Token, is_private
from bgproxy.config import checks, recording, secrets, sessions
from bgproxy.config.addresses import Address, parse_address
from bgproxy.config.document import ROOT, Document, LogSection, UpgradeSection, build
from bgproxy.config.keys import Path, dotted
from bgproxy.config.sources import from_environment, from_file, from_flags
from bgproxy.errors import ConfigError
from bgproxy.proxy.options import PreviewOptions, ProxyOptions
from bgproxy.rollout.barrier import FlipOptions
from bgproxy.rollout.options import RecordingOptions, RolloutOptions
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.release import Release, checked
from bgproxy.rules.route import Route
from bgproxy.store.base import StoreOptions
from bgproxy.store.pin_outage import PinOptions
from bgproxy.telemetry.access import AccessLogOptions

NEEDS_RESTART: frozenset[Path] = frozenset(
    {
        ("active",),
        ("admin", "listen"),
        ("fleet",),
        ("listen",),
        ("preview", "listen"),
        ("recording",),
        ("runtime_dir",),
        ("store",),
    }
    | {("workers",)}
    | {("sessions", key) for key in sessions.OF_THE_NODE}
)
"""Keys, and tables of keys, that are bound to sockets, processes, the store or what a node remembers; SIGHUP takes
over all others."""


class Settings:
    """What a proxy was told. Made by `load`, never changed; it can be pickled, with its secrets."""

    __slots__ = ("_document", "_flags", "_previews", "_recording", "_tokens", "origins", "path")

    def __init__(
        self, document: Document, tokens: tuple[Token, ...], previews: tuple[bytes, ...], origins: Mapping[Path, str]
    ) -> None:
        self._document = document
        self._tokens = tokens
        self._previews = previews
        self._recording = document.recording
        self._flags: Mapping[str, Any] = {}
        self.origins = origins  # where each key that was given came from
        self.path = ""  # of the file, as given; empty: none

    def __repr__(self) -> str:
        return f"<Settings of fleet {self.fleet} from {self.path or 'no file'}>"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        flags: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read and check all sources; `flags` has the file's shape. Raises ConfigError, a line per key at fault."""
        environ = os.environ if environ is None else environ
        layers = [from_flags(flags or {}, ROOT), from_environment(environ, ROOT)]
        if path is not None:
            layers.append(from_file(FilePath(path), ROOT))
        origins: dict[Path, str] = {}
        for layer in reversed(layers):
            origins.update(layer.origins)
        if unread := [fault for layer in layers for fault in layer.faults]:
            raise ConfigError("\n".join(unread))
        document, found = build(layer.tree for layer in layers)
        if document is None:
            raise _error(found, origins)
        tokens, previews, unresolved = secrets.resolve(document.token, environ)
        settings = cls(document, tokens, previews, origins)
        settings.path = os.fspath(path) if path is not None else ""
        settings._flags = flags or {}
        settings._recording, unsealed = recording.resolve(document.recording, environ)
        if found := checks.faults(document) + unresolved + unsealed + checks.open_preview(document, previews):
            raise _error(found, origins)
        settings.admin().check()
        return settings

    def reread(self) -> Settings:
        """What the same file, environment and flags say now. Raises ConfigError; these settings stay as they are."""
        return Settings.load(self.path or None, self._flags)

    def taking(self, new: Settings) -> Settings:
        """The new settings, but for what needs a restart, which stays as it is here: a process that is started again
        meanwhile must not stand on another store than its siblings.

        Raises ConfigError, a line per key at fault, where what stays and what is new do not go together.
        """
        kept: dict[str, Any] = {}
        for name, *keys in NEEDS_RESTART:
            mine, theirs = getattr(self._document, name), kept.get(name, getattr(new._document, name))
            kept[name] = replace(theirs, **{key: getattr(mine, key) for key in keys}) if keys else mine
        settings = Settings(new._document.model_copy(update=kept), new._tokens, new._previews, new.origins)
        settings.path, settings._flags, settings._recording = new.path, new._flags, self._recording
        if found := checks.faults(settings._document) + checks.open_preview(settings._document, new._previews):
            raise _error(found, new.origins)
        settings.admin().check()
        return settings

    @property
    def fleet(self) -> str:
        """The fleet's name, under which nodes find one another in the store."""
        return self._document.fleet

    @property
    def listen(self) -> tuple[Address, ...]:
        """Where clients come in."""
        return tuple(parse_address(text) for text in self._document.listen)

    @property
    def workers(self) -> int:
        """How many processes share the addresses."""
        return self._document.workers

    @property
    def grace_timeout(self) -> float:
        """Seconds that what is in flight has to finish after SIGTERM."""
        return self._document.grace_timeout

    @property
    def runtime_dir(self) -> str:
        """The directory for the workers' own sockets, absolute, as others look for it too; empty: one is made."""
        configured = self._document.runtime_dir
        return os.path.abspath(configured) if configured else ""  # noqa: PTH100 - a link stays a link

    def upgrade(self) -> UpgradeSection:
        """How long the proxy's own upgrade may take, seconds."""
        return self._document.upgrade

    @property
    def active(self) -> str:
        """The color that a fleet starts with, where the store knows none yet."""
        return checks.active(self._document)

    def colors(self) -> tuple[str, ...]:
        """The fleet's colors, in the order of the configuration."""
        return checks.colors(self._document)

    def routes(self) -> tuple[Route, ...]:
        """The fleet's routes; without any configured, one that takes everything."""
        found = tuple(Route(name, item.host, item.path) for name, item in self._document.route.items())
        return found or (Route("default"),)

    def releases(self) -> dict[str, Release]:
        """What each color holds when the fleet starts for the first time; colors without upstreams are left out."""
        return {color: self._release(color) for color in self.colors() if checks.has_upstreams(self._document, color)}

    def _release(self, color: str) -> Release:
        section = self._document.colors[color]
        own = {name: item.upstreams[color] for name, item in self._document.route.items() if item.upstreams.get(color)}
        return checked(
            Release(
                label=section.release,
                upstreams=section.upstreams,
                routes=own,
                metadata=section.metadata,
                origin="config",
            )
        )

    def proxy(self) -> ProxyOptions:
        """The data path's options."""
        written = self._document
        return ProxyOptions(
            timeouts=written.timeouts,
            limits=written.limits,
            pool=written.pool,
            forwarding=written.forwarding,
            balance=written.balance,
            sessions=sessions.options(written, [route.name for route in self.routes()]),
            hold=written.hold,
            preview=self.preview(),
        )

    def preview(self) -> PreviewOptions:
        """Who reaches a color that is not active, with the tokens' digests."""
        written = self._document.preview
        needs_token = not (written.listen and is_private(written.listen))
        return replace(written, tokens=self._previews, needs_token=needs_token)

    def flip(self) -> FlipOptions:
        """How the pointer moves."""
        return self._document.flip

    def pins(self) -> PinOptions:
        """What a node remembers of sessions, and what it does without the store."""
        return sessions.pins(self._document)

    def health(self) -> HealthOptions:
        """Checks and ejection of upstreams."""
        return self._document.health

    def plan(self) -> dict[str, object]:
        """The plan by which a release is brought out that is given none, as it is written; empty: there is none."""
        return self._document.release

    def rollout(self) -> RolloutOptions:
        """What a release's plan may reach."""
        return self._document.rollout

    def recording(self) -> RecordingOptions:
        """What is kept of sessions, with the key that seals it."""
        return self._recording

    def store(self) -> StoreOptions:
        """The store and this fleet's place in it."""
        return replace(self._document.store, fleet=self.fleet)

    def admin(self) -> AdminOptions:
        """The admin plane, tokens with their secrets."""
        return replace(self._document.admin, tokens=self._tokens)

    def access_log(self) -> AccessLogOptions:
        """Where the access log goes."""
        return self._document.access_log

    def log(self) -> LogSection:
        """How bgproxy tells what it does."""
        return self._document.log

    def written(self) -> dict[str, Any]:
        """The whole configuration by section as plain values; secrets given in the file are in it."""
        return self._document.model_dump(mode="json")


def _error(found: list[tuple[Path, str]], origins: Mapping[Path, str]) -> ConfigError:
    """One error for all that was found; each line names the key and the source that gave it, if one did."""
    return ConfigError("\n".join(_line(path, text, origins) for path, text in found))


def _line(path: Path, text: str, origins: Mapping[Path, str]) -> str:
    origin = next((origins[key] for key in origins if key[: len(path)] == path), "") if path else ""
    return f"{dotted(path)}{': ' if path else ''}{text}{f' ({origin})' if origin else ''}"
