"""report: one release out of the whole record, as JSON and as a page in which nothing that others wrote is markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from fake_admin import FakeAdmin, problem

from bgproxy.cli.reporting.page import page
from bgproxy.cli.reporting.plots import bars, lines, told
from bgproxy.cli.reporting.record import Record

HOSTILE = "</pre><script>alert(1)</script>\"'><img src=http://evil/x onerror=alert(2)>"
NEW = {"answers": 300, "errors": 9, "error_rate": 0.03, "p95": 0.4}
OLD = {"answers": 900, "errors": 0, "error_rate": 0.0, "p95": 0.2}
POINTS = [[1.0, 100, 0, 0.2], [2.0, 100, 4, 0.3], [3.0, 100, 5, 0.4]]
SERIES = {"old": [[1.0, 50, 0, 0.1], [3.0, 20, 0, 0.1]], "new": POINTS}
CHAIN = {"intact": True, "entries": 20, "first": 1, "last": 20, "head": "c" * 64, "anchor": "", "before": 0}
LEDGER = {"epoch": 2, "kept": 5, "moved": 1, "ended": 0, "lost": 0, "turns_cut": 0}


def entries() -> list[dict[str, Any]]:
    """v1 is active on blue; v2 is brought out on green by a plan, and rolled back by its bake; red is others'."""
    made: list[dict[str, Any]] = []

    def put(verb: str, epoch: int = 1, actor: str = "ada", reason: str = "", **facts: Any) -> None:
        number = len(made) + 1
        entry = {"id": f"{number}-0", "seq": number, "at": 1000.5 + number, "verb": verb, "actor": actor}
        made.append(
            entry | {"reason": reason, "epoch": epoch, "revision": number, "facts": facts, "hash": f"{number:064x}"}
        )

    def step(name: str, verdict: str, epoch: int = 1, **more: Any) -> None:
        told = {"why": f"{name} said so", "took": 0.25, "evidence": {}, **more}
        put("release", epoch, color="green", release="v2", run="r5", step=name, verdict=verdict, **told)

    put("bootstrap", to="blue", releases={"blue": "v1", "red": "v0"})
    put("outage", seconds=3)
    put(
        "release",
        color="green",
        release="v2",
        run="r5",
        step="begin",
        kind="release",
        plan={"gate": [{"name": HOSTILE}]},
    )
    step("gate:smoke", "pass", evidence={"answers": [{"status": 200, "begins": HOSTILE}]})
    put("pause", max_hold=3)
    put("stage", color="red", release="v3", upstreams=["http://h:1"])
    put("release", actor="bob", reason="looks good", color="green", release="v2", run="r5", step="approve look")
    put("flip", 2, **{"from": "blue"}, to="green", release="v2", phases={"blue": ["active", "standby"]})
    step("flip", "pass", 2)
    step("bake", "fail", 2, evidence={"new": NEW, "old": OLD, "series": SERIES})
    put("rollback", 3, "bgproxy", "bake", **{"from": "green"}, to="blue", release="v1")
    why = {"reason": "blue was made active"}
    put("release", 3, color="green", release="v2", run="r5", step="end", outcome="rolled_back", **why)
    put("retire", 3, color="red", release="v3", freed={"replicas": 1, "replica_hours": 2.0, "since": 1.0})
    put("phase", 3, color="green", release="v2", event="drained", evidence={"sessions": 0})
    put("session", 3, color="blue", release="v1")
    return made


def recorded(label: str, found: list[dict[str, Any]] | None = None) -> Record:
    record = Record(label)
    for entry in entries() if found is None else found:
        record.take(entry)
    return record


def reported(label: str = "v2", **more: Any) -> dict[str, Any]:
    document = recorded(label).document({**CHAIN, **more}, {2: LEDGER})
    return {"fleet": HOSTILE, "made": 2000.0, "version": "9", **document}


