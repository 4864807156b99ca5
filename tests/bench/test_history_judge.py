"""The judge of histories is judged: what is fine passes, each way to break a guarantee is seen, and nothing else is."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.history import (
    ATOMIC,
    LINEARIZABLE,
    ONCE,
    RECORDED,
    SHOWN,
    STICKY,
    WHOLE,
    Execution,
    Flip,
    History,
    Move,
    Request,
)
from bench.judge import check
from tests.bench.histories import FLIPS, RELEASES, ask, ran


def broken(*requests: Request, flips=FLIPS, runs=None, moves=(), dead=None) -> dict[int, int]:
    """By rule, how often it was broken. `runs`: all have run as they should, where nothing else is said."""
    if runs is None:
        runs = [ran(one) for one in requests if one.release]
    return dict(check(History(requests, flips, runs, moves, dead or {})).broken)


def test_a_history_in_which_all_went_well():
    said = [
        ask(1, 2, "blue", 1),
        ask(3, 12, "blue", 1, said=("v1", "v1")),  # a stream that began before the flip and ended after it
        ask(10.5, 10.6, "green", 2),
        ask(10.1, 10.7, "blue", 1),  # admitted before the flip, answered after others saw it
        ask(1, 2, session="a"),
        ask(15, 16, "blue", 2, session="a"),
        ask(15, 16, "green", 2, session="b"),
        ask(22, 23, "blue", 3),
        ask(22, 23, "green", 3, session="b"),
    ]
    verdict = check(History(said, FLIPS, [ran(one) for one in said]))
    assert not verdict.violations
    assert (verdict.requests, verdict.answered) == (9, 9)
    assert verdict.told() == (
        "9 requests: 9 answered by agents, refused: none, 0 lost with their connection, 0 run again as they may be"
    )


# 1. atomic


def test_two_releases_in_one_answer_are_seen():
    assert broken(ask(1, 2, said=("v1", "v2"))) == {ATOMIC: 1}


def test_a_body_of_another_release_than_the_head_says_is_seen():
    assert broken(ask(1, 2, said=("v2",))) == {ATOMIC: 1}


def test_a_retry_on_another_release_is_seen():
    one = ask(1, 2, repeatable=True)
    assert broken(one, runs=[ran(one), ran(one, release="v2")]) == {ATOMIC: 1}
    assert broken(one, runs=[ran(one), ran(one)]) == {}


def test_a_color_that_its_epoch_was_not_is_seen():
    assert broken(ask(1, 2, "blue", 1)) == {}
    assert ATOMIC in broken(ask(12, 13, "blue", 2))


def test_an_epoch_that_never_was_is_seen():
    assert ATOMIC in broken(ask(22, 23, "blue", 4))


# 2. linearizable


def test_the_old_color_after_the_new_one_is_seen():
    new, late = ask(10.1, 10.2, "green", 2), ask(10.3, 10.4, "blue", 1)
    assert broken(new, late) == {LINEARIZABLE: 1}
    verdict = check(History([late, new], FLIPS, [ran(new), ran(late)]))
    assert verdict.violations[0].requests == (late.id, new.id)
    assert verdict.violations[0].text.endswith("was answered at 10.200000 by green (epoch 2), which takes epoch 2")


def test_the_same_with_colors_alone():
    late = ask(10.3, 10.4, "blue")
    assert broken(ask(10.1, 10.2, "green"), late) == {LINEARIZABLE: 1}
    assert broken(ask(10.35, 10.36, "green"), late) == {}, "they met"


def test_to_and_fro_the_colors_alone_say_which_epoch_it_was():
    assert broken(ask(19, 25, "blue"), ask(20.1, 20.2, "green")) == {}
    third = ask(20.5, 20.6, "blue")
    assert broken(third, ask(20.7, 20.8, "green")) == {LINEARIZABLE: 1}, "after blue's second epoch no green"
    early = Flip(4, "green", 20.65, 22)
    assert broken(third, ask(20.7, 20.8, "green"), flips=(*FLIPS, early)) == {}


def test_an_old_epoch_after_the_flip_was_told_is_seen():
    assert broken(ask(11.1, 11.2, "blue", 1)) == {LINEARIZABLE: 1}
    assert broken(ask(10.9, 11.2, "blue", 1)) == {}


def test_a_new_epoch_before_its_flip_was_asked_is_seen():
    assert broken(ask(9.1, 9.2, "green", 2)) == {LINEARIZABLE: 1}
    assert broken(ask(9.1, 10.1, "green", 2)) == {}


def test_a_flip_of_which_nothing_is_known_may_have_been_at_any_time():
    flips = (Flip(1, "blue"), Flip(2, "green"))
    assert broken(ask(1, 2, "green"), ask(1.5, 1.6, "blue"), flips=flips) == {}
    assert broken(ask(1, 2, "green"), ask(2.5, 2.6, "blue"), flips=flips) == {LINEARIZABLE: 1}


def test_a_new_session_on_the_old_color_is_seen():
    seen = ask(10.1, 10.2, "green", 2)
    assert broken(seen, ask(10.3, 10.4, "blue", session="a")) == {LINEARIZABLE: 1}
    assert broken(seen, ask(10.15, 10.4, session="a"), ask(10.3, 10.5, session="a")) == {}, "it began before"
    assert broken(ask(10.3, 10.4, "green", session="b"), ask(10.5, 10.6, "blue", 1)) == {LINEARIZABLE: 1}


def test_what_a_session_is_told_of_epochs_says_nothing_of_its_pin():
    """A node that has not heard of the flip yet serves a new session on the color that the store has pinned it to."""
    assert broken(ask(10.1, 10.2, "green", 1, session="a")) == {}


# 3. sticky


def test_a_session_on_two_releases_is_seen():
    assert broken(ask(1, 2, session="a"), ask(12, 13, "green", session="a")) == {STICKY: 1}
    assert broken(ask(1, 2, session="a"), ask(1, 2.5, "green", session="a"), flips=(Flip(1, "blue"), Flip(2, "green")))


def test_a_session_may_move_once_for_each_time_that_it_was_allowed_to():
    turns = [ask(1, 2, session="a"), ask(12, 13, "green", session="a"), ask(14, 15, "green", session="a")]
    move = Move("v2", 11, 11.5, left="v1")
    assert broken(*turns, moves=[move]) == {}
    assert broken(*turns, moves=[move._replace(sessions="a")]) == {}
    assert broken(*turns, moves=[move._replace(sessions="b")]) == {STICKY: 2}
    assert broken(*turns, moves=[move._replace(left="v3")]) == {STICKY: 2}
    assert broken(*turns, moves=[move._replace(since=16, until=17)]) == {STICKY: 2}
    assert broken(*turns, moves=[move._replace(since=0.1, until=0.5)]) == {STICKY: 2}, "it was not there yet"
    back = ask(16, 17, session="a")
    assert broken(*turns, back, moves=[move]) == {STICKY: 1}
    assert broken(*turns, back, moves=[move, Move("v1", 15.5, 16.5)]) == {}
    assert broken(*turns, back, moves=[Move("v1", 3, 4), move]) == {STICKY: 1}, "it went past that one"


def test_a_session_that_was_moved_by_hand_says_nothing_of_the_pointer():
    turns = [ask(12, 13, "green", session="a1"), ask(14, 15, session="a1")]
    late = ask(14, 15, session="a2")
    assert broken(*turns, late, moves=[Move("v1", 13, sessions="a1", by_hand=True)]) == {LINEARIZABLE: 1}
    assert broken(late, moves=[Move("v1", 13, sessions="a", by_hand=True)]) == {}


def test_of_sessions_that_began_without_the_store_nothing_is_said():
    turns = [ask(1, 2, session="a"), ask(12, 13, "green", session="a")]
    assert not check(History(turns, FLIPS, [ran(one) for one in turns], unsure={"a"})).violations


def test_turns_of_one_session_on_two_releases_at_once_are_seen():
    move = Move("v2", 1, 2)
    first, second = ask(1, 5, session="a"), ask(4, 6, "green", session="a")
    assert broken(first, second, moves=[move]) == {STICKY: 1}
    runs = [ran(first, ended=3.9), ran(second)]
    assert broken(first, second, moves=[move], runs=runs) == {}, "the first was over, its client had not heard yet"


# 4. nothing is cut


def test_a_stream_that_is_cut_is_seen():
    cut = ask(1, 2, line=7, whole=False)
    assert broken(cut) == {WHOLE: 1}
    assert broken(cut, dead={7: 1.5}) == {}
    assert broken(cut, dead={7: 2.5}) == {WHOLE: 1}, "it was cut before that"
    assert broken(cut, dead={8: 1.5}) == {WHOLE: 1}


# 5. answered once


def test_a_request_without_an_answer_is_seen():
    lost = Request("lost", 1.0, line=3)
    assert broken(lost) == {ONCE: 1}
    assert broken(lost, dead={3: 2.0}) == {}
    assert check(History([lost], FLIPS, dead={3: 2.0})).excused == 1


def test_a_request_that_ran_twice_is_seen_also_where_its_connection_died():
    one = ask(1, 2)
    assert broken(one, runs=[ran(one), ran(one)]) == {ONCE: 1}
    lost = Request("lost", 1.0, line=3)
    assert broken(lost, runs=[Execution("lost", "v1", 1.1, 1.2)] * 2, dead={3: 1.3}) == {ONCE: 1}


def test_an_answer_to_what_never_ran_and_a_run_of_what_nobody_asked_are_seen():
    one, other = ask(1, 2), ask(1, 2)
    assert broken(one, other, runs=[ran(one), Execution("ghost", "v1", 1, 2)]) == {ONCE: 2}


def test_two_answers_to_one_request_are_seen():
    assert broken(ask(1, 2, answers=2)) == {ONCE: 1}


def test_an_honest_refusal_is_an_answer_and_is_counted():
    refused = Request("r", 1, 2, 2, 503, code="hold_full")
    verdict = check(History([refused], FLIPS))
    assert not verdict.violations
    assert verdict.refused == {"503 hold_full": 1}
    assert broken(refused, runs=[Execution("r", "v1", 1, 2)]) == {ONCE: 1}, "a refusal that ran is none"
    gone = refused._replace(status=502)
    assert broken(gone, runs=[Execution("r", "v1", 1, 2)]) == {}, "its agent may have died of it"
    assert broken(refused._replace(status=404)) == {ONCE: 1}


def test_all_violations_are_counted_and_the_first_are_told():
    verdict = check(History([Request(f"r{n}", float(n)) for n in range(SHOWN + 5)], FLIPS))
    assert verdict.broken == {ONCE: SHOWN + 5}
    assert len(verdict.violations) == SHOWN
    assert f"rule 5 (every request answered once) broken {SHOWN + 5} times" in verdict.told()


@pytest.mark.parametrize(
    "requests",
    [[Request("a", 1.0), Request("a", 2.0)], [Request("a", 2.0, 1.0, 3.0)], [Request("a", 1.0, 3.0, 2.0)]],
)
def test_what_is_no_history_is_refused(requests):
    with pytest.raises(ValueError, match="a "):
        check(History(requests, FLIPS))


# 8. on record


def test_a_flip_that_the_replicas_have_and_the_record_has_not_is_seen():
    flips = (FLIPS[0], FLIPS[1]._replace(is_kept=True), FLIPS[2])

    def lost(record: dict[int, str]) -> dict[int, int]:
        return dict(check(History([], flips, record=record)).broken)

    assert lost({1: "blue", 2: "green", 3: "blue"}) == {}
    assert lost({1: "blue", 2: "green"}) == {}, "nobody was told that replicas have the third"
    assert lost({1: "blue", 3: "blue"}) == {RECORDED: 1}
    assert lost({1: "blue", 2: "blue"}) == {RECORDED: 1}, "another flip took its place"


# by chance


def _play(seed: int, requests: int, flips: int) -> History:
    """A history of a proxy that does all right: what each request reads stands between its sending and its answer."""
    dice = random.Random(seed)
    until = float(flips + 1) * 10
    at = [0.0, *sorted(dice.uniform(0, until) for _ in range(flips))]
    colors = [dice.choice(["blue", "green"]) for _ in at]
    told = [Flip(n + 1, colors[n], t - dice.random(), t + dice.random()) for n, t in enumerate(at)]
    pins: dict[str, str] = {}
    looks = sorted(dice.uniform(0, until) for _ in range(requests))
    made, runs = [], []
    for number, look in enumerate(looks):
        sent, answered = look - dice.expovariate(0.5), look + dice.expovariate(0.5)
        epoch = max(n for n, t in enumerate(at) if t <= look) + 1
        session = dice.choice(["", "", f"s{dice.randrange(1 + requests // 4)}"])
        color = pins.setdefault(session, colors[epoch - 1]) if session else colors[epoch - 1]
        known = epoch if dice.random() < 0.5 else 0
        made.append(ask(sent, answered, color, known, session=session, id=f"r{number}"))
        runs.append(Execution(f"r{number}", RELEASES[color], look, (look + answered) / 2))
    dice.shuffle(made)
    return History(made, told, runs)


@given(seed=st.integers(0, 2**32), requests=st.integers(0, 40), flips=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_no_history_of_a_proxy_that_does_all_right_is_blamed(seed, requests, flips):
    verdict = check(_play(seed, requests, flips))
    assert not verdict.violations, verdict.told()


@given(seed=st.integers(0, 2**32), what=st.sampled_from([ATOMIC, LINEARIZABLE, STICKY, WHOLE, ONCE]))
@settings(max_examples=100, deadline=None)
def test_whatever_is_broken_in_a_history_that_was_fine_is_found(seed, what):
    history = _play(seed, 30, 4)
    dice = random.Random(seed)
    at = dice.randrange(30)
    one = history.requests[at]
    other = {"blue": "green", "green": "blue"}[one.color]
    requests, runs = [*history.requests], [*history.executions]
    if what == ATOMIC:
        requests[at] = one._replace(said=(one.release, RELEASES[other]))
    elif what == LINEARIZABLE:  # the color on which the pointer does not stand, long after its last flip was told
        last = max(history.flips)
        stale = "green" if last.color == "blue" else "blue"
        requests.append(ask(last.told + 100, last.told + 101, stale, id="late"))
        runs.append(Execution("late", RELEASES[stale], last.told + 100, last.told + 101))
    elif what == STICKY:
        requests[at] = one._replace(session="odd")
        late = ask(1_000, 1_001, other, session="odd", id="late")
        requests.append(late)
        runs.append(ran(late))
    elif what == WHOLE:
        requests[at] = one._replace(whole=False)
    else:
        runs.append(next(run for run in runs if run.request == one.id))
    verdict = check(replace(history, requests=requests, executions=runs))
    assert verdict.broken[what] == 1, verdict.told()


def _can_be(history: History) -> bool:
    """By trying each way in which epochs can be given to the requests."""
    reads = history.requests
    colors = {flip.epoch: flip.color for flip in history.flips}
    choices = [[e for e, color in colors.items() if color == r.color and r.epoch in (0, e)] for r in reads]
    for epochs in itertools.product(*choices):
        given = [*zip(reads, epochs, strict=True)]
        if (
            not any(one.answered < other.sent and e > f for one, e in given for other, f in given)
            and not any(flip.told < one.sent and flip.epoch > e for flip in history.flips for one, e in given)
            and not any(flip.asked >= one.answered and flip.epoch <= e for flip in history.flips for one, e in given)
        ):
            return True
    return False


_instants = st.integers(0, 12).map(float)


@st.composite
def _histories(draw) -> History:
    """Anything at all, right or wrong, small enough to try everything."""
    requests = []
    for number in range(draw(st.integers(1, 5))):
        sent, answered = sorted((draw(_instants), draw(_instants)))
        color = draw(st.sampled_from(["blue", "green"]))
        requests.append(ask(sent, answered, color, draw(st.sampled_from([0, 0, 0, 1, 2, 3])), id=f"r{number}"))
    flips = []
    for number in range(draw(st.integers(1, 4))):
        asked, told = sorted((draw(_instants), draw(_instants)))
        color = draw(st.sampled_from(["blue", "green"]))
        flips.append(Flip(number + 1, color, asked, draw(st.sampled_from([told, told, inf]))))
    return History(requests, flips)


@given(_histories())
@settings(max_examples=200, deadline=None)
def test_it_blames_a_history_exactly_where_no_order_of_epochs_explains_it(history):
    known = {flip.epoch: flip.color for flip in history.flips}
    history.requests = [one for one in history.requests if not one.epoch or known.get(one.epoch) == one.color]
    assert (LINEARIZABLE not in check(history).broken) == _can_be(history)


def test_many_requests_sessions_and_flips_are_judged_in_no_time():
    many = [ask(n / 100, n / 100 + 0.05, ("blue", "green")[n // 100 % 2]) for n in range(30_000)]
    flips = [Flip(n + 1, ("blue", "green")[n % 2], n - 0.06, n + 0.06) for n in range(300)]
    flips[0] = Flip(1, "blue")
    sessions = [ask(n / 100, n / 100 + 0.05, "blue", session=f"s{n}") for n in range(5_000)]
    moves = [Move("v1", float(n), n + 1.0) for n in range(300)]
    began = time.process_time()
    verdict = check(History([*many, *sessions], flips, moves=moves))
    took = time.process_time() - began
    assert verdict.broken[LINEARIZABLE] > 1_000, "sessions that begin on blue, whatever the pointer says"
    assert took < 5, "seconds; what looks at each pair of requests would take an hour"
