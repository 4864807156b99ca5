"""What gates are tried on: the idle color's release, beside it the active one, and how the fleet is routed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from bgproxy.rollout.foreseen import unknown_route
from bgproxy.rollout.options import RolloutOptions
from bgproxy.rollout.records import Records
from bgproxy.rules.fleet import FleetState
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.release import Release
from bgproxy.rules.route import RouteTable
from bgproxy.rules.run import Run
from bgproxy.rules.variables import filled, unset


class Unanswerable(Exception):
    """Nothing can be found out, for a reason that is not the release's: the verdict is UNDECIDED."""

    def finding(self) -> Finding:
        """The verdict."""
        return Finding(Verdict.UNDECIDED, str(self))


@dataclass(frozen=True, slots=True)
class Trial:
    """One release on trial. `active`: what serves now, None where nothing does. `about`: what others are told of it."""

    color: str
    release: Release
    active: Release | None
    routes: RouteTable
    options: RolloutOptions = field(default_factory=RolloutOptions)
    about: Mapping[str, object] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    records: Records | None = None  # sessions that this host has recorded; None: it records none

    def upstreams(self, route: str, host: str, path: str) -> tuple[str, ...]:
        """The idle color's addresses for a request, as the proxy would route it. Raises `Unanswerable`."""
        return self._of(self.release, route, host, path)

    def active_upstreams(self, route: str, host: str, path: str) -> tuple[str, ...]:
        """The active color's; none where nothing is active."""
        return self._of(self.active, route, host, path) if self.active is not None else ()

    def _of(self, release: Release, route: str, host: str, path: str) -> tuple[str, ...]:
        if why := unknown_route(route, self.routes):
            raise Unanswerable(why)
        found = None if route else self.routes.find(host.encode(), path.encode())
        if not route and found is None:
            raise Unanswerable(f"no route of this fleet takes {host or 'any host'} {path}: name one by route")
        return release.upstreams_for(route or (found.name if found is not None else ""))

    def everywhere(self) -> tuple[str, ...]:
        """All addresses of the idle color, whatever their route."""
        routes = self.routes.routes
        return tuple(dict.fromkeys(url for route in routes for url in self.release.upstreams_for(route.name)))

    def filled(self, text: str) -> str:
        """A plan's text with the environment's values in place of its variables. Raises `Unanswerable`."""
        if why := unset(text, self.environ):
            raise Unanswerable(why)
        return filled(text, self.environ)

    def fields(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Header fields of a plan, filled."""
        return {name: self.filled(value) for name, value in headers.items()}


def trial_of(
    state: FleetState, run: Run, routes: RouteTable, options: RolloutOptions, records: Records | None = None
) -> Trial:
    """What the steps of a run are tried on, with what is told of it."""
    release = state.releases.get(run.color) or Release(run.label, ())  # at the end its color may be empty
    told = {"run": run.id, **about(run.color, release, state.active), "release": run.label}
    return Trial(run.color, release, state.active, routes, options, told, records=records)


def about(color: str, release: Release, active: Release | None) -> dict[str, object]:
    """What others are told of a release, beside what happens to it."""
    told: dict[str, object] = {"color": color, "release": release.label}
    told["active"] = active.label if active is not None else None
    return told | {"upstreams": list(release.upstreams), "metadata": dict(release.metadata)}