class TestRecord:
    def test_what_is_about_it_and_about_the_fleet_meanwhile_stands_in_the_timeline(self):
        told = [(entry["verb"], entry["facts"].get("step")) for entry in reported()["timeline"]]
        assert told == [
            ("release", "begin"),
            ("release", "gate:smoke"),
            ("pause", None),
            ("release", "approve look"),
            ("flip", None),
            ("release", "flip"),
            ("release", "bake"),
            ("rollback", None),
            ("release", "end"),
            ("phase", None),
        ]

    def test_the_release_that_it_replaced_has_the_same_flips_in_its_own(self):
        document = reported("v1")
        assert [entry["verb"] for entry in document["timeline"]] == [
            "bootstrap",
            "outage",
            "pause",
            "flip",
            "rollback",
            "session",
        ]
        assert (document["runs"], [flip["epoch"] for flip in document["flips"]]) == ([], [2, 3])

    def test_its_run_has_steps_with_evidence_and_what_it_came_to(self):
        [run] = reported()["runs"]
        assert (run["id"], run["kind"], run["begun"], run["outcome"]) == ("r5", "release", True, "rolled_back")
        assert [(step["name"], step["verdict"]) for step in run["steps"]] == [
            ("gate:smoke", "pass"),
            ("flip", "pass"),
            ("bake", "fail"),
        ]
        assert run["steps"][0]["evidence"]["answers"][0]["status"] == 200

    def test_who_approved_what_which_flips_with_their_ledgers_and_the_chain(self):
        document = reported()
        assert document["approvals"] == [
            {"gate": "look", "run": "r5", "actor": "bob", "reason": "looks good", "at": 1007.5}
        ]
        assert [(flip["epoch"], flip["ledger"]) for flip in document["flips"]] == [(2, LEDGER), (3, None)]
        assert document["chain"]["own"][0]["hash"] == f"{3:064x}"
        assert reported("v3")["double_running"][0]["replica_hours"] == 2.0

    def test_the_figures_of_both_colors_are_compared(self):
        [one] = reported()["comparisons"]
        assert (one["name"], one["new"], one["old"], one["series"]) == ("bake", NEW, OLD, SERIES)

    def test_that_retention_took_its_beginning_is_said(self):
        assert reported()["begins"]["known"] is True
        late = recorded("v2", entries()[3:]).document({**CHAIN, "first": 4}, {})
        assert late["begins"] == {
            "known": False,
            "oldest_entry": 4,
            "said": "its beginning is not on record any more: retention has taken all entries before number 4",
        }
        assert (late["runs"][0]["begun"], late["runs"][0]["outcome"]) == (False, "rolled_back")

    @pytest.mark.parametrize(
        "odd", [None, 5, "x", [], {"phases": 5}, {"release": 5}, {"evidence": {"new": {"p95": "x"}}}]
    )
    def test_entries_of_any_form_break_nothing(self, odd):
        damaged = [{**entry, "facts": odd} if entry["verb"] == "phase" else entry for entry in entries()]
        damaged += [{"verb": "flip", "facts": odd, "epoch": None}, {}]
        assert recorded("v2", damaged).document(CHAIN, {})["release"] == "v2"


