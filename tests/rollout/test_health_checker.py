"""Health checks: what each answer tells the target's Health, and that nothing stops the next round."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from bgproxy.rollout import health as module
from bgproxy.rollout.health import HealthChecker
from bgproxy.rules.health import Health, HealthOptions


@dataclass
class Target:
    url: str = "http://agent:1"
    health: Health = field(default_factory=lambda: Health(HealthOptions(fall=1, rise=1)))


class Agents:
    """Stands in for connecting: by URL, what comes of it."""

    def __init__(self) -> None:
        self.fate: dict[str, str | Exception] = {}
        self.asked: list[str] = []

    async def __call__(self, url: str) -> str:
        self.asked.append(url)
        fate = self.fate.get(url, "")
        if isinstance(fate, Exception):
            raise fate
        return fate


@pytest.fixture
def agents(monkeypatch) -> Agents:
    agents = Agents()
    monkeypatch.setattr(module, "_connect", agents)
    return agents


def checker(*targets: Target, **options: float) -> HealthChecker:
    return HealthChecker(HealthOptions(**{"interval": 0.0, **options}), lambda: targets)


async def test_a_target_that_takes_a_connection_is_up(agents):
    target = Target()
    assert await checker().check(target) == ""
    assert (target.health.up, target.health.checked) == (True, True)


FAILURES: list[tuple[Exception, str]] = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connection refused"),
    (OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)), "no route to host"),
    (OSError("something of the loop's own"), "something of the loop's own"),
    (TimeoutError(), "no answer within 1 s"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES)
async def test_a_target_that_does_not_is_down_with_the_reason_in_words(agents, error, reason):
    target = Target()
    agents.fate[target.url] = error
    assert await checker().check(target) == reason
    assert (target.health.up, target.health.reason) == (False, reason)
    agents.fate.clear()
    await checker().check(target)
    assert (target.health.up, target.health.reason) == (True, "")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL])
async def test_what_is_wrong_with_us_is_not_held_against_the_target(agents, number):
    target = Target()
    agents.fate[target.url] = OSError(number, os.strerror(number))
    assert await checker().check(target) == os.strerror(number).lower()
    assert (target.health.up, target.health.checked) == (True, False)


async def test_going_down_and_coming_up_is_logged_once_each(agents, caplog):
    target = Target()
    for fate in ("refused", "refused", "", ""):
        agents.fate[target.url] = fate
        await checker().check(target)
    assert [record.message.strip() for record in caplog.records] == [
        f"upstream {target.url} is down: refused",
        f"upstream {target.url} is up",
    ]


async def test_a_path_is_asked_for_where_one_is_set(agents, monkeypatch):
    asked: list[str] = []

    async def get(url: str, path: str) -> str:
        asked.append(url + path)
        return "/healthz answered 503"

    monkeypatch.setattr(module, "_get", get)
    target = Target()
    checking = HealthChecker(HealthOptions(path="/healthz"), lambda: [target])
    assert await checking.check(target) == "/healthz answered 503"
    assert (asked, agents.asked) == (["http://agent:1/healthz"], [])
    assert not target.health.up


async def test_rounds_go_on_over_the_targets_of_the_moment(agents, turns: Callable):
    targets = [Target("http://a:1")]
    checking = HealthChecker(HealthOptions(interval=0.0), lambda: targets)
    checking.start()
    await turns()
    targets[:] = [Target("http://b:1")]
    agents.asked.clear()
    await turns()
    await checking.stop()
    assert agents.asked[-1] == "http://b:1"


async def test_a_check_that_fails_in_itself_stops_neither_the_others_nor_the_next_round(agents, turns: Callable):
    broken, well = Target("http://broken:1"), Target("http://well:1")
    agents.fate[broken.url] = ValueError("nobody thought of this")
    checking = checker(broken, well)
    checking.start()
    await turns()
    assert agents.asked.count(well.url) > 1
    agents.fate.clear()
    await turns()
    await checking.stop()
    assert broken.health.checked
    assert asyncio.all_tasks() == {asyncio.current_task()}
