"""Strength of the sources, what each accessor hands out, and the way to a worker and back."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from bgproxy.config import Address, Settings, reload_diff
from bgproxy.errors import ConfigError
from bgproxy.proxy.options import ProxyOptions, SessionOptions, Timeouts
from bgproxy.rules.health import HealthOptions
from bgproxy.rules.release import Phase
from bgproxy.rules.route import Route
from bgproxy.telemetry.access import AccessLogOptions

BLUE = {"colors": {"blue": {"upstreams": ["http://127.0.0.1:9101"]}}}
SECRET = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "bgproxy.toml"
        path.write_text(text)
        return path

    return write


def load(path=None, flags=None, **environ: str) -> Settings:
    return Settings.load(path, {**BLUE, **(flags or {})}, environ)


# --- strength


def test_a_runtime_dir_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.toml"
    for configured, found in (("run", f"{tmp_path}/run"), ("/run/x", "/run/x"), ("", "")):
        path.write_text(f'runtime_dir = "{configured}"\nstore = "redis://h:1/0"')
        assert Settings.load(path, None, {}).runtime_dir == found


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(write):
    file = write("[timeouts]\nconnect_timeout = 3\nlinger_timeout = 3\nkeepalive_timeout = 3\n")
    settings = load(
        file,
        {"timeouts": {"connect_timeout": 5}},
        BGPROXY_TIMEOUTS__CONNECT_TIMEOUT="4",
        BGPROXY_TIMEOUTS__LINGER_TIMEOUT="4",
    )
    assert settings.proxy().timeouts == Timeouts(connect_timeout=5.0, linger_timeout=4.0, keepalive_timeout=3.0)


def test_sources_are_laid_over_one_another_key_by_key(write):
    file = write('[colors.blue]\nrelease = "v7"\nupstreams = ["http://a:1"]\n')
    release = load(file, {"colors": {"blue": {"upstreams": ["http://b:2"]}}}).releases()["blue"]
    assert (release.label, release.upstreams) == ("v7", ("http://b:2",))


def test_the_environment_can_change_one_token_of_the_file(write):
    file = write(f'[[token]]\nname = "ci"\nrole = "viewer"\nsecret = "{SECRET}"\n')
    tokens = load(file, BGPROXY_TOKEN__CI__ROLE="operator").admin().tokens
    assert [(token.name, token.role, token.secret) for token in tokens] == [("ci", "operator", SECRET)]


def test_plain_values_stand_for_the_tables_of_store_and_admin(write):
    file = write('store = "redis://127.0.0.1:6379/0"\nadmin = "127.0.0.1:9999"\n')
    settings = load(file, BGPROXY_STORE__READ_INTERVAL="5")
    assert (settings.store().url, settings.store().read_interval) == ("redis://127.0.0.1:6379/0", 5.0)
    assert settings.admin().listen == "127.0.0.1:9999"
    assert load(BGPROXY_STORE="redis://h:1/0", BGPROXY_STORE__NODE_TTL="20").store().url == "redis://h:1/0"


def test_what_the_command_line_reads_for_itself_is_no_setting():
    settings = load(BGPROXY_ADMIN="http://127.0.0.1:1", BGPROXY_TOKEN="x", BGPROXY_CONFIG="/nowhere")
    assert settings.admin().listen == "127.0.0.1:9900"
    assert load(BGPROXY_ADMIN__LISTEN="127.0.0.1:9901").admin().listen == "127.0.0.1:9901"


@pytest.mark.parametrize(
    "name",
    [
        "BGPROXY_SERVICE_HOST",
        "BGPROXY_SERVICE_PORT_HTTP",
        "BGPROXY_PORT",
        "BGPROXY_PORT_8080_TCP_ADDR",
        "BGPROXY_ADMIN_SERVICE_HOST",
        "BGPROXY_ADMIN_PORT_9900_TCP",
    ],
)
def test_the_variables_of_a_kubernetes_service_of_our_name_are_left_alone(name):
    assert load(**{name: "tcp://10.0.0.1:8080"}).fleet == "default"


def test_lists_in_the_environment():
    addresses = (Address("127.0.0.1", 1), Address("::1", 2), Address(path="/a"))
    assert load(BGPROXY_LISTEN="127.0.0.1:1, [::1]:2 ,unix:/a").listen == addresses
    assert load(BGPROXY_FORWARDING__TRUSTED_PROXIES='["10.0.0.0/8"]').proxy().forwarding.trusted_proxies == (
        "10.0.0.0/8",
    )
    assert load(BGPROXY_WORKERS="").workers == 1, "an empty variable counts as not set"
    green = {"BGPROXY_COLORS__GREEN__UPSTREAMS": "http://a:1,http://b:2", "BGPROXY_COLORS__GREEN__METADATA__TEAM": "x"}
    assert load(**green).releases()["green"].upstreams == ("http://a:1", "http://b:2")
    assert load(**green).releases()["green"].metadata == {"team": "x"}


# --- what is handed out


def test_defaults_are_those_of_the_options_themselves():
    settings = load()
    assert replace(settings.proxy(), sessions=SessionOptions()) == ProxyOptions()
    assert settings.health() == HealthOptions()
    assert settings.access_log() == AccessLogOptions()
    assert (settings.log().level, settings.log().format) == ("info", "text")
    assert settings.listen == (Address("127.0.0.1", 8080),)
    assert (settings.workers, settings.grace_timeout, settings.runtime_dir) == (1, 30.0, "")
    assert settings.routes() == (Route("default", "", "/"),)


def test_the_fleet_is_also_the_stores():
    settings = load(flags={"fleet": "eu"})
    assert (settings.fleet, settings.store().fleet) == ("eu", "eu")


def test_blue_and_green_exist_both_unless_other_names_are_given():
    assert load().colors() == ("blue", "green")
    green = {"colors": {"green": {"upstreams": ["http://a:1"]}}}
    assert Settings.load(None, green, {}).colors() == ("green", "blue")
    named = {"colors": {"v1": {"upstreams": ["http://a:1"]}, "v2": {}, "blue": {}}}
    assert Settings.load(None, named, {}).colors() == ("v1", "v2", "blue")


def test_the_first_color_with_upstreams_is_active_unless_another_is_named():
    two = {"colors": {"blue": {}, "green": {"upstreams": ["http://a:1"]}}}
    assert Settings.load(None, two, {}).active == "green"
    assert load(flags={"store": "redis://h:1/0", "active": "green"}).active == "green"


def test_releases_are_bootstrap_material():
    releases = load().releases()
    assert set(releases) == {"blue"}, "green has no upstreams, so it waits to be staged"
    blue = releases["blue"]
    assert (blue.label, blue.phase, blue.origin) == ("initial", Phase.STAGED, "config")
    assert blue.upstreams_for("default") == ("http://127.0.0.1:9101",)


def test_a_route_uses_the_colors_upstreams_where_it_has_none_of_its_own(write):
    file = write(
        '[colors.green]\nupstreams = "http://g:1"\n'
        '[[route]]\nname = "chat"\npath = "/chat"\nhost = "A.example"\nupstreams = { blue = ["http://c:1"] }\n'
        '[[route]]\nname = "rest"\n'
    )
    settings = load(file)
    assert settings.routes() == (Route("chat", "a.example", "/chat"), Route("rest"))
    blue, green = settings.releases()["blue"], settings.releases()["green"]
    assert (blue.upstreams_for("chat"), blue.upstreams_for("rest")) == (("http://c:1",), ("http://127.0.0.1:9101",))
    assert green.upstreams_for("chat") == ("http://g:1",)


def test_secrets_come_from_the_file_a_file_or_the_environment(write, tmp_path):
    (tmp_path / "secret").write_text(f"  {OTHER}\n")
    third = "00112233445566778899aabbccddeeff"
    file = write(
        f'[[token]]\nname = "a"\nsecret = "{SECRET}"\n'
        f'[[token]]\nname = "b"\nrole = "operator"\nsecret_file = "{tmp_path}/secret"\n'
        '[[token]]\nname = "a"\nsecret_env = "THIRD"\n'
    )
    tokens = load(file, THIRD=third).admin().tokens
    assert [(t.name, t.role, t.secret) for t in tokens] == [
        ("a", "viewer", SECRET),
        ("b", "operator", OTHER),
        ("a", "viewer", third),
    ]


# --- to a worker and back; reload


def test_settings_survive_the_way_to_a_worker(write, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text(SECRET)
    file = write(
        f'[[token]]\nname = "a"\nsecret_file = "{tmp_path}/secret"\n[[route]]\nname = "r"\nupstreams.blue = "http://c:1"\n'
    )
    before = load(file)
    (tmp_path / "secret").unlink()
    monkeypatch.setenv("BGPROXY_WORKERS", "7")
    after = pickle.loads(pickle.dumps(before))
    assert after.admin() == before.admin()
    assert (after.workers, after.path, after.origins) == (1, os.fspath(file), before.origins)
    assert after.releases() == before.releases()
    assert (after.proxy(), after.routes(), after.store()) == (before.proxy(), before.routes(), before.store())


def test_no_representation_shows_a_secret(write):
    settings = load(write(f'store = "redis://u:hush@h:1/0"\n[[token]]\nname = "a"\nsecret = "{SECRET}"\n'))
    for text in (repr(settings), repr(settings.admin()), repr(settings.store()), repr(settings._document)):
        assert SECRET not in text
        assert "hush" not in text


def test_reread_takes_the_same_sources_again(write, monkeypatch):
    for name in [name for name in os.environ if name.startswith("BGPROXY_")]:
        monkeypatch.delenv(name)
    file = write("workers = 1\n")
    old = Settings.load(file, BLUE)
    file.write_text('fleet = "b"\n[store]\nnode_ttl = 9\n[health]\nrise = 9\n[colors.green]\nrelease = "x"\n')
    new = old.reread()
    assert new.releases() == old.releases(), "the flags still hold"
    assert reload_diff(old, new) == (
        [*(f"colors.green.{key}" for key in ("metadata", "release", "upstreams")), "health.rise"],
        ["fleet", "store.node_ttl"],
    )
    assert reload_diff(old, old) == ([], [])


def test_the_admin_plane_is_reloaded_but_for_its_address():
    changed = load(flags={"admin": {"listen": "127.0.0.1:1", "allowed_hosts": ["x"]}, "store": "redis://h:1/0"})
    assert reload_diff(load(), changed) == (["admin.allowed_hosts"], ["admin.listen", "store.url"])


def test_a_secret_that_changed_in_its_file_is_a_change_that_names_no_secret(write, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    old = load(write(f'[[token]]\nname = "a"\nsecret_file = "{tmp_path}/secret"\n'))
    (tmp_path / "secret").write_text(OTHER)
    assert reload_diff(old, old.reread())[0] == ["token.a.secret 0"]


def test_a_missing_file_is_told_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml: cannot be read: No such file or directory; name a file"):
        load(tmp_path / "no.toml")


def test_a_plan_may_stand_in_the_file(write):
    path = write('[[release.gate]]\nkind = "http"\n[release.bake]\nmax_error_rate = 0.1\n')
    assert load(path).plan() == {"gate": [{"kind": "http"}], "bake": {"max_error_rate": 0.1}}
    assert load().plan() == {}
    with pytest.raises(ConfigError, match=r'release: gate\[1\].kind: "htpp" is not known; did you mean "http"?'):
        load(write('[[release.gate]]\nkind = "htpp"\n'))