class Seen(HTMLParser):
    """Elements and attributes of a page; that each is closed where it should be."""

    VOID = ("meta", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestPage:
    def test_nothing_that_others_wrote_is_markup_and_nothing_is_loaded(self):
        text = page(reported(intact=False, fault={"detail": HOSTILE}))
        seen = Seen(text)
        assert seen.open == []
        assert not seen.names & {"script", "img", "link", "iframe", "object", "style[src]", "a"}
        assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href", "srcset")]
        assert "alert(1)" in text, "it is shown"
        assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text

    def test_it_says_what_there_is(self):
        text = re.sub(r"\s+", " ", page(reported()))
        for said in (
            "rolled_back",
            "bob approved look (r5)",
            "hash chain verifies",
            "1970-01-01 00:16:43.500",
            "5, 1, 0, 0; 0",
        ):
            assert said in text, said
        assert text.count("<polyline") == 6
        assert "its beginning is not" not in text
        late = page({**reported(), "begins": {"known": False, "said": "retention has taken it"}})
        assert "retention has taken it" in late

    def test_of_a_release_of_which_there_is_little(self):
        text = page({**reported("v0"), "comparisons": []})
        for said in ("No plan was run", "Nothing was measured", "It was never active", "Nobody was asked"):
            assert said in text


class TestPlots:
    def test_bars_are_as_long_as_their_values_on_a_scale_of_each_figure(self):
        rows = bars({"new": NEW, "old": OLD})["rows"]
        assert [row["name"] for row in rows] == ["error_rate old", "error_rate new", "p95 old", "p95 new"]
        assert [row["value"] for row in rows] == ["0 %", "3 %", "200 ms", "400 ms"]
        assert rows[0]["long"] == 0
        assert rows[2]["long"] * 2 == rows[3]["long"] == rows[1]["long"]
        assert all(later["y"] > row["y"] for row, later in pairwise(rows))

    def test_lines_stay_on_their_canvas(self):
        found = [*lines(SERIES)]
        assert [line["name"] for line in found] == ["answers per second", "errors, share", "p95"]
        assert [line["most"] for line in found] == ["100/s", "5.00%", "0.4 s"]
        for one in (one for line in found for one in line["drawn"]):
            assert one["which"] in ("old", "new")
            for point in one["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= found[0]["width"]
                assert 0 <= y <= found[0]["height"]
        assert [*lines({"new": POINTS[:1], "old": []})] == [] == [*lines({})]
        assert [line["most"] for line in lines({"new": [[0.0, 0, 0, 0.0]] * 2})] == ["0/s", "0.00%", "0 s"]

    def test_figures_have_their_unit(self):
        assert [told("p99", 0.0123), told("throughput", 12.5)] == ["12.3 ms", "12.5"]


@pytest.fixture
def filled(admin: FakeAdmin) -> FakeAdmin:
    admin.answers["GET", "/v1/audit"] = {"entries": entries(), "next": None}
    admin.answers["GET", "/v1/audit/verify"] = {**CHAIN, "fault": None}
    admin.answers["GET", "/v1/status"] = {"fleet": "agents", "epoch": 3}
    admin.answers["GET", "/v1/flips/2"] = LEDGER
    admin.answers["GET", "/v1/flips/3"] = problem(404, "unknown_flip", "not kept")
    return admin


def test_files_are_written_whole_and_their_head_is_told(run, filled, tmp_path):
    html, plain = tmp_path / "v2.html", tmp_path / "v2.json"
    result = run("report", "v2", "--html", str(html), "--json", str(plain), "--admin", filled.url)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"v2 is reported in {html} and {plain}: 10 entries, chain head {'c' * 64}\n"
    document = json.loads(plain.read_text())
    assert (document["fleet"], [flip["ledger"] for flip in document["flips"]]) == ("agents", [LEDGER, None])
    assert html.read_text().startswith("<!doctype html>")
    assert len(list(tmp_path.iterdir())) == 2
    assert json.loads(run("report", "v2", "--admin", filled.url).stdout)["release"] == "v2"


def test_one_that_is_not_on_record_is_refused_with_those_that_are(run, filled):
    result = run("report", "v9", "--admin", filled.url)
    assert (result.exit_code, result.stderr) == (1, "bgproxy: no release 'v9' is on record; known are v1, v0, v2, v3\n")


def test_a_broken_chain_ends_with_1_and_the_report_says_so(run, filled, tmp_path):
    filled.answers["GET", "/v1/audit/verify"] = {**CHAIN, "intact": False, "fault": {"detail": "entry 4 was edited"}}
    html = tmp_path / "v2.html"
    result = run("report", "v2", "--html", str(html), "--admin", filled.url)
    assert (result.exit_code, "entry 4 was edited" in result.stderr) == (1, True)
    assert "entry 4 was edited" in html.read_text()


def test_a_file_that_cannot_be_written_is_a_usage_error(run, filled, tmp_path):
    result = run("report", "v2", "--html", str(tmp_path / "none" / "v2.html"), "--admin", filled.url)
    assert (result.exit_code, "cannot be written" in result.stderr) == (2, True)
