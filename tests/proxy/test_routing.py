"""Which upstream one request gets, and which color's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import pytest

from bgproxy.proxy.options import PoolOptions
from bgproxy.proxy.pool import Upstream
from bgproxy.proxy.routing import Group, Routing
from bgproxy.rules.health import Health, HealthOptions
from bgproxy.rules.route import Route, RouteTable
from bgproxy.telemetry.metrics import Metrics

NOW = 100.0


def upstream(number: int) -> Upstream:
    return Upstream("blue", f"http://127.0.0.1:{9000 + number}", Health(HealthOptions()), PoolOptions(), 1.0, 65_536)


def group(count: int, policy: Literal["p2c", "round_robin"] = "p2c", route: str = "r", color: str = "blue") -> Group:
    slot = Metrics().slot(route, color, "v1")
    return Group(route, color, "v1", 7, slot, tuple(upstream(n) for n in range(count)), policy)


def draw(monkeypatch: pytest.MonkeyPatch, *numbers: float) -> None:
    """Say what the dice will show."""
    rest: Iterator[float] = iter(numbers)
    monkeypatch.setattr("bgproxy.proxy.routing.random", lambda: next(rest))


def down(*ill: Upstream) -> None:
    for one in ill:
        one.health.check_failed("refused")


def test_no_upstream_is_no_choice() -> None:
    assert group(0).choose(NOW) is None
    assert group(0, "round_robin").choose(NOW) is None


def test_the_only_one_is_taken_even_when_it_is_down() -> None:
    one = group(1)
    down(*one.upstreams)
    assert one.choose(NOW) is one.upstreams[0]
    assert one.choose(NOW, one.upstreams) is None


@pytest.mark.parametrize(("loads", "chosen"), [((3, 5), 0), ((5, 3), 1), ((4, 4), 0)])
def test_the_less_loaded_of_two(monkeypatch: pytest.MonkeyPatch, loads: tuple[int, int], chosen: int) -> None:
    three = group(3)
    three.upstreams[0].in_flight, three.upstreams[1].in_flight = loads
    draw(monkeypatch, 0.0, 0.0)  # the first, and the one after it
    assert three.choose(NOW) is three.upstreams[chosen]


@pytest.mark.parametrize("first", [0.0, 0.34, 0.67, 0.999])
@pytest.mark.parametrize("second", [0.0, 0.49, 0.5, 0.999])
def test_the_two_are_never_the_same(monkeypatch: pytest.MonkeyPatch, first: float, second: float) -> None:
    three = group(3)
    drawn = three.upstreams[int(first * 3)]
    drawn.in_flight = 1
    draw(monkeypatch, first, second)
    assert three.choose(NOW) is not drawn


def test_every_one_gets_its_share() -> None:
    four = group(4)
    chosen: Counter[Upstream | None] = Counter()
    for _ in range(4_000):
        one = four.choose(NOW)
        assert one is not None
        one.in_flight += 1
        chosen[one] += 1
    assert min(chosen.values()) > 950


@pytest.mark.parametrize("policy", ["p2c", "round_robin"])
def test_one_that_is_down_gets_nothing(policy: Literal["p2c", "round_robin"]) -> None:
    three = group(3, policy)
    down(three.upstreams[1])
    assert {three.choose(NOW) for _ in range(200)} == {three.upstreams[0], three.upstreams[2]}


def test_an_ejected_one_comes_back_by_itself() -> None:
    two = group(2)
    for _ in range(3):
        two.upstreams[0].health.request_failed(NOW, "reset")
    assert {two.choose(NOW) for _ in range(100)} == {two.upstreams[1]}
    assert {two.choose(NOW + 60.0) for _ in range(100)} == set(two.upstreams)


@pytest.mark.parametrize("policy", ["p2c", "round_robin"])
def test_where_all_are_down_one_is_tried_all_the_same(policy: Literal["p2c", "round_robin"]) -> None:
    three = group(3, policy)
    down(*three.upstreams)
    assert {three.choose(NOW) for _ in range(100)} == set(three.upstreams)


def test_round_robin_goes_round() -> None:
    three = group(3, "round_robin")
    turns = [three.choose(NOW) for _ in range(6)]
    assert turns[:3] == turns[3:]
    assert set(turns) == set(three.upstreams)


@pytest.mark.parametrize("policy", ["p2c", "round_robin"])
def test_who_was_tried_is_not_tried_again(policy: Literal["p2c", "round_robin"]) -> None:
    three = group(3, policy)
    tried: tuple[Upstream, ...] = ()
    for _ in range(3):
        one = three.choose(NOW, tried)
        assert one is not None
        tried = (*tried, one)
    assert set(tried) == set(three.upstreams)
    assert three.choose(NOW, tried) is None


def test_one_that_is_well_is_tried_before_one_that_is_not() -> None:
    three = group(3)
    down(three.upstreams[1])
    assert three.choose(NOW, (three.upstreams[0],)) is three.upstreams[2]
    assert three.choose(NOW, (three.upstreams[0], three.upstreams[2])) is three.upstreams[1]


def test_a_group_says_what_it_is() -> None:
    one = group(1)
    assert one.debug == b"X-Bgproxy-Color: blue\r\nX-Bgproxy-Epoch: 7\r\n"
    assert repr(one) == "<Group r blue@v1 epoch 7 1 upstreams>"


def routing(*routes: Route) -> Routing:
    groups = {(r.name, color): group(1, route=r.name, color=color) for r in routes for color in ("blue", "green")}
    return Routing(7, "green", RouteTable(routes), groups)


@pytest.mark.parametrize(
    ("host", "target", "name"),
    [(b"a.test", b"/", "a"), (b"x", b"/chat/1?y", "chat"), (b"A.test:80", b"/chat", "a"), (b"x", b"/", None)],
)
def test_a_request_is_admitted_to_the_active_color(host: bytes, target: bytes, name: str | None) -> None:
    found = routing(Route("a", host="a.test"), Route("chat", path="/chat")).admit(host, target)
    assert (found and (found.route, found.color)) == (name and (name, "green"))


def test_one_route_for_everything_admits_everything() -> None:
    only = routing(Route("only"))
    assert only.admit(b"", b"*") is only.groups["only", "green"]
    assert repr(only) == "<Routing green epoch 7>"
