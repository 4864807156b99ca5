"""The pointer knows its successor."""

from __future__ import annotations

import dataclasses

import pytest

from bgproxy.rules.pointer import Pointer

FIRST = Pointer(active="blue", previous=None, epoch=1, actor="config", reason="start", at=10.0)


def test_a_move_remembers_where_it_came_from_and_counts() -> None:
    moved = FIRST.moved("green", "ada", "v2", 20.0)
    assert moved == Pointer(active="green", previous="blue", epoch=2, actor="ada", reason="v2", at=20.0)


def test_two_moves_lead_back_with_a_higher_epoch() -> None:
    back = FIRST.moved("green", "ada", "v2", 20.0).moved("blue", "ada", "no", 30.0)
    assert (back.active, back.previous, back.epoch) == ("blue", "green", 3)


def test_a_pointer_is_never_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FIRST.active = "green"  # type: ignore[misc]
