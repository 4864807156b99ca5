"""audit --export and --verify: all pages in one file, a file that is looked at by itself, and how each ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bgproxy.rules.chain import EMPTY, content

INTACT = {
    "intact": True,
    "entries": 3,
    "first": 1,
    "last": 3,
    "head": "ab" * 32,
    "anchor": "",
    "before": 0,
    "fault": None,
}


def record(count: int) -> list[dict[str, Any]]:
    entries, head = [], EMPTY
    for number in range(count):
        entry = {"id": str(number + 1), "at": 1.5 + number, "verb": "flip", "actor": "ci", "reason": "ü"}
        entry |= {"epoch": number, "revision": number, "facts": {"to": "green", "share": 1.0}}
        after = head.after(entry["at"], content(entry))
        entries.append({**entry, "seq": after.seq, "prev": head.hash, "hash": after.hash})
        head = after
    return entries


def pages(entries: list[dict[str, Any]], size: int) -> Any:
    async def page(request: web.Request) -> web.Response:
        begin = int(request.query["after"])
        some = entries[begin : begin + size]
        return web.json_response({"entries": some, "next": some[-1]["id"] if len(some) == size else None})

    return page


@pytest.fixture
def exported(admin, run, tmp_path) -> Path:
    admin.answers["GET", "/v1/audit"] = pages(record(5), 2)
    file = tmp_path / "audit.jsonl"
    result = run("audit", "--export", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    return file


def test_an_export_has_all_pages_oldest_first(admin, run, exported):
    lines = exported.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == record(5)
    assert len(admin.asked) == 3
    assert [path.name for path in exported.parent.iterdir()] == ["audit.jsonl"]
    assert run("audit", "--export").stdout.splitlines() == lines


def test_an_export_that_breaks_off_leaves_what_was_there(admin, run, exported):
    before = exported.read_bytes()
    admin.answers["GET", "/v1/audit"] = (500, {"detail": "no"})
    assert run("audit", "--export", str(exported)).exit_code == 3
    assert exported.read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()] == ["audit.jsonl"]


def test_a_file_is_verified_without_asking_anybody(admin, run, exported):
    admin.asked.clear()
    result = run("audit", "--verify", str(exported))
    assert (result.exit_code, admin.asked) == (0, [])
    assert result.stdout == f"intact: 5 entries, 1 to 5, head {record(5)[-1]['hash']}\n"
    as_json = json.loads(run("audit", "--verify", str(exported), "--json").stdout)
    assert (as_json["intact"], as_json["entries"], as_json["fault"]) == (True, 5, None)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda lines: lines.__setitem__(2, lines[2].replace('"ci"', '"eve"')), "entry 3 (3) is not what was written"),
        (lambda lines: lines.__setitem__(2, lines[2].replace("1.0", "1.1")), "entry 3 (3) is not what was written"),
        (lambda lines: lines.__setitem__(2, lines[2][:-9]), "line 3 of the file"),
        (lambda lines: lines.__setitem__(2, "[]"), "line 3 of the file"),
        (lambda lines: lines.__setitem__(2, lines[2][:-1] + ',"actor":"ci"}'), "line 3 of the file"),
        (lambda lines: lines.__setitem__(2, lines[2][:-1] + ',"note":1}'), "entry 3 (3) is not what was written"),
        (lambda lines: lines.pop(2), "entry 3 is missing"),
        (lambda lines: lines.insert(1, lines.pop(2)), "entry 2 (2) stands behind 3"),
        (lambda lines: lines.insert(4, lines[0]), "entry 1 (1) stands behind 4"),
    ],
)
def test_a_file_that_was_touched(run, exported, edit, words):
    lines = exported.read_text(encoding="utf-8").splitlines()
    edit(lines)
    exported.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = run("audit", "--verify", str(exported))
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert json.loads(run("audit", "--verify", str(exported), "--json").stdout)["intact"] is False


def test_a_file_that_begins_later_says_so(run, exported):
    exported.write_text("".join(exported.read_text(encoding="utf-8").splitlines(keepends=True)[3:]), encoding="utf-8")
    result = run("audit", "--verify", str(exported))
    assert result.exit_code == 0
    assert "2 entries, 4 to 5" in result.stdout
    assert f"what came before 4 is retired, and told by its last hash {record(3)[-1]['hash']}" in result.stdout


def test_the_stores_own_record(admin, run):
    admin.answers["GET", "/v1/audit/verify"] = {**INTACT, "before": 2}
    result = run("audit", "--verify")
    assert (result.exit_code, result.stderr) == (0, "")
    told = f"intact: 3 entries, 1 to 3, head {'ab' * 32}; from before the chain, and not to be verified: 2\n"
    assert result.stdout == told
    fault = {"kind": "missing", "seq": 2, "id": "", "detail": "entry 2 is missing: 1 is followed by 3"}
    admin.answers["GET", "/v1/audit/verify"] = {**INTACT, "intact": False, "fault": fault}
    result = run("audit", "--verify")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "entry 2 is missing" in result.stderr
    assert json.loads(run("audit", "--verify", "--json").stdout)["fault"] == fault


def test_a_head_that_was_kept(admin, run, exported):
    kept = record(3)[-1]["hash"]
    assert run("audit", "--verify", str(exported), "--head", kept).exit_code == 0
    result = run("audit", "--verify", str(exported), "--head", "ab" * 32)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the hash that was kept is not there" in result.stderr
    admin.answers["GET", "/v1/audit/verify"] = INTACT
    assert run("audit", "--verify", "--head", kept).exit_code == 0
    assert admin.asked[-1][1] == f"/v1/audit/verify?head={kept}"


def test_nothing_to_verify_is_said(admin, run):
    admin.answers["GET", "/v1/audit/verify"] = {**INTACT, "entries": 0, "first": None, "last": None, "before": 4}
    assert run("audit", "--verify").stdout.startswith("nothing to verify: no entry carries a hash; from before")


@pytest.mark.parametrize(
    "words",
    [
        ("--verify", "--export"),
        ("file",),
        ("--verify", "/no/file"),
        ("--export", "/no/file"),
        ("--head", "ab" * 32),
        ("--verify", "--head", "x"),
    ],
)
def test_usage(run, words):
    result = run("audit", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
