"""Every pair of phase and event, every kind of upstream address."""

from __future__ import annotations

import itertools

import pytest

from bgproxy.errors import BadInput, Refused
from bgproxy.rules.release import Event, Phase, Release, advance, checked, parse_label, parse_upstream

# Written out by hand from the design, not from the code: what is not here must be refused.
STEPS = {
    ("staged", "validate"): "validating",
    ("staged", "failed"): "rejected",
    ("staged", "force_activate"): "baking",
    ("validating", "validate"): "validating",
    ("validating", "passed"): "ready",
    ("validating", "failed"): "rejected",
    ("validating", "force_activate"): "baking",
    ("ready", "validate"): "validating",
    ("ready", "activate"): "baking",
    ("ready", "failed"): "rejected",
    ("ready", "force_activate"): "baking",
    ("rejected", "force_activate"): "baking",
    ("baking", "settle"): "active",
    ("baking", "leave"): "standby",
    ("baking", "roll_back"): "rolled_back",
    ("active", "leave"): "standby",
    ("staged", "roll_back"): "rolled_back",
    ("validating", "roll_back"): "rolled_back",
    ("ready", "roll_back"): "rolled_back",
    ("active", "roll_back"): "standby",
    ("standby", "activate"): "active",
    ("standby", "drained"): "drained",
    ("standby", "force_activate"): "active",
    ("drained", "activate"): "active",
    ("drained", "retire"): "retired",
    ("drained", "force_activate"): "active",
    ("rolled_back", "drained"): "rejected",
    ("rolled_back", "force_activate"): "baking",
}
PAIRS = list(itertools.product(Phase, Event))


@pytest.mark.parametrize(("phase", "event"), PAIRS, ids=lambda value: str(value))
def test_every_pair(phase: Phase, event: Event) -> None:
    expected = STEPS.get((phase.value, event.value))
    if expected is not None:
        assert advance(phase, event) is Phase(expected)
        return
    with pytest.raises(Refused) as refused:
        advance(phase, event)
    assert phase.value in str(refused.value)
    assert event.value in str(refused.value)


def test_the_pairs_are_all_of_them() -> None:
    assert len(PAIRS) == 100
    assert {(phase.value, event.value) for phase, event in PAIRS} >= STEPS.keys()


def test_retired_has_no_way_out() -> None:
    with pytest.raises(Refused, match="stage a release anew"):
        advance(Phase.RETIRED, Event.FORCE_ACTIVATE)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://127.0.0.1:9101", "http://127.0.0.1:9101"),
        ("http://127.0.0.1:9101/", "http://127.0.0.1:9101"),
        ("HTTP://Agents.Example:80", "http://agents.example:80"),
        ("http://agent", "http://agent:80"),
        ("http://my_agent-1:65535", "http://my_agent-1:65535"),
        ("http://[::1]:9101", "http://[::1]:9101"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]:80"),
        ("http://agent.example.:9101", "http://agent.example.:9101"),
        ("unix:/run/agent.sock", "unix:/run/agent.sock"),
        ("unix:///run/agent.sock", "unix:/run/agent.sock"),
    ],
)
def test_upstreams_are_spelled_in_one_way(given: str, normal: str) -> None:
    assert parse_upstream(given) == normal
    assert parse_upstream(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9101",
        "http://",
        "http://:9101",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:99999999",
        "http://127.0.0.1:+80",
        "http://127.0.0.1:٨٠",
        "http://127.0.0.1:9101/path",
        "http://127.0.0.1:9101?x=1",
        "http://127.0.0.1:9101#x",
        "http://user:secret@127.0.0.1:9101",
        "http://127.0.0.1:9101\n",
        " http://127.0.0.1:9101",
        "http://bad host:80",
        "http://exa\rmple:80",
        "http://-agent:80",
        "http://agent..example:80",
        "http://" + "a" * 64 + ":80",
        "http://256.1.1.1:80",
        "http://1.2.3:80",
        "http://[::g]:80",
        "http://[1.2.3.4]:80",
        "http://[::1:80",
        "http://::1:80",
        "https://agent:443",
        "ftp://agent:21",
        "unix:relative.sock",
        "unix:",
        "unix:/with space",
        "unix:/" + "x" * 107,
    ],
)
def test_whatever_is_no_upstream_is_refused_by_name(url: str) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        parse_upstream(url)


def test_a_refused_upstream_does_not_tell_its_password() -> None:
    with pytest.raises(BadInput) as refused:
        parse_upstream("http://ada:s3cret@127.0.0.1:9101")
    assert "s3cret" not in str(refused.value)


def test_https_says_what_to_do_instead() -> None:
    with pytest.raises(BadInput, match="sidecar"):
        parse_upstream("https://agent:443")


@pytest.mark.parametrize("label", ["v1", "2024-05-01.3", "sha256:abc", "team/app@1.2+build", "x" * 128])
def test_labels(label: str) -> None:
    assert parse_label(label) == label


@pytest.mark.parametrize("label", ["", " v1", "v 1", "v1\n", '"', "x" * 129, "-v", "ü", "a\x00"])
def test_what_is_no_label(label: str) -> None:
    with pytest.raises(BadInput, match="release label"):
        parse_label(label)


def test_a_route_may_have_upstreams_of_its_own() -> None:
    release = Release("v1", ("http://a:1",), routes={"mcp": ("http://b:2",), "off": ()})
    assert release.upstreams_for("mcp") == ("http://b:2",)
    assert release.upstreams_for("chat") == ("http://a:1",)
    assert release.upstreams_for("off") == ()


def test_checked_names_each_address_once() -> None:
    release = checked(Release("v1", ("http://A:1", "http://a:1/", "http://b:2"), routes={"mcp": ("unix:///x",)}))
    assert release.upstreams == ("http://a:1", "http://b:2")
    assert release.routes == {"mcp": ("unix:/x",)}


def test_a_release_needs_an_upstream_somewhere() -> None:
    with pytest.raises(BadInput, match="no upstreams"):
        checked(Release("v1", ()))
    assert checked(Release("v1", (), routes={"mcp": ("http://a:1",)})).upstreams == ()


def test_same_content_looks_past_phase_time_and_origin() -> None:
    one = Release("v1", ("http://a:1",), phase=Phase.READY, origin="config", at=1.0)
    assert one.same_content(Release("v1", ("http://a:1",)))
    assert not one.same_content(Release("v2", ("http://a:1",)))
    assert not one.same_content(Release("v1", ("http://a:2",)))
    assert not one.same_content(Release("v1", ("http://a:1",), metadata={"commit": "1"}))
    assert not one.same_content(Release("v1", ("http://a:1",), routes={"mcp": ("http://a:1",)}))
