"""Sessions that follow the pointer: what is fine passes, and each way in which one can stray is seen."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.history import LINEARIZABLE, ONCE, STICKY, Execution, Flip, History, Request
from bench.judge import check
from tests.bench.histories import FLIPS, ask, ran, with_a_turn_elsewhere


def strayed(*turns: Request, runs=None, dead=None, flips=FLIPS) -> dict[int, int]:
    """By rule, how often one session that follows broke it. `runs`: all have run as they should, where not said."""
    said = [one._replace(session="f") for one in turns]
    if runs is None:
        runs = [ran(one) for one in said if one.release]
    return dict(check(History(said, flips, runs, dead=dead or {}, follow=True)).broken)


def test_a_session_goes_with_each_flip_and_may_stay_for_a_turn_or_more():
    assert strayed(ask(1, 2), ask(12, 13, "green"), ask(22, 23)) == {}
    assert strayed(ask(1, 2), ask(12, 13), ask(14, 15, "green"), ask(22, 23, "green"), ask(24, 25)) == {}
    assert strayed(ask(1, 2), ask(12, 13), ask(22, 23)) == {}
    turns = [ask(1, 2, session="f"), ask(12, 13, "green", session="f"), ask(22, 23, "green", session="f")]
    turns += [ask(24, 25, session="f")]
    assert check(History(turns, FLIPS, [ran(one) for one in turns], follow=True)).moved == 2


def test_a_session_that_goes_back_without_a_flip_is_seen():
    late = ask(14, 15)
    assert strayed(ask(1, 2), ask(12, 13, "green"), late) == {STICKY: 1}
    assert strayed(ask(1, 2), ask(12, 14.5, "green"), late, runs=[]) == {}, "they met, and it went between them"
    turns = [one._replace(session="f") for one in (ask(1, 2), ask(12, 13, "green"), late)]
    told = check(History(turns, FLIPS, [ran(one) for one in turns], follow=True)).violations[0].text
    assert told == (
        f"session f: {late.id}, sent at 14.000000, ran on v1, after {turns[1].id} had run on v2: no flip since epoch 2 "
        "can have led it there"
    )


def test_nodes_that_disagree_of_where_a_session_is_are_seen():
    assert strayed(ask(1, 2), ask(12, 12.1, "green"), ask(12.2, 12.3), ask(12.4, 12.5, "green")) == {STICKY: 1}
    assert strayed(ask(1, 2), ask(22, 22.1), ask(22.2, 22.3, "green")) == {STICKY: 1}, "green's time is over"


def test_a_session_that_goes_before_the_flip_was_asked_for_is_seen():
    assert strayed(ask(1, 2), ask(9.8, 9.9, "green")) == {STICKY: 1}
    assert strayed(ask(1, 2), ask(9.8, 10.1, "green")) == {}


def test_a_session_that_goes_to_an_epoch_that_is_past_is_seen():
    assert strayed(ask(1, 2), ask(21.5, 22, "green")) == {STICKY: 1}
    assert strayed(ask(1, 2), ask(20.5, 22, "green")) == {}, "the flip back was not told yet"
    asked = ask(19, 19.5)  # and served where it was, as the store did not answer: it may have done it all the same
    assert strayed(ask(1, 2), asked, ask(21.5, 22, "green")) == {}
    assert strayed(ask(1, 2), asked._replace(sent=1.5, answered=2.5, ended=2.5), ask(21.5, 22, "green")) == {STICKY: 1}


def test_who_got_no_answer_may_have_moved_its_session():
    lost = Request("lost", 15, 15.1, 15.1, line=9)
    assert strayed(ask(1, 2), lost, ask(21.5, 22, "green"), runs=[], dead={9: 15}) == {}
    late = lost._replace(sent=28.0, answered=28.1, ended=28.1)
    assert strayed(ask(1, 2), late, ask(31, 32, "green"), runs=[], dead={9: 28}) == {STICKY: 1}


def test_a_session_that_follows_begins_where_the_pointer_is():
    assert strayed(ask(12, 13)) == {LINEARIZABLE: 1, STICKY: 1}
    assert strayed(ask(12, 13, "green"), ask(14, 15, "green")) == {}


def test_a_session_that_moves_in_the_middle_of_a_turn_is_seen():
    first, second = ask(1, 15), ask(12, 13, "green")
    assert strayed(first, second) == {STICKY: 1}
    assert strayed(first, second, runs=[ran(first, ended=11.9), ran(second)]) == {}


def test_a_turn_is_over_when_its_worker_is_killed_though_its_agent_hears_of_it_late():
    lost, second = Request("lost", 1, 11, 11, line=9), ask(12, 13, "green")
    runs = [Execution("lost", "v1", 1.1, 12.5), ran(second)]
    assert strayed(lost, second, runs=runs, dead={9: 10.9}) == {}
    assert strayed(lost, second, runs=runs, dead={9: 12.3}) == {STICKY: 1, ONCE: 1}, "it was lost before that"


# by chance


def _follow(seed: int, turns: int, flips: int) -> History:
    """Sessions that go with the pointer at the turns that the dice say, and never in the middle of one."""
    dice = random.Random(seed)
    until = float(flips + 1) * 10
    at = [0.0, *sorted(dice.uniform(0, until) for _ in range(flips))]
    colors = [dice.choice(["blue", "green"]) for _ in at]
    told = [Flip(n + 1, colors[n], t - dice.random(), t + dice.random()) for n, t in enumerate(at)]
    places: dict[str, tuple[str, float]] = {}  # and until when a turn runs there
    made, runs = [], []
    for number, look in enumerate(sorted(dice.uniform(0, until) for _ in range(turns))):
        sent, answered = look - dice.expovariate(0.5), look + dice.expovariate(0.5)
        session, over = f"s{dice.randrange(1 + turns // 6)}", (look + answered) / 2
        color, busy = places.get(session, ("", 0.0))
        if not color or (busy < look and dice.random() < 0.7):
            color = colors[max(n for n, t in enumerate(at) if t <= look)]
        places[session] = color, max(busy, over)
        one = ask(sent, answered, color, session=session, id=f"r{number}")
        runs.append(Execution(one.id, one.release, look, over))
        if dice.random() < 0.1:  # its answer is lost with its worker
            one = Request(one.id, sent, answered, answered, session=session, line=number + 1)
        made.append(one)
    dice.shuffle(made)
    dead = {one.line: one.answered for one in made if one.line}
    return History(made, told, runs, dead=dead, follow=True)


@given(seed=st.integers(0, 2**32), turns=st.integers(1, 40), flips=st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_no_session_that_goes_with_the_pointer_is_blamed(seed, turns, flips):
    verdict = check(_follow(seed, turns, flips))
    assert not verdict.violations, verdict.told()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_a_turn_elsewhere_than_the_pointer_leads_is_found_wherever_it_is_put(seed):
    verdict = check(with_a_turn_elsewhere(_follow(seed, 30, 4)))
    assert verdict.broken == {STICKY: 1}, verdict.told()
