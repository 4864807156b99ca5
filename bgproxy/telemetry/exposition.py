"""A merged snapshot of the counters, told in the Prometheus text format.

One scrape speaks for all workers of the host, whichever of them answers. It reads plain numbers that exist already
and keeps none of its own: the families live for one scrape, on a registry of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bgproxy.rules.fleet import FleetState
from bgproxy.rules.retire import cost
from bgproxy.telemetry import session_families

CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")  # "none": no answer was begun
_SERIES = ("route", "color", "release")

Snapshot = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands beside the counters. `store_alarm`: the store contradicts what is held; `pointer_age`: seconds since
    it was last heard; `fenced`: workers that admit nothing new; `silent`: nodes of the fleet that are waited for and
    not heard; `sessions`: live ones of the fleet by color and release, none while the store is away; `flip`: the ledger
    of the last flip, likewise; `now`: unix seconds by the store's clock."""

    state: FleetState | None
    store_up: bool
    store_alarm: bool
    pointer_age: float
    fenced: int
    silent: int
    workers: int
    version: str
    sessions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    flip: Mapping[str, Any] = field(default_factory=dict)
    now: float = 0.0


def expose(snapshot: Snapshot, facts: Facts, accept: str = "") -> tuple[bytes, str]:
    """The scrape's answer and its content type; OpenMetrics where `accept` asks for it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(snapshot, facts))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Families(Collector):
    def __init__(self, snapshot: Snapshot, facts: Facts) -> None:
        self._snapshot = snapshot
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        series = self._snapshot["series"]
        yield from _answers(series)
        yield _histogram(
            "request_duration_seconds", "From a request's head to its answer's end.", self._snapshot, "latency"
        )
        yield _histogram(
            "time_to_first_byte_seconds", "From a request's head to its answer's head.", self._snapshot, "ttfb"
        )
        yield from _relays(series)
        yield from _edges(self._snapshot)
        yield from _upstreams(self._snapshot["upstreams"])
        yield from session_families.families(self._snapshot["sessions"])
        yield from _fleet(self._facts)


def _answers(series: Iterable[Snapshot]) -> Iterator[Metric]:
    """The counts and gauges that each series holds as one number or as a list of them."""
    family = CounterMetricFamily("bgproxy_requests", "Requests by status class.", labels=(*_SERIES, "class"))
    for one in series:
        for name, count in zip(CLASSES, one["classes"], strict=True):
            family.add_metric([*_key(one), name], count)
    yield family
    for name, text, member in (
        ("bgproxy_in_flight", "Requests claimed and not yet ended, streams and WebSockets included.", "in_flight"),
        ("bgproxy_open_streams", "Streamed answers that are being relayed.", "streams"),
        ("bgproxy_open_websockets", "Connections that were upgraded and are tunnelled.", "websockets"),
    ):
        yield _per_series(GaugeMetricFamily(name, text, labels=_SERIES), series, member)


def _relays(series: Iterable[Snapshot]) -> Iterator[Metric]:
    retries = CounterMetricFamily("bgproxy_retries", "Requests sent once more, to another connection.", labels=_SERIES)
    yield _per_series(retries, series, "retries")
    sides = ("broken_client", "broken_agent", "broken_proxy")  # the last: held by a worker that died
    for name, text, label, members in (
        ("bgproxy_broken", "Exchanges that one side ended early.", "side", sides),
        ("bgproxy_bytes", "Body bytes: in from clients, out to them.", "direction", ("bytes_in", "bytes_out")),
    ):
        family = CounterMetricFamily(name, text, labels=(*_SERIES, label))
        for one in series:
            for member in members:
                family.add_metric([*_key(one), member.rpartition("_")[2]], one[member])
        yield family


def _histogram(name: str, text: str, snapshot: Snapshot, member: str) -> Metric:
    family = HistogramMetricFamily(f"bgproxy_{name}", text, labels=_SERIES)
    bounds = [*map(floatToGoString, snapshot["bounds"]), "+Inf"]
    for one in snapshot["series"]:
        counts = accumulate(one[member]["buckets"])  # ours count one bucket each, Prometheus all up to the bound
        family.add_metric(_key(one), list(zip(bounds, counts, strict=True)), one[member]["sum"])
    return family


def _edges(snapshot: Snapshot) -> Iterator[Metric]:
    """The client side, before a route is known."""
    refused = CounterMetricFamily(
        "bgproxy_refused", "Answers that the proxy gave itself, by problem code.", labels=["code"]
    )
    for code, count in sorted(snapshot["counters"]["refused"].items()):
        refused.add_metric([code], count)
    yield refused
    held = snapshot["counters"].get("held", 0)
    yield CounterMetricFamily("bgproxy_held", "Requests that waited for a flip to be made, or a pause.", value=held)
    dropped = snapshot["counters"].get("dropped_fields", 0)
    yield CounterMetricFamily("bgproxy_dropped_fields", "Fields taken out for the `_` in their names.", value=dropped)
    yield CounterMetricFamily(
        "bgproxy_connections", "Client connections accepted.", snapshot["counters"]["connections"]
    )
    yield GaugeMetricFamily("bgproxy_client_connections", "Client connections open.", snapshot["gauges"]["connections"])


def _upstreams(upstreams: Iterable[Snapshot]) -> Iterator[Metric]:
    healthy = GaugeMetricFamily("bgproxy_upstream_healthy", "1 where all workers may use it.", labels=["color", "url"])
    labels = ["color", "url", "state"]
    connections = GaugeMetricFamily("bgproxy_upstream_connections", "Connections to agents.", labels=labels)
    for one in upstreams:
        healthy.add_metric([one["color"], one["url"]], float(one["healthy"]))
        connections.add_metric([one["color"], one["url"], "busy"], one["open"] - one["idle"])
        connections.add_metric([one["color"], one["url"], "idle"], one["idle"])
    yield healthy
    yield connections


def _fleet(facts: Facts) -> Iterator[Metric]:
    yield GaugeMetricFamily("bgproxy_workers", "Living workers of this host.", facts.workers)
    yield GaugeMetricFamily("bgproxy_store_up", "1 where every worker hears the store.", float(facts.store_up))
    text = "1 where the store contradicts what a worker holds, which stands: it was emptied, or it went back."
    yield GaugeMetricFamily("bgproxy_store_alarm", text, float(facts.store_alarm))
    yield GaugeMetricFamily("bgproxy_pointer_age_seconds", "Since the store was last heard.", facts.pointer_age)
    yield GaugeMetricFamily("bgproxy_fenced", "Workers that admit nothing new, as they are cut off.", facts.fenced)
    text = "Nodes of the fleet that are not heard, for which flips and moving sessions wait; unknown without the store."
    yield GaugeMetricFamily("bgproxy_silent_nodes", text, facts.silent)
    build = GaugeMetricFamily("bgproxy_build_info", "The version that runs.", labels=["version"])
    build.add_metric([facts.version], 1)
    yield build
    text = "Live sessions of the whole fleet, by the release that they are pinned to."
    sessions = GaugeMetricFamily("bgproxy_sessions", text, labels=["color", "release"])
    for key, count in sorted(facts.sessions.items()):
        sessions.add_metric(list(key), count)
    yield sessions
    yield from _flip(facts.flip)
    if facts.state is None:
        return
    yield GaugeMetricFamily("bgproxy_epoch", "The pointer's epoch.", facts.state.pointer.epoch)
    active = GaugeMetricFamily("bgproxy_active", "1 for the active color.", labels=["color"])
    for color in facts.state.colors:
        active.add_metric([color], float(color == facts.state.pointer.active))
    yield active
    info = GaugeMetricFamily("bgproxy_release_info", "What each color holds.", labels=["color", "release", "phase"])
    for color, release in facts.state.releases.items():
        info.add_metric([color, release.label, release.phase], 1)
    yield info
    yield from _double_running(facts.state, facts.now)
    stuck = facts.state.run is not None and facts.state.run.is_open and bool(facts.state.run.trouble)
    text = "1 where a release is bad and cannot be rolled back: somebody has to look."
    yield GaugeMetricFamily("bgproxy_release_stuck", text, float(stuck))


def _double_running(state: FleetState, now: float) -> Iterator[Metric]:
    """What stands idle beside the active release; `rules/retire.py` defines it."""
    idle = GaugeMetricFamily("bgproxy_idle_replicas", "Addresses that run and are not active.", labels=_SERIES[1:])
    text = "Idle addresses times seconds, for a release that waits or was left, its successor's before the flip too."
    spent = GaugeMetricFamily("bgproxy_double_running_replica_seconds", text, labels=_SERIES[1:])
    for color, release in state.releases.items():
        found = cost(release, now) if color != state.pointer.active else None
        if found is not None:
            idle.add_metric([color, release.label], found.replicas)
            spent.add_metric([color, release.label], found.replica_seconds)
    yield idle
    yield spent


def _flip(ledger: Mapping[str, Any]) -> Iterator[Metric]:
    if not ledger:
        return
    text = "What became of the sessions that the last flip left."
    sessions = GaugeMetricFamily("bgproxy_flip_sessions", text, labels=["outcome"])
    for outcome in ("kept", "moved", "ended", "lost"):
        sessions.add_metric([outcome], ledger[outcome])
    yield sessions
    text = "Exchanges that bgproxy itself broke off and that are put to the last flip."
    yield GaugeMetricFamily("bgproxy_flip_turns_cut", text, ledger["turns_cut"])


def _per_series(family: Metric, series: Iterable[Snapshot], member: str) -> Metric:
    add: Callable[[list[str], float], None] = family.add_metric  # type: ignore[attr-defined] # both families have it
    for one in series:
        add(_key(one), one[member])
    return family


def _key(one: Snapshot) -> list[str]:
    return [one["route"], one["color"], one["release"]]
