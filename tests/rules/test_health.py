"""When an upstream may be chosen. The clock is a number that the tests say."""

from __future__ import annotations

import pytest

from bgproxy.rules.health import Health, HealthOptions

OPTIONS = HealthOptions(rise=2, fall=3, eject_after=3, eject_timeout=10.0)


def checked(results: str, options: HealthOptions = OPTIONS) -> Health:
    """An upstream after these active checks: + passed, - failed."""
    health = Health(options)
    for result in results:
        if result == "+":
            health.check_passed()
        else:
            health.check_failed("connection refused")
    return health


@pytest.mark.parametrize(
    ("results", "usable"),
    [
        ("", True),  # nothing is known against it
        ("+", True),
        ("-", False),  # the first check counts in full
        ("-+", False),
        ("-++", True),
        ("-+-+", False),  # in a row
        ("+-", True),
        ("+--", True),
        ("+---", False),
        ("+--+--", True),  # in a row
        ("+---+", False),
        ("+---++", True),
        ("+---++--", True),
        ("+---++---", False),
    ],
)
def test_active_checks(results: str, usable: bool) -> None:
    health = checked(results)
    assert health.usable(0.0) == usable
    assert health.up == usable
    assert health.reason == ("" if usable else "connection refused")
    assert health.checked == bool(results)


@pytest.mark.parametrize(("results", "usable"), [("-+", True), ("+-", False), ("+-+", True)])
def test_one_check_may_be_enough(results: str, usable: bool) -> None:
    assert checked(results, HealthOptions(rise=1, fall=1)).usable(0.0) == usable


def test_failures_in_a_row_eject_for_a_while() -> None:
    health = Health(OPTIONS)
    for now in (100.0, 101.0):
        health.request_failed(now, "reset")
        assert health.usable(now)
    health.request_failed(102.0, "time-out")
    assert (health.usable(102.0), health.usable(111.9), health.usable(112.0)) == (False, False, True)
    assert (health.reason, health.up) == ("time-out", True)


def test_an_answer_breaks_the_row() -> None:
    health = Health(OPTIONS)
    for _ in range(5):
        health.request_failed(0.0, "reset")
        health.request_failed(0.0, "reset")
        health.request_done()
    assert health.usable(0.0)


def test_after_its_time_it_has_all_its_tries_again() -> None:
    health = Health(OPTIONS)
    for _ in range(3):
        health.request_failed(0.0, "reset")
    health.request_failed(20.0, "reset")
    health.request_failed(20.0, "reset")
    assert health.usable(20.0)
    health.request_failed(21.0, "reset")
    assert not health.usable(30.9)


def test_ejection_may_be_off() -> None:
    health = Health(HealthOptions(eject_after=0))
    for _ in range(100):
        health.request_failed(0.0, "reset")
    assert health.usable(0.0)


def test_a_passed_check_does_not_shorten_an_ejection() -> None:
    health = checked("++")
    for _ in range(3):
        health.request_failed(0.0, "reset")
    health.check_passed()
    assert not health.usable(9.0)
    assert health.usable(10.0)


def test_down_by_checks_stays_down_after_an_ejection() -> None:
    health = checked("-")
    for _ in range(3):
        health.request_failed(0.0, "reset")
    assert not health.usable(1_000.0)


def test_new_options_keep_what_is_known() -> None:
    health = checked("+--")
    health.configure(HealthOptions(fall=5))
    health.check_failed("refused")
    assert health.usable(0.0)
    health.configure(HealthOptions(fall=4))
    health.check_failed("refused")
    assert not health.usable(0.0)
    assert repr(health) == "<Health down refused>"
