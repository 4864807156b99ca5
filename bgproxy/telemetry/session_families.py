"""What a host counts of its sessions, as Prometheus families: by preset and color where that is known.

Reads the numbers under `sessions` of a merged snapshot; what is not there, as of a worker of an older version, is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

_PLACES = (  # by preset and color
    ("pinned", "Sessions that began there."),
    ("learned", "Keys that agents there have minted."),
    ("moved", "Sessions that came there from another release, by a flip, a rollback or by hand."),
    ("ended", "Sessions that were over, as their protocol says."),
)
_COUNTS = (
    ("aliases", "aliases", "Further keys that lead to a session that has one."),
    ("conflicts", "conflicts", "Keys that lead to another session already, and pins that the store holds otherwise."),
    ("refreshed", "refreshed", "Pins prolonged, as their sessions are in use."),
    ("gone", "restored", "Pins in use that the store had lost, and was told again."),
    ("journalled", "journalled", "Decisions written down while the store was away."),
    ("refused", "refused", "Sessions turned away while the store was away."),
    ("dropped", "journal_dropped", "Decisions given up, as the journal was full."),
    ("ignored", "ignored_values", "Values that stood where an id stands and can be none."),
    ("preview", "previews", "Requests that were let in to look at a color that is not active."),
    ("preview_wrong_token", "preview_wrong_tokens", "Requests whose preview token is not known here."),
)
_GAUGES = (
    ("keys", "cached_keys", "Keys that the workers remember."),
    ("waiting", "journal_waiting", "Decisions that are still to be told to the store."),
    ("turns", "held_turns", "Turns under way that keep their session from being moved."),
)


def families(sessions: Mapping[str, Any]) -> Iterator[Metric]:
    """All of them; they are there, at 0, before the first session is."""
    places: Mapping[str, Mapping[str, Mapping[str, int]]] = sessions.get("places", {})
    for name, text in _PLACES:
        family = CounterMetricFamily(f"bgproxy_session_{name}", text, labels=["preset", "color"])
        for preset, colors in sorted(places.items()):
            for color, place in sorted(colors.items()):
                family.add_metric([preset, color], place.get(name, 0))
        yield family
    found = {"hit": sessions.get("hits", 0), "miss": sessions.get("misses", 0)}
    yield _labelled(
        "lookups", "Requests of a session; hit: its pin was known, miss: the store was asked.", "result", found
    )
    unread = sessions.get("unpinned", {})
    yield _labelled("unpinned", "Bodies that may name a session and were not read, by reason.", "reason", unread)
    for name, told, text in _COUNTS:
        yield CounterMetricFamily(f"bgproxy_session_{told}", text, value=sessions.get(name, 0))
    for name, told, text in _GAUGES:
        yield GaugeMetricFamily(f"bgproxy_session_{told}", text, value=sessions.get("gauges", {}).get(name, 0))
    yield from _trips(sessions.get("store", {}))


def _trips(store: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """A summary without quantiles: how many round trips, and how long they took together."""
    text = "Round trips to the store for sessions' sake, by question; one carries all that is asked at one moment."
    seconds = SummaryMetricFamily("bgproxy_session_store_seconds", text, labels=["question"])
    failed: dict[str, float] = {}
    for question, trips in sorted(store.items()):
        seconds.add_metric([question], int(trips.get("calls", 0)), trips.get("seconds", 0.0))
        failed[question] = trips.get("failed", 0)
    yield seconds
    yield _labelled("store_failures", "Those of them that the store did not answer.", "question", failed)


def _labelled(name: str, text: str, label: str, counts: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"bgproxy_session_{name}", text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
