"""What counts as lost: each way in which an answer can be wrong, and the one way in which it is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bgproxy.cli.demo.tally import Answer, Kind, Move, Piece, PointerLog, Tally, judge


def pieces(*numbers: int, release: str = "v1", tag: str = "ann") -> list[Piece]:
    return [Piece(release, number, tag) for number in numbers]


def answer(got: Sequence[Piece], *, expected: int = 3, complete: bool = True, failure: str = "") -> Answer:
    made = Answer(Kind.CHAT_STREAM, "ann", expected, began=10.0, complete=complete, failure=failure)
    for piece in got:
        made.take(piece, 11.0)
    return made


CASES: list[tuple[str, Answer]] = [
    ("", answer(pieces(0, 1, 2))),
    ("ReadError", answer(pieces(0, 1, 2), failure="ReadError")),
    ("gap or out of order", answer(pieces(0, 2, 3))),
    ("gap or out of order", answer(pieces(0, 2, 1))),
    ("gap or out of order", answer(pieces(0, 1, 1))),
    ("gap or out of order", answer(pieces(1, 2))),
    ("cut short", answer(pieces(0, 1))),
    ("cut short", answer([])),
    ("cut short", answer([], expected=0)),
    ("too long", answer(pieces(0, 1, 2, 3))),
    ("no proper end", answer(pieces(0, 1, 2), complete=False)),
    ("somebody else's", answer(pieces(0, 1, 2, tag="bob"))),
    ("somebody else's", answer([*pieces(0, 1), *pieces(2, tag="bob")])),
    ("two releases in one answer", answer([*pieces(0, 1), *pieces(2, release="v2")])),
    ("wrong release", answer(pieces(0, 1, 2, release="v2"))),
    ("wrong release", answer(pieces(0, 1, 2, release=""))),
]


@pytest.mark.parametrize(("reason", "given"), CASES)
def test_an_answer_is_right_in_one_way_only(reason: str, given: Answer) -> None:
    assert judge(given, PointerLog("v1")) == reason


def flipped(*, returned: float | None = 20.0) -> PointerLog:
    """v1 stands, and at 19 s a flip to v2 is begun."""
    pointer = PointerLog("v1")
    pointer.moving("v2", 19.0)
    if returned is not None:
        pointer.moved(returned)
    return pointer


@pytest.mark.parametrize(
    ("began", "first_at", "v1", "v2"),
    [
        (10.0, 11.0, "", "wrong release"),  # answered before the flip was even asked for
        (10.0, 19.5, "", ""),  # the flip came between the question and the answer
        (19.5, 19.6, "", ""),  # asked while the flip was under way
        (19.5, 30.0, "", ""),  # the same, by an agent that thought for long
        (20.0, 20.1, "late", ""),  # asked once it had returned
        (25.0, 30.0, "late", ""),
    ],
)
def test_which_release_may_answer_around_a_flip(began: float, first_at: float, v1: str, v2: str) -> None:
    assert (flipped().objection("v1", began, first_at), flipped().objection("v2", began, first_at)) == (v1, v2)


def test_after_a_move_of_which_nothing_is_known_either_release_may_answer() -> None:
    pointer = flipped(returned=None)
    assert [pointer.objection(release, 30.0, 31.0) for release in ("v1", "v2")] == ["", ""]
    pointer.moving("v2", 40.0)
    pointer.moved(41.0)
    assert [pointer.objection(release, 42.0, 43.0) for release in ("v1", "v2")] == ["late", ""]


def test_a_release_that_is_flipped_back_to_is_right_again() -> None:
    pointer = flipped()
    pointer.moving("v1", 30.0)
    pointer.moved(31.0)
    assert [pointer.objection(release, 32.0, 33.0) for release in ("v1", "v2")] == ["", "late"]
    assert [pointer.objection(release, 29.0, 32.0) for release in ("v1", "v2")] == ["", ""]


def done(tally: Tally, kind: Kind, tag: str, *, release: str = "v1", complete: bool = True) -> str:
    given = tally.begin(kind, tag, 1, 1.0)
    given.take(Piece(release, 0, tag), 1.25)
    given.complete = complete
    return tally.end(given)


def move(verb: Any = "flip") -> Move:
    return Move(verb, "blue", "green", 2, took_ms=0.5, call_ms=1.0, streams=1, websockets=1)


def test_the_last_line_counts_by_sort_and_does_not_call_a_rollback_a_flip() -> None:
    tally = Tally(PointerLog("v1"))
    for kind in Kind:
        done(tally, kind, f"right-{kind}")
    done(tally, Kind.CHAT, "cut", complete=False)
    tally.moves += [move(), move(), move("rollback")]
    assert tally.last_line() == "demo: 4 requests, 2 streams, 1 websockets, 2 flips, 1 lost"
    assert tally.details == ["chat cut: no proper end, 1 of 1 parts came"]
    document = tally.document()
    assert (document["lost"], document["rollbacks"], document["late"]) == (1, 1, 0)
    assert document["kinds"][3]["lost"] == {"no proper end": 1}


def test_a_late_answer_is_lost() -> None:
    tally = Tally(PointerLog("v2"))
    tally.pointer.moving("v1", 0.0)
    tally.pointer.moved(0.5)
    assert done(tally, Kind.CHAT, "ann", release="v2") == "late"
    assert (tally.lost, tally.document()["late"]) == (1, 1)


def test_only_what_has_begun_to_be_answered_is_under_way() -> None:
    tally = Tally(PointerLog("v1"))
    silent = tally.begin(Kind.CHAT_STREAM, "silent", 2, 1.0)
    speaking = tally.begin(Kind.CHAT_STREAM, "speaking", 2, 1.0)
    speaking.take(Piece("v1", 0, "speaking"), 2.0)
    assert tally.under_way("streams") == {"speaking"}
    assert (tally.open(Kind.CHAT_STREAM), tally.under_way("websockets")) == (2, set())
    tally.end(silent)
    tally.end(speaking)
    assert (tally.open(Kind.CHAT_STREAM), tally.lost) == (0, 2)


def test_each_turn_of_a_conversation_has_its_own_wait_and_a_stream_only_its_first() -> None:
    tally = Tally(PointerLog("v1"))
    talk = tally.begin(Kind.WEBSOCKET, "talk", 0, 1.0)
    stream = tally.begin(Kind.CHAT_STREAM, "stream", 2, 1.0)
    for turn, asked in enumerate((2.0, 3.0)):
        talk.ask(asked)
        talk.take(Piece("v1", turn, "talk"), asked + 0.25)
        stream.take(Piece("v1", turn, "stream"), asked)
    assert (talk.expected, talk.waits, stream.waits) == (2, [0.25, 0.25], [1.0])


def test_quantiles_are_of_the_nearest_rank() -> None:
    row = Tally(PointerLog("v1")).rows[Kind.CHAT]
    row.waits = [number / 1000 for number in range(100, 0, -1)]
    assert [round(row.quantile_ms(share)) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]


def test_a_run_that_proves_nothing_is_doubted() -> None:
    tally = Tally(PointerLog("v1"))
    for kind in Kind:
        if kind is not Kind.MCP_CALL:
            done(tally, kind, kind)
    assert tally.doubts(["v1", "v2"]) == [
        "no mcp call was answered",
        "release v2 answered nothing",
        "no stream was open across any flip",
        "no WebSocket was open across any flip",
    ]
    tally.pointer.moving("v2", 0.0)
    done(tally, Kind.MCP_CALL, "call", release="v2")
    tally.moves.append(move())
    assert tally.doubts(["v1", "v2"]) == []
