"""The counters: what one process counts, and how the snapshots of several become one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgproxy.telemetry.metrics import BOUNDS, KEPT_RELEASES, Histogram, Metrics, merge


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (BOUNDS[0], 0),  # a bound belongs to its bucket, as Prometheus has it
        (BOUNDS[0] + 1e-9, 1),
        (0.3, BOUNDS.index(0.5)),
        (BOUNDS[-1], len(BOUNDS) - 1),
        (BOUNDS[-1] + 1, len(BOUNDS)),
    ],
)
def test_a_duration_falls_into_the_bucket_of_the_bound_that_holds_it(seconds, bucket):
    histogram = Histogram()
    histogram.add(seconds)
    assert histogram.buckets.index(1) == bucket
    assert sum(histogram.buckets) == 1
    assert histogram.sum == seconds


def test_a_slot_is_made_once():
    metrics = Metrics()
    slot = metrics.slot("chat", "blue", "v1")
    assert metrics.slot("chat", "blue", "v1") is slot
    assert metrics.slot("chat", "blue", "v2") is not slot


def test_gauges_add_up_by_color():
    metrics = Metrics()
    for route, color, release, count in (("a", "blue", "v1", 1), ("b", "blue", "v2", 2), ("a", "green", "v2", 4)):
        metrics.slot(route, color, release).in_flight = count
    assert metrics.by_color("in_flight") == {"blue": 3, "green": 4}
    assert metrics.by_color("streams") == {"blue": 0, "green": 0}


def counted(requests: int = 3) -> Metrics:
    metrics = Metrics()
    slot = metrics.slot("chat", "blue", "v1")
    for number in range(requests):
        slot.classes[2] += 1
        slot.latency.add(0.001 * 10**number)
        slot.ttfb.add(0.001)
    slot.in_flight, slot.streams, slot.websockets = 5, 2, 1
    slot.bytes_in, slot.bytes_out, slot.retries, slot.broken_client = 10, 20, 1, 1
    metrics.refuse("bad_head")
    metrics.dropped_fields = 4
    metrics.held = 1
    metrics.connections, metrics.connections_total = 4, 9
    return metrics


def upstream(**more: Any) -> dict[str, Any]:
    base = {"color": "blue", "url": "http://a", "healthy": True, "reason": "", "in_flight": 1, "open": 2, "idle": 1}
    return base | {"failures": 0} | more


def test_a_snapshot_is_json_and_its_own():
    metrics = counted()
    before = metrics.snapshot([upstream()])
    text = json.dumps(before)
    metrics.slot("chat", "blue", "v1").latency.add(1.0)
    metrics.slot("chat", "blue", "v1").classes[2] += 1
    metrics.refuse("bad_head")
    assert json.loads(text) == before


def test_merging_adds_numbers_place_by_place():
    one, other = counted(3).snapshot([upstream()]), counted(2).snapshot([upstream(open=5)])

    both = merge([one, other])

    (series,) = both["series"]
    assert series["classes"] == [0, 0, 5, 0, 0, 0]
    assert series["latency"]["buckets"][:5] == [2, 0, 0, 2, 0]
    assert sum(series["latency"]["buckets"]) == 5
    assert series["latency"]["sum"] == pytest.approx(0.122)
    assert (series["in_flight"], series["streams"], series["bytes_out"]) == (10, 4, 40)
    assert both["counters"] == {"connections": 18, "refused": {"bad_head": 2}, "dropped_fields": 8, "held": 2}
    assert both["gauges"] == {"connections": 8}
    assert both["upstreams"][0]["open"] == 7
    assert both["bounds"] == list(BOUNDS)


def test_merging_keeps_apart_what_is_not_the_same():
    one, other = Metrics(), Metrics()
    one.slot("chat", "blue", "v1").classes[2] = 1
    other.slot("chat", "green", "v1").classes[2] = 2
    other.slot("chat", "blue", "v2").classes[2] = 3
    one.refuse("bad_head")
    other.refuse("no_route")

    both = merge([one.snapshot(), other.snapshot()])

    counts = {(s["color"], s["release"]): s["classes"][2] for s in both["series"]}
    assert counts == {("blue", "v1"): 1, ("green", "v1"): 2, ("blue", "v2"): 3}
    assert both["counters"]["refused"] == {"bad_head": 1, "no_route": 1}


@pytest.mark.parametrize("turn", [1, -1])
def test_an_upstream_is_well_only_where_all_say_so_and_the_reason_is_kept(turn):
    said = [upstream(), upstream(healthy=False, reason="refused")][::turn]
    (found,) = merge([Metrics().snapshot([one]) for one in said])["upstreams"]
    assert (found["healthy"], found["reason"]) == (False, "refused")


def test_merging_nothing_is_an_empty_snapshot():
    assert merge([]) == Metrics().snapshot()


def test_merging_leaves_what_it_was_given():
    one, other = counted().snapshot([upstream()]), counted().snapshot([upstream()])
    before = json.dumps([one, other])
    merge([one, other])
    assert json.dumps([one, other]) == before


def test_a_successor_goes_on_from_the_counters_and_not_from_the_gauges():
    last = json.loads(json.dumps(counted().snapshot([upstream()])))
    successor = Metrics()
    successor.carry(last)
    successor.slot("chat", "blue", "v1").classes[2] += 1
    successor.connections_total += 1

    told = successor.snapshot([upstream(open=1)])

    (series,) = told["series"]
    assert series["classes"][2] == 4
    assert (series["in_flight"], series["streams"], series["websockets"]) == (0, 0, 0)
    assert (series["bytes_out"], series["retries"]) == (20, 1)
    assert told["counters"] == {"connections": 10, "refused": {"bad_head": 1}, "dropped_fields": 4, "held": 1}
    assert told["gauges"] == {"connections": 0}
    assert [one["open"] for one in told["upstreams"]] == [1]
    again = Metrics()
    again.carry(json.loads(json.dumps(told)))
    assert again.snapshot()["series"][0]["classes"][2] == 4


def deploy(metrics: Metrics, label: str, held: int = 0) -> None:
    """A release comes to blue, in place of the one before, and answers once."""
    slot = metrics.slot("chat", "blue", label)
    metrics.stand({label, "v2-on-green"})
    slot.classes[2] += 1
    slot.in_flight += held


def told_releases(metrics: Metrics) -> list[str]:
    return [one["release"] for one in metrics.snapshot()["series"]]


def test_releases_that_are_long_gone_are_told_no_more():
    metrics = Metrics()
    metrics.slot("chat", "green", "v2-on-green")
    for number in range(100):
        deploy(metrics, f"v{number}")
    stay = [f"v{number}" for number in range(99 - KEPT_RELEASES, 100)]
    assert told_releases(metrics) == ["v2-on-green", *stay]


def test_what_is_in_flight_on_a_release_keeps_its_series():
    metrics = Metrics()
    deploy(metrics, "busy", held=1)
    for number in range(50):
        deploy(metrics, f"v{number}")
    assert told_releases(metrics)[0] == "busy"
    metrics.slot("chat", "blue", "busy").in_flight -= 1
    deploy(metrics, "next")
    assert "busy" not in told_releases(metrics)


def test_a_release_that_comes_back_is_young_again():
    metrics = Metrics()
    deploy(metrics, "old")
    for number in range(KEPT_RELEASES - 1):
        deploy(metrics, f"v{number}")
    deploy(metrics, "old")
    for number in range(KEPT_RELEASES - 1):
        deploy(metrics, f"w{number}")
    (old,) = [one for one in metrics.snapshot()["series"] if one["release"] == "old"]
    assert old["classes"][2] == 2


def test_what_a_predecessor_left_of_them_is_given_up_first():
    metrics = Metrics()
    before = Metrics()
    for number in range(KEPT_RELEASES):
        deploy(before, f"v{number}")
    metrics.carry(before.snapshot())
    for number in range(3):
        deploy(metrics, f"w{number}")
    told = told_releases(metrics)
    assert told == [*(f"v{number}" for number in range(2, KEPT_RELEASES)), "w0", "w1", "w2"]
    again = Metrics()
    again.carry(metrics.snapshot())
    deploy(again, "x")
    assert told_releases(again) == [*told[1:], "x"]


SESSIONS: dict[str, Any] = {
    "places": {"mcp": {"blue": {"pinned": 1}, "green": {"pinned": 2}}},
    "store": {"resolve": {"calls": 3, "seconds": 0.5}},
    "hits": 10,
    "gauges": {"waiting": 4},
}


def test_what_was_counted_of_sessions_adds_up():
    other = {"places": {"mcp": {"green": {"pinned": 5}}, "a2a": {"blue": {"pinned": 1}}}, "hits": 1, "gauges": {}}
    both = merge([Metrics().snapshot(None, SESSIONS), Metrics().snapshot(None, other), Metrics().snapshot()])
    assert both["sessions"] == {
        "places": {"mcp": {"blue": {"pinned": 1}, "green": {"pinned": 7}}, "a2a": {"blue": {"pinned": 1}}},
        "store": {"resolve": {"calls": 3, "seconds": 0.5}},
        "hits": 11,
        "gauges": {"waiting": 4},
    }


def test_of_a_dead_worker_s_sessions_the_counters_go_on_and_what_it_held_does_not():
    successor = Metrics()
    successor.carry(json.loads(json.dumps(Metrics().snapshot(None, SESSIONS))))
    told = successor.snapshot(None, {"hits": 1, "gauges": {"waiting": 1}})["sessions"]
    assert (told["hits"], told["gauges"], told["places"]) == (11, {"waiting": 1}, SESSIONS["places"])


def test_a_worker_of_a_version_that_did_not_count_sessions_is_understood():
    old = Metrics().snapshot()
    del old["sessions"]
    successor = Metrics()
    successor.carry(old)
    assert merge([old, successor.snapshot(None, {"hits": 1})])["sessions"] == {"hits": 1}


@given(st.lists(st.lists(st.floats(0, 1000), max_size=20), max_size=5))
def test_merged_histograms_are_the_histogram_of_all(durations):
    workers, whole = [], Histogram()
    for some in durations:
        metrics = Metrics()
        for seconds in some:
            metrics.slot("r", "c", "v").latency.add(seconds)
            whole.add(seconds)
        if some:
            workers.append(metrics.snapshot())
    merged = merge(workers)["series"]
    if not workers:
        assert merged == []
        return
    assert merged[0]["latency"]["buckets"] == whole.buckets
    assert merged[0]["latency"]["sum"] == pytest.approx(whole.sum)
