"""Which color serves: every pair of policies against every kind of pin."""

from __future__ import annotations

import pytest

from bgproxy.rules.choose import choose, has_ended
from bgproxy.rules.pin import OnRollback, Order, Pin, Policy
from bgproxy.rules.pointer import Pointer
from bgproxy.rules.release import Release

POINTER = Pointer("green", "blue", 5, "ada", "why", 1.0)
HERE = ("http://127.0.0.1:1",)
RELEASES = {"blue": Release("v1", HERE), "green": Release("v2", HERE), "red": Release("v0", HERE, rolled_back=5)}


def pin(color: str, release: str, epoch: int) -> Pin:
    return Pin(b"0" * 16, color, release, "", epoch, 1.0, "mcp", "chat", 0, 600.0)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("on_rollback", OnRollback)
def test_without_a_pin_the_active_color(policy: Policy, on_rollback: OnRollback) -> None:
    assert choose(POINTER, RELEASES, None, policy, on_rollback) == ("green", "active")


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("on_rollback", OnRollback)
@pytest.mark.parametrize("lost", [("blue", "v9"), ("pink", "v1"), ("green", "v1"), ("blue", "")])
@pytest.mark.parametrize("epoch", [1, 5, 9])
def test_a_release_that_does_not_stand_there(
    policy: Policy, on_rollback: OnRollback, lost: tuple[str, str], epoch: int
) -> None:
    assert choose(POINTER, RELEASES, pin(*lost, epoch), policy, on_rollback) == ("green", "gone")


@pytest.mark.parametrize(
    ("place", "policy", "on_rollback", "choice"),
    [
        (("green", "v2", 1), Policy.PINNED, OnRollback.MOVE, ("green", "pinned")),
        (("green", "v2", 1), Policy.FOLLOW, OnRollback.MOVE, ("green", "confirm")),
        (("green", "v2", 5), Policy.FOLLOW, OnRollback.MOVE, ("green", "pinned")),
        (("green", "v2", 6), Policy.FOLLOW, OnRollback.MOVE, ("green", "pinned")),
        (("blue", "v1", 4), Policy.PINNED, OnRollback.MOVE, ("blue", "pinned")),
        (("blue", "v1", 4), Policy.FOLLOW, OnRollback.MOVE, ("green", "follow")),
        (("blue", "v1", 4), Policy.FOLLOW, OnRollback.STAY, ("green", "follow")),
        (("blue", "v1", 5), Policy.FOLLOW, OnRollback.MOVE, ("blue", "pinned")),  # moved there by hand since the flip
        (("blue", "v1", 6), Policy.FOLLOW, OnRollback.MOVE, ("blue", "pinned")),  # the store knows a newer pointer
        (("red", "v0", 4), Policy.PINNED, OnRollback.MOVE, ("green", "rollback")),
        (("red", "v0", 4), Policy.PINNED, OnRollback.STAY, ("red", "pinned")),
        (("red", "v0", 4), Policy.FOLLOW, OnRollback.STAY, ("green", "follow")),
        (("red", "v0", 5), Policy.PINNED, OnRollback.MOVE, ("red", "pinned")),  # moved there by hand since
    ],
)
def test_where_the_release_stands(
    place: tuple[str, str, int], policy: Policy, on_rollback: OnRollback, choice: tuple[str, str]
) -> None:
    found = choose(POINTER, RELEASES, pin(*place), policy, on_rollback)
    assert found == choice
    assert (found.color != place[0]) == (found.why not in ("pinned", "confirm"))


@pytest.mark.parametrize("epoch", [4, 5, 8])
def test_the_pointer_has_come_back_to_what_a_rollback_had_left(epoch: int) -> None:
    back = Pointer("red", "green", 8, "ada", "why", 1.0)
    choice = choose(back, RELEASES, pin("red", "v0", epoch), Policy.PINNED, OnRollback.MOVE)
    assert choice == ("red", "confirm" if epoch < 5 else "pinned")
    assert choose(back, RELEASES, pin("red", "v0", epoch), Policy.PINNED, OnRollback.STAY) == ("red", "pinned")


def test_a_session_that_came_after_the_rollback_stays() -> None:
    later = Pointer("green", "blue", 8, "ada", "why", 1.0)
    assert choose(later, RELEASES, pin("red", "v0", 6)) == ("red", "pinned")
    assert choose(later, RELEASES, pin("red", "v0", 4)) == ("green", "rollback")


ENDED = {
    "blue": Release("v1", HERE, ended=True, rolled_back=5),
    "green": Release("v2", HERE, ended_before=("v0", "v9")),
    "red": Release("v3", HERE, ended=True, ended_before=("v1",)),
}


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("on_rollback", OnRollback)
@pytest.mark.parametrize("epoch", [1, 5, 9])
@pytest.mark.parametrize(
    ("color", "label", "ended"),
    [
        ("blue", "v1", True),
        ("blue", "v2", False),
        ("green", "v2", False),
        ("green", "v0", True),
        ("green", "v9", True),
        ("green", "v1", False),
        ("red", "v3", True),
        ("red", "v1", True),
        ("red", "v0", False),
        ("pink", "v1", False),
    ],
)
def test_what_a_deadline_has_ended_is_ended_whatever_else_is_true(
    policy: Policy, on_rollback: OnRollback, epoch: int, color: str, label: str, ended: bool
) -> None:
    found = choose(POINTER, ENDED, pin(color, label, epoch), policy, on_rollback)
    assert (found.why == "ended") is ended
    if ended:
        assert found.color == color  # what it is told is its own protocol's ending, from where it lived
    if color in ENDED:
        assert has_ended(ENDED[color], label) is ended


@pytest.mark.parametrize("epoch", [1, 5])
@pytest.mark.parametrize("place", [("blue", "v1"), ("green", "v2"), ("red", "v0"), ("pink", "v1")])
def test_an_order_goes_first_until_it_is_carried_out(place: tuple[str, str], epoch: int) -> None:
    one = pin(*place, epoch)
    order = Order(one.id, one.created, "blue", "v1", 9)
    choice = choose(POINTER, RELEASES, one, Policy.FOLLOW, OnRollback.MOVE, order)
    if place == ("blue", "v1"):
        assert choice == choose(POINTER, RELEASES, one, Policy.FOLLOW, OnRollback.MOVE)
    else:
        assert choice == ("blue", "ordered")


def test_an_order_for_another_session_says_nothing() -> None:
    one = pin("blue", "v1", 5)
    order = Order(one.id, one.created + 1, "green", "v2", 9)
    assert choose(POINTER, RELEASES, one, order=order) == ("blue", "pinned")


def test_sessions_that_were_ended_are_told_so_whatever_was_ordered() -> None:
    one = pin("blue", "v1", 5)
    releases = {**RELEASES, "blue": Release("v1", HERE, ended=True)}
    assert choose(POINTER, releases, one, order=Order(one.id, one.created, "green", "v2", 9)).why == "ended"
