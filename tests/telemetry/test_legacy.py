"""What a worker leaves behind: its counters go on with its successor, what it held counts as broken, nothing falls."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bgproxy.telemetry import legacy
from bgproxy.telemetry.metrics import Metrics, counters_of


def counted() -> Metrics:
    metrics = Metrics()
    slot = metrics.slot("chat", "blue", "v1")
    slot.classes[2] = 7
    slot.in_flight, slot.streams, slot.websockets = 5, 2, 1
    metrics.connections, metrics.connections_total = 3, 9
    return metrics


def test_what_is_saved_is_read(tmp_path: Path):
    metrics = counted().snapshot()
    legacy.save(tmp_path, 3, metrics)
    assert legacy.read(tmp_path, 3) == metrics
    assert legacy.read(tmp_path, 4) is None
    assert [path.name for path in tmp_path.iterdir()] == ["worker-3.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"metrics": 1}', b"\xff"])
def test_a_file_that_cannot_be_understood_is_no_reason_to_fail(tmp_path, content, caplog):
    legacy.path_of(tmp_path, 0).write_bytes(content)
    assert legacy.read(tmp_path, 0) is None
    assert "worker-0.json are lost" in caplog.text


def test_a_directory_that_is_gone_is_no_reason_to_fail(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    legacy.save(tmp_path / "none", 0, {})
    assert "the counters were not saved" in caplog.text


def test_a_successor_counts_on_and_what_was_held_is_broken_by_us():
    successor = Metrics()
    assert successor.carry(counted().snapshot()) == 5
    (series,) = successor.snapshot()["series"]
    assert (series["classes"][2], series["broken_proxy"]) == (7, 5)
    assert (series["in_flight"], series["streams"], series["websockets"]) == (0, 0, 0)
    again = Metrics()
    assert again.carry(successor.snapshot()) == 0
    assert again.snapshot()["series"][0]["broken_proxy"] == 5, "it is counted once"


def test_while_nobody_has_taken_its_place_nothing_is_called_broken():
    """The one that is silent may only be busy: were its requests counted as lost, the count would fall again."""
    told = counters_of(counted().snapshot())
    (series,) = told["series"]
    assert (series["classes"][2], series["broken_proxy"], series["in_flight"]) == (7, 0, 0)
    assert (told["gauges"], told["upstreams"]) == ({"connections": 0}, [])
    assert told["counters"]["connections"] == 9


def test_histograms_of_another_version_are_refused_not_added_up_wrongly():
    with pytest.raises(ValueError, match="other bounds"):
        Metrics().carry({**counted().snapshot(), "bounds": [1.0]})
