"""The audit's chain: what a hash is made of, told a second time by other means, and every kind of edit found."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bgproxy.rules.chain import EMPTY, GENESIS, Head, Report, Walk, content, hash_of

Entry = dict[str, Any]


def written(count: int, head: Head = EMPTY, **facts: Any) -> tuple[list[Entry], Head]:
    """A record as it is exported, and its head."""
    entries = []
    for number in range(count):
        entry = {
            "id": f"{number}-0",
            "at": 1_750_000_000.25 + number,
            "verb": "flip",
            "actor": "ada",
            "reason": f"why {number}",
            "epoch": number,
            "revision": number + 1,
            "facts": {"to": "green", "phases": {"blue": ["active", "standby"]}, **facts},
        }
        after = head.after(entry["at"], content(entry))
        entries.append({**entry, "seq": after.seq, "prev": head.hash, "hash": after.hash})
        head = after
    return entries, head


def walked(entries: Iterable[Mapping[str, Any]], head: Head | None = None) -> Report:
    walk = Walk(head)
    for entry in entries:
        walk.take(entry)
    return walk.report(head)


def fault(entries: Iterable[Mapping[str, Any]], head: Head | None = None) -> tuple[str, int | None]:
    found = walked(entries, head).fault
    assert found is not None
    assert found.detail
    return found.kind, found.seq


def rehashed(entry: Entry) -> Entry:
    return {**entry, "hash": hash_of(entry)}


def test_a_hash_is_what_the_description_says():
    (entry,), _ = written(1, note="ünï", small=1.5)
    members = {name: entry[name] for name in ("verb", "actor", "reason", "epoch", "revision", "facts")}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    assert "\\u00fc" in text
    inner = hashlib.sha256(text.encode("ascii")).hexdigest()
    lines = ["bgproxy.audit.1", "1", "1750000000.250000", "0" * 64, inner]
    assert entry["hash"] == hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


def test_what_was_written_is_intact():
    entries, head = written(5)
    assert walked(entries, head) == Report(5, 1, 5, head.hash, "", 0, None)
    assert walked(entries) == walked(entries, head)
    assert walked([], EMPTY).fault is None


def test_what_retention_took_is_told_by_its_hash():
    entries, head = written(9)
    kept = Head(head.seq, head.hash, 4)
    assert walked(entries[3:], kept) == Report(6, 4, 9, head.hash, entries[2]["hash"], 0, None)
    assert walked(entries[2:], kept).fault is None, "the store may keep more than it must"


def test_entries_from_before_the_chain_are_counted_apart():
    entries, head = written(3)
    old = {"id": "0-1", "at": 1.0, "verb": "flip", "facts": {}, "seq": None, "prev": None, "hash": None}
    report = walked([old, old, *entries], head)
    assert (report.before, report.entries, report.fault) == (2, 3, None)
    assert fault([*entries[:2], old, entries[2]], head) == ("inserted", None)


EDITS: list[tuple[str, Any]] = [
    ("at", 1.0),
    ("verb", "stage"),
    ("actor", "eve"),
    ("reason", ""),
    ("epoch", 7),
    ("epoch", "3"),
    ("revision", 4.0),
    ("facts", {}),
    ("facts", "no object"),
    ("seq", 2),
    ("seq", None),
    ("seq", "4"),
    ("prev", GENESIS),
    ("hash", "0" * 64),
    ("hash", None),
    ("at", float("nan")),
    ("at", "1.0"),
    ("at", None),
    ("note", "a member that never was"),
]


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_an_edited_member_is_found(name: str, value: Any):
    entries, head = written(6)
    entries[3][name] = value
    assert fault(entries, head)[0] == fault(entries)[0] == "edited"
    assert walked(entries, head).fault.id == "3-0"


@pytest.mark.parametrize("name", ["at", "verb", "actor", "reason", "epoch", "revision", "facts"])
def test_a_member_that_was_taken_away_is_found(name: str):
    entries, head = written(3)
    del entries[1][name]
    assert fault(entries, head) == ("edited", 2)


@pytest.mark.parametrize("at", [0, 2, 5])
def test_an_edit_that_made_its_own_hash_anew_is_found_by_the_one_behind_or_the_head(at: int):
    entries, head = written(6)
    entries[at] = rehashed({**entries[at], "actor": "eve"})
    assert fault(entries, head) == ("edited", at + 1)


def test_a_chain_that_was_made_anew_up_to_its_end_is_found_by_the_head():
    _, head = written(6)
    forged, _ = written(6, note="forged")
    assert fault(forged, head) == ("edited", 6)
    assert walked(forged).fault is None, "by itself nothing tells: so heads are kept elsewhere"


def test_a_hash_that_was_kept_must_be_met():
    entries, head = written(6)

    def met(kept: str, record: list[Entry], end: Head | None = head) -> bool:
        walk = Walk(end, kept)
        for entry in record:
            walk.take(entry)
        return walk.report(end).fault is None

    assert all(met(entry["hash"], entries) for entry in entries)
    assert met(entries[2]["hash"], entries[3:], None), "the anchor is a part of it"
    assert not met(entries[1]["hash"], entries[3:], None)
    forged, end = written(6, note="forged")
    assert met("", forged, end)
    assert not met(head.hash, forged, end)
    assert not met(head.hash, [], EMPTY)


@pytest.mark.parametrize(("before", "seq"), [(Head(0, "ab" * 32), 1), (Head(3, GENESIS), 4)])
def test_only_the_first_entry_begins_a_chain(before: Head, seq: int):
    forged, _ = written(3, before)
    assert fault(forged) == ("edited", seq)


@pytest.mark.parametrize(("at", "seq"), [(0, 1), (3, 4), (5, 6)])
def test_a_deleted_entry_is_missing(at: int, seq: int):
    entries, head = written(6)
    del entries[at]
    assert fault(entries, head) == ("missing", seq)


def test_all_deleted_is_missing_from_the_first():
    _, head = written(6)
    assert fault([], head) == ("missing", 1)


def test_more_than_retention_took_is_missing():
    entries, head = written(9)
    assert fault(entries[5:], Head(9, head.hash, 3)) == ("missing", 3)


def test_the_first_of_several_is_told():
    entries, head = written(9)
    entries[6]["reason"] = "edited"
    del entries[2]
    assert fault(entries, head) == ("missing", 3)


@pytest.mark.parametrize(
    ("order", "seq"), [((0, 2, 1, 3), 2), ((1, 0, 2, 3), 1), ((3, 0, 1, 2), 1), ((0, 1, 3, 2), 3), ((0, 0, 1, 2, 3), 1)]
)
def test_another_order_is_found(order: tuple[int, ...], seq: int):
    entries, head = written(4)
    assert fault([entries[at] for at in order], head) == ("out_of_order", seq)
    assert fault([entries[at] for at in order]) == ("out_of_order", seq)


def test_an_entry_behind_the_end_that_no_change_wrote():
    entries, head = written(4)
    more, _ = written(1, head)
    assert fault([*entries, *more], head) == ("inserted", 5)


def test_what_came_while_it_was_walked_is_none():
    entries, head = written(4)
    more, later = written(2, head)
    walk = Walk(head)
    for entry in [*entries, *more]:
        walk.take(entry)
    assert walk.report(later).fault is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda v: st.lists(v, max_size=3),
)


def _edit(entries: list[Entry], at: int, name: str, value: Any) -> None:
    entries[at][name] = value


def _forge(entries: list[Entry], at: int, name: str, value: Any) -> None:
    entries[at][name] = value
    entries[at] = rehashed(entries[at])


def _delete(entries: list[Entry], at: int, name: str, value: Any) -> None:
    del entries[at]


def _insert(entries: list[Entry], at: int, name: str, value: Any) -> None:
    entries.insert(at, {**entries[at - 1], name: value, "id": "9-9"})


def _swap(entries: list[Entry], at: int, name: str, value: Any) -> None:
    entries[at], entries[at - 1] = entries[at - 1], entries[at]


@given(
    count=st.integers(2, 12),
    edits=st.lists(
        st.tuples(
            st.sampled_from([_edit, _forge, _delete, _insert, _swap]),
            st.integers(0, 11),
            st.sampled_from(["verb", "actor", "reason", "epoch", "revision", "facts", "seq", "prev", "hash"]),
            VALUES,
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_whatever_is_done_to_a_record_is_found(
    count: int, edits: list[tuple[Callable[[list[Entry], int, str, Any], None], int, str, Any]]
):
    entries, head = written(count)
    changed = copy.deepcopy(entries)
    for edit, at, name, value in edits:
        if changed:
            edit(changed, at % len(changed), name, value)
    assume(json.dumps(changed) != json.dumps(entries))
    assert walked(changed, head).fault is not None
