"""Who is measured: each contender's configuration, how it is started, and how it is told to flip.

Promises: all contenders stand in front of the same upstreams, with one worker each and no access log; one that is not
installed or does not start is left out by name, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.contenders import ours, theirs
from bench.contenders.base import Backends, Contender, NotInstalled, Place
from bench.contenders.ours import Build
from bench.processes import Cores, DidNotStart, Stage

__all__ = ["Backends", "Build", "Contender", "LineUp", "line_up"]


@dataclass(slots=True)
class LineUp:
    """Those that run, in the order of the tables, and those that do not, with the reason."""

    contenders: list[Contender] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        return {each.name: each.version for each in self.contenders}


def line_up(
    stage: Stage,
    cores: Cores,
    backends: Backends,
    builds: Sequence[Build],
    *,
    only: Sequence[str] = (),
    flippable: bool = False,
) -> LineUp:
    """Start every contender, or those named in `only`; with `flippable`, those whose active color can be moved."""
    place = Place(stage, cores.proxy, backends, flippable)
    starters: dict[str, Callable[[], Contender]] = {
        "nginx": lambda: theirs.nginx(place),
        "haproxy": lambda: theirs.haproxy(place),
    }
    if not flippable:
        starters["envoy"] = lambda: theirs.envoy(place)
    for build in builds:
        starters[build.name] = _starter(place, build)
    return _start_all(starters, only)


def _starter(place: Place, build: Build) -> Callable[[], Contender]:
    return lambda: ours.bgproxy(place, build)


def _start_all(starters: Mapping[str, Callable[[], Contender]], only: Sequence[str]) -> LineUp:
    lined_up = LineUp()
    for name, start in starters.items():
        if only and name not in only:
            continue
        try:
            lined_up.contenders.append(start())
        except NotInstalled as why:
            lined_up.left_out[name] = str(why)
        except DidNotStart as why:
            lined_up.left_out[name] = f"did not start: {why}"
    return lined_up
