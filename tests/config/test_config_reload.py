"""What a reload makes of old and new settings: only what needs no restart is new, and the two must go together."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import pytest

from bgproxy.config import Settings, reload_diff
from bgproxy.config.reloading import outcome
from bgproxy.errors import ConfigError

SECRET = hashlib.sha256(b"secret").hexdigest()
BLUE = {"colors": {"blue": {"upstreams": ["http://127.0.0.1:1"]}}}


def settings(**flags: Any) -> Settings:
    return Settings.load(None, BLUE | flags, {})


def test_what_needs_a_restart_stays_and_the_rest_is_new():
    old = settings(fleet="a", store="redis://one:1/0", workers=2, timeouts={"connect_timeout": 1.0})
    new = settings(
        fleet="b",
        store="redis://two:1/0",
        workers=3,
        listen=["127.0.0.1:1"],
        active="green",
        runtime_dir="/elsewhere",
        admin={"listen": "127.0.0.1:2", "allowed_hosts": ["admin.test"]},
        timeouts={"connect_timeout": 9.0},
    )
    taken = old.taking(new)
    assert (taken.fleet, taken.store().url, taken.workers, taken.active) == ("a", "redis://one:1/0", 2, "blue")
    assert (taken.listen, taken.runtime_dir) == (old.listen, old.runtime_dir)
    assert (taken.admin().listen, taken.admin().allowed_hosts) == (old.admin().listen, ("admin.test",))
    assert taken.proxy().timeouts.connect_timeout == 9.0
    assert reload_diff(old, taken) == (["admin.allowed_hosts", "timeouts.connect_timeout"], [])


def test_tokens_are_taken_over():
    token = {"token": {"ci": {"role": "operator", "secret": SECRET}}}
    assert [one.name for one in settings().taking(settings(**token)).admin().tokens] == ["ci"]
    assert settings(**token).taking(settings()).admin().tokens == ()


def test_an_admin_plane_that_stays_open_to_the_world_keeps_its_tokens():
    open_to_all = settings(admin="0.0.0.0:9900", token={"ci": {"role": "operator", "secret": SECRET}})
    with pytest.raises(ConfigError, match="token"):
        open_to_all.taking(settings())


def test_an_active_color_that_stays_must_still_be_a_color():
    old = settings(active="blue")
    new = Settings.load(None, {"colors": {"red": {"upstreams": ["http://127.0.0.1:1"]}}}, {})
    with pytest.raises(ConfigError, match='active: "blue" is no color of this fleet'):
        old.taking(new)


KEYS = [
    "colors.blue.release",
    "colors.bluest.release",
    "limits.max_fields",
    "route.chat.host",
    "route.chat.upstreams.blue",
]


def test_a_reload_tells_what_it_has_taken_over():
    assert outcome(KEYS, settings(), None, "") == (logging.INFO, f"reloaded: {', '.join(KEYS)}")
    assert outcome([], settings(), None, "") == (logging.INFO, "reloaded: nothing has changed")


def test_what_was_refused_is_never_called_reloaded():
    level, said = outcome(KEYS, settings(), None, "the releases were refused")
    taken, left = said.split("; but ")
    assert (level, taken) == (logging.ERROR, "reloaded: colors.bluest.release, limits.max_fields, route.chat.host")
    assert left == "the releases were refused (not taken over: colors.blue.release, route.chat.upstreams.blue)"
    assert outcome(KEYS[:1], settings(), None, "no")[1] == "no (not taken over: colors.blue.release)"
    assert outcome([], settings(), None, "no")[1] == "no"
