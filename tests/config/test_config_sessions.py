"""Which sessions each route knows, what is refused of them at the start, and what a reload takes over."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from bgproxy.config import NEEDS_RESTART, Settings, reload_diff
from bgproxy.config.sessions import LEAST_TTL
from bgproxy.errors import ConfigError
from bgproxy.http1.parser import Parser
from bgproxy.proxy.options import RouteSessions, SessionOptions
from bgproxy.proxy.plane import SWEEP_INTERVAL, TOUCH_INTERVAL
from bgproxy.rules.pin import OnRollback, Policy
from bgproxy.sessions.keys import Key
from bgproxy.sessions.presets import DEFAULT_PRESETS, PROTOCOLS
from bgproxy.sessions.recognise import Recogniser
from bgproxy.sessions.spec import preset_named
from bgproxy.store.pin_outage import PinOptions

BLUE = '[colors.blue]\nupstreams = ["http://127.0.0.1:9101"]\n'
USUAL = tuple(PROTOCOLS[name] for name in DEFAULT_PRESETS)


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str, flags: dict[str, Any] | None = None, **environ: str) -> Settings:
        path = tmp_path / "c.toml"
        path.write_text(BLUE + text)
        return Settings.load(path, flags, environ)

    return load


@pytest.fixture
def refusal(load, tmp_path):
    def refusal(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        return str(caught.value).replace(str(tmp_path) + "/", "")

    return refusal


def names(settings: Settings, route: str = "default") -> list[str]:
    return [preset.name for preset in settings.proxy().sessions.routes[route].presets]


# --- what is handed out


def test_without_a_word_the_usual_sessions_are_known_on_the_implicit_route(load):
    assert load("").proxy().sessions == SessionOptions(routes={"default": RouteSessions(presets=USUAL)})
    assert load("").pins() == PinOptions()


def test_each_key_of_sessions_is_handed_out(load):
    settings = load(
        '[sessions]\npresets = ["openai", "header:X-Session-Id"]\npolicy = "follow"\non_rollback = "stay"\n'
        "bind_credentials = false\npin_ttl = 60\nmax_age = 7200\ninspect_bytes = 1000\npin_write_timeout = 0\n"
        'cache_size = 5\njournal_size = 0\nrefresh_interval = 2.5\non_store_outage = "refuse"\n'
    )
    route = RouteSessions(
        presets=(PROTOCOLS["openai"], preset_named("header:X-Session-Id")),
        policy=Policy.FOLLOW,
        on_rollback=OnRollback.STAY,
        bind_credentials=False,
        pin_ttl=60.0,
        max_age=7200.0,
    )
    assert settings.proxy().sessions == SessionOptions({"default": route}, inspect_bytes=1000, pin_write_timeout=0.0)
    assert isinstance(settings.proxy().sessions.routes["default"].policy, Policy)
    assert settings.pins() == PinOptions(cache_size=5, journal_size=0, refresh_interval=2.5, on_store_outage="refuse")


def test_a_route_says_otherwise_key_by_key(load):
    settings = load(
        '[sessions]\npresets = ["a2a"]\npolicy = "follow"\non_rollback = "stay"\npin_ttl = 60\nmax_age = 90\n'
        '[[route]]\nname = "plain"\n'
        '[[route]]\nname = "own"\npath = "/own"\nsessions = ["mcp", "json:/session/id"]\npolicy = "pinned"\n'
        'on_rollback = "move"\nbind_credentials = false\npin_ttl = 5\nmax_age = 0\n'
        '[[route]]\nname = "some"\npath = "/some"\nbind_credentials = false\n'
        '[[route]]\nname = "none"\npath = "/none"\nsessions = []\n'
    )
    routes = settings.proxy().sessions.routes
    assert set(routes) == {"plain", "own", "some"}, "a route with no presets knows no sessions"
    common = RouteSessions((PROTOCOLS["a2a"],), Policy.FOLLOW, OnRollback.STAY, True, 60.0, 90.0)
    own = (PROTOCOLS["mcp"], preset_named("json:/session/id"))
    assert routes["plain"] == common
    assert routes["own"] == RouteSessions(own, Policy.PINNED, OnRollback.MOVE, False, 5.0, 0.0)
    assert routes["some"] == RouteSessions((PROTOCOLS["a2a"],), Policy.FOLLOW, OnRollback.STAY, False, 60.0, 90.0)


def test_sessions_can_be_off_but_for_one_route(load):
    settings = load(
        '[sessions]\npresets = []\n[[route]]\nname = "a"\nsessions = "mcp"\n[[route]]\nname = "b"\npath = "/b"'
    )
    assert set(settings.proxy().sessions.routes) == {"a"}
    assert load("[sessions]\npresets = []").proxy().sessions.routes == {}


def test_lists_of_presets_from_flags_and_environment(load):
    file = '[sessions]\npresets = ["a2a"]\n[[route]]\nname = "r"\n'
    assert names(load(file), "r") == ["a2a"]
    variable = {"BGPROXY_SESSIONS__PRESETS": "mcp, header:X-A"}
    assert names(load(file, **variable), "r") == ["mcp", "header:X-A"]
    assert names(load(file, {"sessions": {"presets": ["cookie"]}}, **variable), "r") == ["cookie"], (
        "it replaces the list"
    )
    assert names(load(file, BGPROXY_ROUTE__R__SESSIONS="openai"), "r") == ["openai"]
    assert load(file, BGPROXY_ROUTE__R__SESSIONS="[]").proxy().sessions.routes == {}
    assert load(file, BGPROXY_ROUTE__R__PIN_TTL="9").proxy().sessions.routes["r"].pin_ttl == 9.0


def test_a_preset_of_ones_own_is_used_by_its_name(load):
    settings = load(
        '[sessions]\npresets = ["acme", "mcp"]\n'
        '[session_preset.acme]\nrequest = ["path:/acme/{id}/…", "json:/session/id"]\n'
        'answer = ["header:X-Acme"]\nsticky_host = false\nended_by = 410\n'
        'ending = "not_found"\n'
        '[session_preset.beta]\nrequest = "query:beta"\n'
        '[[route]]\nname = "a"\n[[route]]\nname = "b"\npath = "/b"\nsessions = ["beta"]\n'
    )
    assert (names(settings, "a"), names(settings, "b")) == (["acme", "mcp"], ["beta"])
    acme = settings.proxy().sessions.routes["a"].presets[0]
    assert (acme.sticky_host, acme.gone, acme.ending) == (False, 410, "not_found")
    sighting = Recogniser(settings.proxy().sessions.routes["a"].presets).request(b"GET", b"/acme/7/x", [], False, b"")
    assert sighting.keys == [Key("acme", b"7", 1)]
    assert load("", BGPROXY_SESSION_PRESET__X__REQUEST="header:X-X", BGPROXY_SESSIONS__PRESETS="x").proxy()


def test_the_parser_takes_the_fields_of_every_built_in_preset(load):
    listed = ", ".join(f'"{name}"' for name in [*PROTOCOLS, "cookie", "credentials"])
    found = Recogniser(load(f"[sessions]\npresets = [{listed}]").proxy().sessions.routes["default"].presets)
    Parser(request_marks=found.request_fields, response_marks=found.response_fields)


def test_sessions_survive_the_way_to_a_worker(load):
    before = load('[sessions]\npresets = ["acme"]\n[session_preset.acme]\nrequest = "header:X-A"\n')
    after = pickle.loads(pickle.dumps(before))
    assert (after.proxy(), after.pins()) == (before.proxy(), before.pins())


# --- what is refused

ACME = '[sessions]\npresets = ["acme"]\n[session_preset.acme]\n'
BAD = {
    "a preset like one": (
        '[sessions]\npresets = ["mpc"]',
        "sessions.presets: 'mpc' is no preset; did you mean mcp? There are mcp, a2a, ",
    ),
    "a preset like none": (
        '[sessions]\npresets = ["zzzzzz"]',
        "sessions.presets: 'zzzzzz' is no preset; there are mcp, a2a, ",
    ),
    "a preset like one's own": (
        '[sessions]\npresets = ["acmee"]\n[session_preset.acme]\nrequest = "header:X-A"',
        "sessions.presets: 'acmee' is no preset; ",
    ),
    "a route's preset": (
        '[[route]]\nname = "a"\nsessions = ["header"]',
        "route.a.sessions: 'header' says header of what? Write header:X-Session-Id (file c.toml)",
    ),
    "a field's name": (
        '[sessions]\npresets = ["header:X Session"]',
        "sessions.presets: 'header:X Session' is not the name of a header field; write it like header:X-Session-Id",
    ),
    "a pattern": (
        '[sessions]\npresets = ["path:/agents/"]',
        "sessions.presets: 'path:/agents/' is not a path of whole segments; write it like path:/agents/{id}/…",
    ),
    "a pattern without id": (
        '[[route]]\nname = "a"\nsessions = "path:/agents"',
        "route.a.sessions: 'path:/agents' has no {id} in it; write it like path:/agents/{id}/…",
    ),
    "a pointer": (
        '[sessions]\npresets = ["json:session.id"]',
        "sessions.presets: 'json:session.id' is not a JSON pointer to a member (RFC 6901); write it like json:/session",
    ),
    "twice": ('[sessions]\npresets = ["mcp", "a2a", "mcp"]', 'sessions.presets: "mcp" is there twice; remove one'),
    "no text": ("[sessions]\npresets = [3]", "sessions.presets: 3 is not a list of texts"),
    "a route's no text": ('[[route]]\nname = "a"\nsessions = 3', "route.a.sessions: 3 is not a list of texts; write"),
    "a list for all": (
        '[[sessions]]\npresets = ["mcp"]',
        "sessions: [{'presets': ['mcp']}] is not a table; write [sessions]",
    ),
    "a field that is dropped": (
        '[sessions]\npresets = ["header:X_Session"]',
        "sessions.presets: 'x_session' has an underscore, and forwarding.underscores is \"drop\", so that it is never "
        "read; write 'x-session' if clients can send that, or forwarding.underscores = \"pass\"",
    ),
    "a field that is refused": (
        ACME + 'request = "header:X_S"\n[forwarding]\nunderscores = "refuse"',
        "session_preset.acme: 'x_s' has an underscore, and forwarding.underscores is \"refuse\"",
    ),
    "policy": ('[sessions]\npolicy = "folow"', 'sessions.policy: "folow" is not known; did you mean "follow"?'),
    "a route's policy": (
        '[[route]]\nname = "a"\npolicy = "x"',
        'route.a.policy: "x" is not known; write one of pinned, follow (file c.toml)',
    ),
    "on_rollback": (
        '[sessions]\non_rollback = "mve"',
        'sessions.on_rollback: "mve" is not known; did you mean "move"?',
    ),
    "on_store_outage": (
        '[sessions]\non_store_outage = "x"',
        'sessions.on_store_outage: "x" is not known; write one of admit, refuse',
    ),
    "a route's switch": (
        '[[route]]\nname = "a"\nbind_credentials = "maybe"',
        'route.a.bind_credentials: "maybe" is not true or false; write for example',
    ),
    "a route's seconds": (
        '[[route]]\nname = "a"\nmax_age = "long"',
        'route.a.max_age: "long" is not a number of seconds; write for example 30.0',
    ),
    "true is no time": ('[[route]]\nname = "a"\npin_ttl = true', "route.a.pin_ttl: true is not a number of seconds"),
    "a short life": ("[sessions]\npin_ttl = 1", "sessions.pin_ttl: 1.0 is too small; the least is 3"),
    "a route's short life": (
        '[[route]]\nname = "a"\npin_ttl = 0',
        "route.a.pin_ttl: 0.0 is too small; the least is 3",
    ),
    "no end of life": (
        "[sessions]\npin_ttl = inf",
        "sessions.pin_ttl: inf is not a finite number; write for example 36",
    ),
    "a life as short as its telling": (
        "[sessions]\npin_ttl = 29\nrefresh_interval = 10",
        "sessions.pin_ttl: 29 is less than three times sessions.refresh_interval (10), so that a session in use could "
        "end before the store hears of it; write at least 30 or lower refresh_interval",
    ),
    "a route's life as short": (
        '[sessions]\nrefresh_interval = 10\n[[route]]\nname = "a"\npin_ttl = 29\n',
        "route.a.pin_ttl: 29 is less than three times",
    ),
    "a short age": (
        "[sessions]\nmax_age = 1.5",
        "sessions.max_age: 1.5 is too small; the least is 3, and 0 switches it",
    ),
    "a route's short age": ('[[route]]\nname = "a"\nmax_age = 1', "route.a.max_age: 1 is too small; the least is 3"),
    "an age below zero": ("[sessions]\nmax_age = -1", "sessions.max_age: -1.0 is too small; the least is 0"),
    "nothing to read": ("[sessions]\ninspect_bytes = 0", "sessions.inspect_bytes: 0 is too small; the least is 1"),
    "more to read than is held": (
        "[sessions]\ninspect_bytes = 65_537",
        "sessions.inspect_bytes: 65537 is more than limits.high_water_bytes (65536), but what is read is held "
        "meanwhile; write at most 65536 or raise limits.high_water_bytes (file c.toml)",
    ),
    "less held than is read": (
        "[limits]\nhigh_water_bytes = 1024",
        "sessions.inspect_bytes: 65536 is more than limits.high_water_bytes (1024)",
    ),
    "a wait below zero": (
        "[sessions]\npin_write_timeout = -1",
        "sessions.pin_write_timeout: -1.0 is too small; the lea",
    ),
    "no cache": ("[sessions]\ncache_size = 0", "sessions.cache_size: 0 is too small; the least is 1"),
    "a journal below zero": ("[sessions]\njournal_size = -1", "sessions.journal_size: -1 is too small; the least is 0"),
    "a loop without rest": (
        "[sessions]\nrefresh_interval = 0",
        "sessions.refresh_interval: 0.0 is too small; the least is 0.05",
    ),
    "a preset without a place": (
        ACME + 'answer = "header:X-A"',
        "session_preset.acme: request is empty; name at least one place where the id stands (file c.toml)",
    ),
    "a preset's name that is taken": (
        '[session_preset.mcp]\nrequest = "header:X-A"',
        "session_preset.mcp: the name is taken by a preset that is built in; choose another",
    ),
    "a preset's name": (
        '[session_preset."a b"]\nrequest = "header:X-A"',
        "session_preset.a b: name 'a b' is none; give 1 to 64 letters, digits",
    ),
    "a preset's place": (
        ACME + 'request = "body:/id"',
        "session_preset.acme: request has 'body:/id'; it may have cookie, header, json, path, query",
    ),
    "a preset's pointer": (ACME + 'request = "json:id"', "session_preset.acme: 'json:id' is not a JSON pointer"),
    "a preset's pattern": (
        ACME + 'request = "header:X-A"\nanswer = "location:/a"',
        "session_preset.acme: 'location:/a' has no {id} in it; write it like location:/agents/{id}/…",
    ),
    "a preset's end": (
        ACME + 'request = "header:X-A"\nended_by = 200',
        "session_preset.acme: ended_by 200 is no status from 400 to 499",
    ),
    "a preset's key": (
        ACME + 'requests = "header:X-A"',
        "session_preset.acme.requests: there is no such key; did you mean session_preset.acme.request?",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_told_by_key_problem_and_remedy(refusal, case):
    text, expected = BAD[case]
    assert expected in refusal(text)


def test_ones_own_preset_is_meant_when_it_is_nearer(refusal):
    text = '[sessions]\npresets = ["acmee"]\n[session_preset.acme]\nrequest = "header:X-A"\n'
    assert 'of your own, did you mean "acme"?' in refusal(text)


@pytest.mark.parametrize(
    "name", ["Connection", "Content-Length", "Transfer-Encoding", "Host", "X-Forwarded-For", "X-Request-Id", "Upgrade"]
)
def test_a_field_that_speaks_to_the_proxy_tells_no_session(refusal, name):
    problem = (
        f"'{name.lower()}' cannot tell a session: it says something to the proxy itself; name a field of the agents'"
    )
    assert f"sessions.presets: {problem}" in refusal(f'[sessions]\npresets = ["mcp", "header:{name}"]\n')
    assert f"route.a.sessions: {problem}" in refusal(f'[[route]]\nname = "a"\nsessions = "header:{name}"\n')
    assert f"session_preset.acme: {problem}" in refusal(f'{ACME}request = "header:{name}"\n')
    assert f"session_preset.acme: {problem}" in refusal(f'{ACME}request = "header:X-A"\nanswer = "header:{name}"\n')


def test_a_preset_that_is_wrong_is_told_once_however_often_it_is_used(refusal):
    text = ACME + 'request = "json:id"\n[[route]]\nname = "a"\nsessions = ["acme"]\n'
    assert len(refusal(text).splitlines()) == 1


def test_all_that_is_wrong_is_told_at_once(refusal):
    text = '[sessions]\npresets = ["x1", "header:Host"]\nmax_age = 1\n[[route]]\nname = "a"\nsessions = ["x2"]\n'
    keys = [line.partition(":")[0] for line in refusal(text).splitlines()]
    assert keys == ["sessions.presets", "sessions.presets", "route.a.sessions", "sessions.max_age"]


def test_an_underscore_is_read_where_it_may_pass(load):
    assert load('[sessions]\npresets = ["header:X_S"]\n[forwarding]\nunderscores = "pass"\n').proxy()
    answer = '[session_preset.a]\nrequest = "header:X-S"\nanswer = "header:X_S"\n[sessions]\npresets = ["a"]\n'
    assert load(answer).proxy(), "answers keep theirs"


def test_nothing_is_held_where_no_route_knows_sessions(load):
    few = "[limits]\nhigh_water_bytes = 1024\n"
    assert load(few + "[sessions]\npresets = []\n").proxy().limits.high_water_bytes == 1024
    assert load(few + '[[route]]\nname = "a"\nsessions = []\n').proxy().sessions.routes == {}
    assert load(few + "[sessions]\ninspect_bytes = 1024\n").proxy().sessions.inspect_bytes == 1024


# --- reload


def test_a_reload_takes_over_what_is_no_memory_of_the_worker(load):
    old = load("")
    new = load(
        '[sessions]\npresets = ["mcp"]\npin_ttl = 60\ninspect_bytes = 9\ncache_size = 1\njournal_size = 1\n'
        'refresh_interval = 1\non_store_outage = "refuse"\n'
    )
    taken = old.taking(new)
    assert taken.pins() == PinOptions()
    assert (names(taken), taken.proxy().sessions.inspect_bytes) == (["mcp"], 9)
    kept = ["cache_size", "journal_size", "on_store_outage", "refresh_interval"]
    assert reload_diff(old, new) == (
        ["sessions.inspect_bytes", "sessions.pin_ttl", "sessions.presets"],
        [f"sessions.{key}" for key in kept],
    )
    assert {("sessions", key) for key in kept} <= NEEDS_RESTART


def test_a_life_too_short_for_what_stays_is_refused(load):
    old = load("[sessions]\nrefresh_interval = 10\n")
    with pytest.raises(ConfigError, match=r"sessions\.pin_ttl: 15 is less than three times sessions\.refresh_interval"):
        old.taking(load("[sessions]\nrefresh_interval = 1\npin_ttl = 15\n"))


def test_the_shortest_life_leaves_time_to_tell_that_a_stream_is_open() -> None:
    """A third until use is due, then the next look at what is open, then the next telling."""
    slowest = LEAST_TTL / 3 + (TOUCH_INTERVAL + SWEEP_INTERVAL) + LEAST_TTL / 3
    assert slowest <= LEAST_TTL == 3.0
