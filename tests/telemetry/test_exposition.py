"""The scrape, read back with Prometheus's own parser: every family, its labels, its numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bgproxy.rules.fleet import FleetState
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Phase, Release
from bgproxy.rules.run import Run
from bgproxy.telemetry.exposition import Facts, expose
from bgproxy.telemetry.metrics import BOUNDS, Metrics, merge

STATE = FleetState(
    revision=3,
    pointer=Pointer("green", "blue", 7, "deploy", "v2", 0.0),
    releases={
        "blue": Release("v1", ("http://a:1",), phase=Phase.STANDBY),
        "green": Release("v2", ("http://b:1",), phase=Phase.ACTIVE),
    },
    colors=("blue", "green", "violet"),
)
COUNTED = (
    *("hits", "misses", "aliases", "conflicts", "refreshed", "gone", "journalled", "refused", "dropped", "ignored"),
)
SERIES = {"route": "chat", "color": "green", "release": "v2"}


def facts(**more: Any) -> Facts:
    base: dict[str, Any] = {
        "state": STATE,
        "store_up": True,
        "store_alarm": False,
        "pointer_age": 0.25,
        "fenced": 1,
        "silent": 3,
        "workers": 2,
        "version": "1.2.3",
        "sessions": {("blue", "v1"): 7, ("blue", "v0"): 1},
        "flip": {"kept": 6, "moved": 2, "ended": 1, "lost": 0, "turns_cut": 3},
    }
    return Facts(**(base | more))


def worker() -> Metrics:
    metrics = Metrics()
    slot = metrics.slot("chat", "green", "v2")
    slot.classes[:] = [1, 0, 5, 0, 2, 3]
    for seconds in (0.0005, 0.02, 700.0):
        slot.latency.add(seconds)
    slot.ttfb.add(0.3)
    slot.in_flight, slot.streams, slot.websockets = 4, 2, 1
    slot.retries, slot.broken_client, slot.broken_agent = 3, 5, 6
    slot.bytes_in, slot.bytes_out = 100, 200
    metrics.refuse("no_route")
    metrics.connections, metrics.connections_total = 2, 11
    return metrics


def merged() -> dict[str, Any]:
    one = {"color": "green", "url": "http://b:1", "healthy": True, "reason": "", "in_flight": 1, "failures": 0}
    ups = [one | {"open": 5, "idle": 2}]
    downs = [one | {"open": 1, "idle": 0, "healthy": False, "reason": "refused"}]
    sessions = {
        "places": {"mcp": {"green": {"pinned": 1, "learned": 2, "moved": 3, "ended": 4}}},
        "store": {"resolve": {"calls": 5, "failed": 1, "seconds": 0.25}},
        "unpinned": {"oversized": 6},
        **{name: 10 + place for place, name in enumerate(COUNTED)},
        "gauges": {"keys": 30, "waiting": 31, "turns": 32},
    }
    return merge([worker().snapshot(ups, sessions), worker().snapshot(downs, sessions)])


def samples(text: bytes, parse: Any = parse_text) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def told() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return samples(expose(merged(), facts())[0])


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("bgproxy_requests_total", {**SERIES, "class": "2xx"}, 10),
        ("bgproxy_requests_total", {**SERIES, "class": "none"}, 2),
        ("bgproxy_requests_total", {**SERIES, "class": "1xx"}, 0),
        ("bgproxy_requests_total", {**SERIES, "class": "5xx"}, 6),
        ("bgproxy_request_duration_seconds_bucket", {**SERIES, "le": "0.001"}, 2),
        ("bgproxy_request_duration_seconds_bucket", {**SERIES, "le": "0.01"}, 2),
        ("bgproxy_request_duration_seconds_bucket", {**SERIES, "le": "0.025"}, 4),
        ("bgproxy_request_duration_seconds_bucket", {**SERIES, "le": "300.0"}, 4),
        ("bgproxy_request_duration_seconds_bucket", {**SERIES, "le": "+Inf"}, 6),
        ("bgproxy_request_duration_seconds_count", SERIES, 6),
        ("bgproxy_request_duration_seconds_sum", SERIES, pytest.approx(1400.041)),
        ("bgproxy_time_to_first_byte_seconds_bucket", {**SERIES, "le": "0.25"}, 0),
        ("bgproxy_time_to_first_byte_seconds_bucket", {**SERIES, "le": "0.5"}, 2),
        ("bgproxy_time_to_first_byte_seconds_count", SERIES, 2),
        ("bgproxy_in_flight", SERIES, 8),
        ("bgproxy_open_streams", SERIES, 4),
        ("bgproxy_open_websockets", SERIES, 2),
        ("bgproxy_retries_total", SERIES, 6),
        ("bgproxy_broken_total", {**SERIES, "side": "client"}, 10),
        ("bgproxy_broken_total", {**SERIES, "side": "agent"}, 12),
        ("bgproxy_bytes_total", {**SERIES, "direction": "in"}, 200),
        ("bgproxy_bytes_total", {**SERIES, "direction": "out"}, 400),
        ("bgproxy_upstream_healthy", {"color": "green", "url": "http://b:1"}, 0),
        ("bgproxy_upstream_connections", {"color": "green", "url": "http://b:1", "state": "busy"}, 4),
        ("bgproxy_upstream_connections", {"color": "green", "url": "http://b:1", "state": "idle"}, 2),
        ("bgproxy_refused_total", {"code": "no_route"}, 2),
        ("bgproxy_client_connections", {}, 4),
        ("bgproxy_connections_total", {}, 22),
        ("bgproxy_epoch", {}, 7),
        ("bgproxy_pointer_age_seconds", {}, 0.25),
        ("bgproxy_store_up", {}, 1),
        ("bgproxy_store_alarm", {}, 0),
        ("bgproxy_silent_nodes", {}, 3),
        ("bgproxy_active", {"color": "green"}, 1),
        ("bgproxy_active", {"color": "blue"}, 0),
        ("bgproxy_active", {"color": "violet"}, 0),
        ("bgproxy_release_info", {"color": "green", "release": "v2", "phase": "active"}, 1),
        ("bgproxy_release_info", {"color": "blue", "release": "v1", "phase": "standby"}, 1),
        ("bgproxy_workers", {}, 2),
        ("bgproxy_build_info", {"version": "1.2.3"}, 1),
        ("bgproxy_sessions", {"color": "blue", "release": "v1"}, 7),
        ("bgproxy_sessions", {"color": "blue", "release": "v0"}, 1),
        ("bgproxy_flip_sessions", {"outcome": "kept"}, 6),
        ("bgproxy_flip_sessions", {"outcome": "moved"}, 2),
        ("bgproxy_flip_sessions", {"outcome": "ended"}, 1),
        ("bgproxy_flip_sessions", {"outcome": "lost"}, 0),
        ("bgproxy_flip_turns_cut", {}, 3),
        ("bgproxy_release_stuck", {}, 0),
        ("bgproxy_session_pinned_total", {"preset": "mcp", "color": "green"}, 2),
        ("bgproxy_session_learned_total", {"preset": "mcp", "color": "green"}, 4),
        ("bgproxy_session_moved_total", {"preset": "mcp", "color": "green"}, 6),
        ("bgproxy_session_ended_total", {"preset": "mcp", "color": "green"}, 8),
        ("bgproxy_session_unpinned_total", {"reason": "oversized"}, 12),
        ("bgproxy_session_lookups_total", {"result": "hit"}, 20),
        ("bgproxy_session_lookups_total", {"result": "miss"}, 22),
        ("bgproxy_session_aliases_total", {}, 24),
        ("bgproxy_session_conflicts_total", {}, 26),
        ("bgproxy_session_refreshed_total", {}, 28),
        ("bgproxy_session_restored_total", {}, 30),
        ("bgproxy_session_journalled_total", {}, 32),
        ("bgproxy_session_refused_total", {}, 34),
        ("bgproxy_session_journal_dropped_total", {}, 36),
        ("bgproxy_session_ignored_values_total", {}, 38),
        ("bgproxy_session_cached_keys", {}, 60),
        ("bgproxy_session_journal_waiting", {}, 62),
        ("bgproxy_session_held_turns", {}, 64),
        ("bgproxy_session_store_seconds_count", {"question": "resolve"}, 10),
        ("bgproxy_session_store_seconds_sum", {"question": "resolve"}, 0.5),
        ("bgproxy_session_store_failures_total", {"question": "resolve"}, 2),
    ],
)
def test_each_number(told, name, labels, value):
    assert told[name, frozenset(labels.items())] == value


def test_nothing_else_is_told(told):
    assert {name for name, _ in told if not name.startswith("bgproxy_session_")} == {
        "bgproxy_requests_total",
        *(f"bgproxy_request_duration_seconds_{part}" for part in ("bucket", "count", "sum")),
        *(f"bgproxy_time_to_first_byte_seconds_{part}" for part in ("bucket", "count", "sum")),
        "bgproxy_in_flight",
        "bgproxy_open_streams",
        "bgproxy_open_websockets",
        "bgproxy_retries_total",
        "bgproxy_broken_total",
        "bgproxy_bytes_total",
        "bgproxy_upstream_healthy",
        "bgproxy_upstream_connections",
        "bgproxy_refused_total",
        "bgproxy_dropped_fields_total",
        "bgproxy_held_total",
        "bgproxy_client_connections",
        "bgproxy_connections_total",
        "bgproxy_epoch",
        "bgproxy_pointer_age_seconds",
        "bgproxy_store_up",
        "bgproxy_store_alarm",
        "bgproxy_fenced",
        "bgproxy_silent_nodes",
        "bgproxy_active",
        "bgproxy_release_info",
        "bgproxy_workers",
        "bgproxy_build_info",
        "bgproxy_sessions",
        "bgproxy_flip_sessions",
        "bgproxy_flip_turns_cut",
        "bgproxy_release_stuck",
    }


def test_buckets_never_fall_and_are_all_there(told):
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in told.items()
        if name == "bgproxy_request_duration_seconds_bucket"
    )
    assert [bound for bound, _ in buckets] == [*BOUNDS, float("inf")]
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_the_format_is_the_one_that_was_asked_for(accept, content_type):
    text, told_type = expose(merged(), facts(), accept)
    assert told_type.startswith(content_type)
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    assert samples(text, parse)["bgproxy_in_flight", frozenset(SERIES.items())] == 8


def test_before_anything_is_known_it_still_answers():
    told = samples(expose(merge([]), facts(state=None, store_up=False, workers=1))[0])
    assert told["bgproxy_store_up", frozenset()] == 0
    assert told["bgproxy_session_lookups_total", frozenset({("result", "hit")})] == 0
    assert "bgproxy_epoch" not in {name for name, _ in told}


@pytest.mark.parametrize(("outcome", "stuck"), [("", 1), ("rolled_back", 0)])
def test_a_release_that_cannot_be_rolled_back_is_told_while_it_stands(outcome, stuck):
    state = facts().state
    assert state is not None
    run = Run("r7", "release", "green", "v2", {}, ("bake",), "a", "", 1, "n", 1.0, 1.0, trouble="v1 is down")
    told = samples(expose(merge([]), facts(state=replace(state, run=replace(run, outcome=outcome))))[0])
    assert told["bgproxy_release_stuck", frozenset()] == stuck


def test_odd_label_values_are_escaped():
    metrics = Metrics()
    metrics.slot('a"b\\c\nd', "green", "v2").in_flight = 1
    told = samples(expose(metrics.snapshot(), facts())[0])
    key = frozenset({"route": 'a"b\\c\nd', "color": "green", "release": "v2"}.items())
    assert told["bgproxy_in_flight", key] == 1
