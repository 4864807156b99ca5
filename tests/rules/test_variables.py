"""A plan's variables: which texts hold one, what they are filled with, and that nothing else of the environment is."""

from __future__ import annotations

import pytest

from bgproxy.rules.variables import filled, unset

ENVIRON = {"GATE_A": "1", "GATE_B2": "${GATE_A}", "SECRET": "s", "GATE_": "e"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Bearer ${GATE_A}", "Bearer 1"),
        ("${GATE_A}${GATE_A}-${GATE_B2}", "11-${GATE_A}"),
        (
            "${SECRET} $GATE_A {GATE_A} ${GATE_} ${gate_a} ${GATE_A",
            "${SECRET} $GATE_A {GATE_A} ${GATE_} ${gate_a} ${GATE_A",
        ),
    ],
)
def test_only_variables_for_gates_are_filled_and_once(text, expected):
    assert (unset(text, ENVIRON), filled(text, ENVIRON)) == ("", expected)


def test_the_first_that_is_not_set_is_named_with_the_remedy():
    why = unset("${GATE_A} ${GATE_X} ${GATE_Y}", ENVIRON)
    assert why == "the variable GATE_X is not set in this proxy's environment: set it, and start the proxy anew"
