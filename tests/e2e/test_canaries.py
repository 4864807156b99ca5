"""A canary on the data path: who begins on it, that they stay there, and move at a turn's end when it is bad."""

from __future__ import annotations

import time
from typing import Any

import pytest
from rig import Proxy, Rig, Script, Serving, get, ok
from wire import Message

from bgproxy.rules import running
from bgproxy.rules.fleet import Change
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import Canary, Plan
from bgproxy.rules.release import Phase

WHO: dict[str, Any] = {"actor": "ada", "reason": ""}
PASS, FAIL = Finding(Verdict.PASS, ""), Finding(Verdict.FAIL, "bad")


def applied(proxy: Proxy, change: Change | None) -> None:
    assert change is not None
    proxy.apply(change.state)


def step(proxy: Proxy, finding: Finding = PASS) -> None:
    """The next step of the run is done."""
    state = proxy.plane.state
    assert state is not None
    assert state.run is not None
    run = state.run
    applied(proxy, running.record(state, run.id, "n", run.next, finding, at=time.time(), took=0.1))


def begin(proxy: Proxy, **section: Any) -> None:
    """The release on green is brought out, and its canary is on."""
    state, plan = proxy.plane.state, Plan(canary=Canary(max_error_rate=0.1))
    assert state is not None
    applied(proxy, running.begin(state, "green", None, plan, {"canary": section}, leader="n", at=1.0, **WHO))
    run = proxy.plane.state.run  # type: ignore[union-attr]
    assert run is not None
    assert "canary" not in run.todo  # of a release that is only validated nobody is let in
    applied(proxy, running.abort(proxy.plane.state, at=2.0, **WHO))  # type: ignore[arg-type]
    state = proxy.plane.state
    release = state.releases["green"]  # type: ignore[union-attr]
    applied(
        proxy,
        running.begin(state, "green", release, plan, {"canary": section}, leader="n", at=3.0, **WHO),  # type: ignore[arg-type]
    )
    step(proxy)
    step(proxy)


async def says(proxy: Proxy, *fields: str) -> str:
    answer = await proxy.ask(get("/", *fields))
    assert answer.status == 200, answer
    return answer.body.decode()


async def colors(proxy: Proxy, count: int = 40) -> list[str]:
    """Where so many sessions live."""
    return [await says(proxy, f"X-Session-Id: s-{number}") for number in range(count)]


@pytest.fixture
async def proxy(rig: Rig) -> Proxy:
    blue, green = Serving(lambda _: ok(b"blue")), Serving(lambda _: ok(b"green"))
    presets = ["header:X-Session-Id"]
    return await rig.proxy(rig.agent(blue), green=(rig.agent(green),), sessions=presets)


async def test_a_share_of_new_sessions_begins_there_and_stays_through_the_flip(proxy: Proxy) -> None:
    assert set(await colors(proxy, 5)) == {"blue"}
    begin(proxy, share=0.5)
    first = await colors(proxy)
    assert first[:5] == ["blue"] * 5  # they had begun
    assert 5 < first.count("green") < 35
    assert await colors(proxy) == first
    step(proxy)
    assert await colors(proxy) == first
    assert await says(proxy, "X-Session-Id: late") == "blue"  # until the flip
    proxy.flip("green")
    assert await colors(proxy) == first
    assert await says(proxy, "X-Session-Id: later") == "green"


async def test_when_it_ends_badly_they_move_at_their_next_turn(proxy: Proxy) -> None:
    begin(proxy, share=1.0)
    assert set(await colors(proxy, 5)) == {"green"}
    step(proxy, FAIL)
    assert proxy.plane.state is not None
    assert proxy.plane.state.releases["green"].phase is Phase.ROLLED_BACK
    assert set(await colors(proxy, 5)) == {"blue"}
    assert await says(proxy) == "blue"


async def test_a_turn_under_way_ends_where_it_began(rig: Rig) -> None:
    script = Script()
    blue = Serving(lambda _: ok(b"blue"))
    presets = ["header:X-Session-Id"]
    proxy = await rig.proxy(rig.agent(blue), green=(rig.agent(script),), sessions=presets)
    begin(proxy, share=1.0)
    client = await proxy.connect()
    await client.send(get("/", "X-Session-Id: s-1"))
    agent = await script.next()
    await agent.request()
    step(proxy, FAIL)
    second = await proxy.connect()
    await second.send(get("/", "X-Session-Id: s-1"))
    other = await script.next()  # a session is never in two places at once
    await other.request()
    for wire, line in ((agent, client), (other, second)):
        await wire.send(ok(b"green"))
        answer: Message = await line.answer(b"GET")
        assert answer.body == b"green"
    while await says(proxy, "X-Session-Id: s-1") != "blue":
        pass


async def test_requests_without_a_session_by_the_same_share(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(proxy, share=0.25)
    for number, color in ((0.2, "green"), (0.25, "blue"), (0.9, "blue")):
        monkeypatch.setattr("bgproxy.proxy.routing.random", lambda number=number: number)
        assert await says(proxy) == color
    step(proxy)
    monkeypatch.setattr("bgproxy.proxy.routing.random", lambda: 0.0)
    assert await says(proxy) == "blue"


LISTED = {
    "the field": ("x-team: qa",),
    "another of its values": ("X-Team:\t beta \t",),
    "one of two of that field": ("X-Team: live", "X-Team: qa"),
    "the cookie": ("Cookie: a=b; preview=1;c=d",),
    "the cookie, quoted": ('Cookie: preview="1"',),
}
NOT_LISTED = {
    "nothing": (),
    "another value": ("X-Team: qa2",),
    "another letter case": ("X-Team: QA",),
    "a field by nearly that name": ("X-Teams: qa",),
    "the value somewhere else": ("X-Other: qa",),
    "another cookie": ("Cookie: xpreview=1; a=preview=1",),
}


async def test_those_who_are_listed_begin_there_and_nobody_else(proxy: Proxy) -> None:
    match = [{"header": "X-Team", "values": ["qa", "beta"]}, {"cookie": "preview", "values": ["1"]}]
    begin(proxy, match=match)
    for number, (name, fields) in enumerate([*LISTED.items(), *NOT_LISTED.items()]):
        color = "green" if name in LISTED else "blue"
        assert await says(proxy, *fields) == color, name
        assert await says(proxy, f"X-Session-Id: {number}", *fields) == color, name
        assert await says(proxy, f"X-Session-Id: {number}") == color, name
    step(proxy)
    assert await says(proxy, *LISTED["the field"]) == "blue"
    assert await says(proxy, "X-Session-Id: last", *LISTED["the field"]) == "blue"
