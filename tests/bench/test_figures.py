"""How the bench turns what it saw into figures: no process, no socket."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest

from bench.compare import Round, micros, parse_totals
from bench.contenders import Build, LineUp
from bench.flip import Result, Tally, Watch, pause, report
from bench.options import Plan
from bench.processes import Cpu
from bench.report import BEGIN, END, ratio, splice
from bench.run import Results, compose, limit_flips
from bench.wire import parse_answer, split_answer


def a_round(requests: int, user: float, system: float) -> Round:
    return Round(requests, 2.0, 0, 0.001, 0.002, Cpu(user, system))


def test_the_figure_is_user_and_system_time_per_request() -> None:
    assert a_round(50_000, 0.5, 1.5).micros == pytest.approx(40.0)
    assert a_round(50_000, 0.5, 1.5).user_micros == pytest.approx(10.0)


def test_no_request_is_no_figure() -> None:
    assert math.isnan(a_round(0, 0.0, 0.0).micros)


def test_one_slow_round_does_not_move_the_median() -> None:
    rounds = [a_round(1_000_000, 0.0, cpu) for cpu in (40.0, 41.0, 400.0)]
    assert micros({"nginx": rounds}) == {"nginx": pytest.approx(41.0)}


def test_ratios_are_to_nginx_of_the_same_run() -> None:
    assert ratio({"nginx": 40.0, "bgproxy": 52.0}, "bgproxy") == "1.30"
    assert ratio({"bgproxy": 52.0}, "bgproxy") == "-"


def test_totals_are_found_among_what_wrk_says() -> None:
    said = "Running 2s test\ntotals 60000 2000500 3 1500 9000\nmore\n"
    assert parse_totals(said) == (60000, 2.0005, 3, 0.0015, 0.009)


def test_a_wrk_that_failed_is_no_zero() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse_totals("unable to connect to 127.0.0.1:1\n")


@pytest.mark.parametrize(
    ("held", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 40),
        (b"HTTP/1.1 200 OK\r\ncontent-length:2\r\nx: y\r\n\r\nok", 45),
    ],
)
def test_an_answer_is_whole_by_its_length(held: bytes, whole: int | None) -> None:
    split = split_answer(held)
    assert (split and split[1]) == whole


def test_an_answer_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="without Content-Length"):
        split_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_an_answer_falls_into_status_and_body() -> None:
    assert parse_answer(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}") == (409, b"{}")


class TestWatch:
    """A flip that began at 1.000 s and returned at 1.004 s."""

    def test_the_first_answer_of_the_new_side_counts(self) -> None:
        watch = Watch(b"green", began=1.0)
        watch.answered(b"blue", sent=0.999, now=1.001)
        watch.answered(b"green", sent=1.001, now=1.003)
        watch.answered(b"green", sent=1.002, now=1.005)
        assert watch.first_new == 1.003

    def test_an_old_answer_to_what_was_sent_before_the_return_is_in_order(self) -> None:
        watch = Watch(b"green", began=1.0, returned=1.004)
        watch.answered(b"blue", sent=1.0039, now=1.006)
        assert (watch.old_sent_after, watch.last_old) == (0, 1.006)

    def test_an_old_answer_to_what_was_sent_after_the_return_is_not(self) -> None:
        watch = Watch(b"green", began=1.0, returned=1.004)
        watch.answered(b"blue", sent=1.0041, now=1.006)
        assert watch.old_sent_after == 1


class TestFlips:
    """What is said of a flip from 1.000 s to 1.004 s whose first new answer came at 1.003 s."""

    seen = Result(Tally(answered=9), [Watch(b"green", began=1.0, returned=1.004, first_new=1.003)], executed_twice=0)

    @pytest.mark.parametrize(
        ("think_ms", "load"), [(0.0, "in a closed loop"), (8.0, "that think 8 ms"), (0.5, "that think 0.5 ms")]
    )
    def test_the_title_names_the_load(self, think_ms: float, load: str) -> None:
        text = report(Plan(flips=1, think_ms=think_ms), {"bgproxy": self.seen})
        assert text.splitlines()[0] == f"### 1 flips under 64 connections {load}"

    def test_the_limits_name_the_load(self) -> None:
        results = Results()
        limit_flips(results, "bgproxy", self.seen, "closed loop")
        assert [row[1].endswith(", closed loop") for row in results.limits] == [True] * 4
        assert results.limits[1][2:] == ["3 ms", "5 ms", "within"]
        assert results.lost == []

    def test_what_was_lost_names_the_load(self) -> None:
        results = Results()
        seen = Result(Tally(broken=1), self.seen.watches, executed_twice=0)
        limit_flips(results, "bgproxy", seen, "8 ms between requests")
        assert results.lost == ["bgproxy: flips, 8 ms between requests"]

    @pytest.mark.parametrize(("text", "think_ms"), [("0", 0.0), ("8", 8.0), ("0.5", 0.5), ("349.9", 349.9)])
    def test_a_pause(self, text: str, think_ms: float) -> None:
        assert pause(text) == think_ms

    @pytest.mark.parametrize("text", ["-1", "350", "nan", "inf", "8ms", ""])
    def test_a_pause_that_no_flip_could_be_watched_with(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError, match="give milliseconds from 0 to less than 350"):
            pause(text)


class TestResults:
    def test_they_go_between_the_markers_and_nowhere_else(self) -> None:
        once = splice(f"# Bench\n{BEGIN}\nold\n{END}\nafter\n", "first")
        assert splice(once, "second") == f"# Bench\n{BEGIN}\n\nsecond\n\n{END}\nafter\n"

    def test_a_readme_without_markers_is_left_alone(self) -> None:
        with pytest.raises(ValueError, match="must hold the two lines"):
            splice("# Bench\n", "results")

    def test_the_readme_has_its_markers(self) -> None:
        splice((Path(__file__).parents[2] / "bench" / "README.md").read_text(), "results")

    def test_who_did_not_run_is_said(self) -> None:
        results = Results()
        results.add(LineUp(left_out={"envoy": "no `envoy` on this machine"}), "### A table")
        assert "- Left out: envoy (no `envoy` on this machine)." in compose(results, "python -m bench")

    @pytest.mark.parametrize(("figure", "verdict"), [(1.5, "within"), (1.51, "**beyond**"), (math.nan, "**beyond**")])
    def test_a_limit_is_kept_only_by_a_figure(self, figure: float, verdict: str) -> None:
        results = Results()
        results.limit("bgproxy", "CPU", figure, 1.5)
        assert results.limits[0][-1] == verdict


class TestBuild:
    def test_an_interpreter(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.touch()
        assert Build.parse(f"compiled={python}") == Build("compiled", str(python))

    def test_a_directory_goes_on_the_import_path(self, tmp_path: Path) -> None:
        build = Build.parse(f"compiled={tmp_path}")
        assert build.environment() == {"PYTHONPATH": str(tmp_path)}

    @pytest.mark.parametrize("text", ["compiled", "=x", "compiled=", "compiled=/no/such/python"])
    def test_anything_else_is_refused_by_name(self, text: str) -> None:
        with pytest.raises(ValueError, match="--bgproxy"):
            Build.parse(text)
