"""Everything that a configuration may not say, and what the message must hold: the key, the problem, the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgproxy.config import Settings
from bgproxy.config.wording import mask_url
from bgproxy.errors import ConfigError

BLUE = '[colors.blue]\nupstreams = ["http://127.0.0.1:9101"]\n'
GOOD = "0123456789abcdef0123456789abcdef"


def refusal(tmp_path: Path, text: str, **environ: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Settings.load(path, None, environ)
    return str(caught.value).replace(str(tmp_path) + "/", "")


UNKNOWN = {
    "a key": ("worker = 2", "worker: there is no such key; did you mean workers? (file c.toml)"),
    "in a section": (
        "[timeouts]\nconect_timeout = 1",
        "timeouts.conect_timeout: there is no such key; did you mean tim",
    ),
    "in the wrong place": ("connect_timeout = 1", "did you mean timeouts.connect_timeout?"),
    "a section": ("[timeout]\nx = 1", "timeout: there is no such key; did you mean timeouts?"),
    "in a color": (
        "[colors.blue]\nupstream = 1",
        "colors.blue.upstream: there is no such key; did you mean colors.blue.up",
    ),
    "in a route": (
        '[[route]]\nname = "a"\nprefix = "/"',
        "route.a.prefix: there is no such key; the keys here are host, pa",
    ),
    "in a token": (
        '[[token]]\nname = "a"\nsecret_path = "/"',
        "token.a.secret_path: there is no such key; did you mean",
    ),
    "an option told elsewhere": ('[store]\nfleet = "x"', "store.fleet: there is no such key; did you mean fleet?"),
    "nothing like it": ("zzz = 1", "zzz: there is no such key; the keys here are fleet, listen, active, workers"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_key_is_named_with_the_nearest_right_one(tmp_path, case):
    text, expected = UNKNOWN[case]
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BGPROXY_TIMEOUTS__CONECT_TIMEOUT", "did you mean BGPROXY_TIMEOUTS__CONNECT_TIMEOUT?"),
        ("BGPROXY_TIMEOUTS_CONNECT_TIMEOUT", "did you mean BGPROXY_TIMEOUTS__CONNECT_TIMEOUT?"),
        ("BGPROXY_WORKER", "did you mean BGPROXY_WORKERS?"),
        ("BGPROXY_ADMIN_LISTEN", "did you mean BGPROXY_ADMIN__LISTEN?"),
        ("BGPROXY_WORKERS__X", "is not a whole number"),
        ("BGPROXY_ZZZ", "the keys here are fleet,"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_right_one(tmp_path, name, expected):
    message = refusal(tmp_path, BLUE, **{name: "1"})
    assert name in message
    assert expected in message


WRONG_TYPE = {
    "seconds": (
        '[timeouts]\nconnect_timeout = "fast"',
        'timeouts.connect_timeout: "fast" is not a number of seconds; write for example 2.0 (file c.toml)',
    ),
    "true is no number": (
        "[timeouts]\nconnect_timeout = true",
        "timeouts.connect_timeout: true is not a number of sec",
    ),
    "true is no count": ("workers = true", "workers: true is not a whole number; write for example 1"),
    "a count in halves": ("workers = 1.5", "workers: 1.5 is not a whole number; write for example 1"),
    "bytes": (
        '[limits]\nmax_head_bytes = "32K"',
        'limits.max_head_bytes: "32K" is not a whole number of bytes; write for',
    ),
    "a switch": (
        '[forwarding]\nforwarded = "maybe"',
        'forwarding.forwarded: "maybe" is not true or false; write for exampl',
    ),
    "a word": ('[log]\nlevel = "inf"', 'log.level: "inf" is not known; did you mean "info"?'),
    "a word like none": ('[balance]\npolicy = "x"', 'balance.policy: "x" is not known; write one of p2c, round_robin'),
    "a text": ("fleet = 3", 'fleet: 3 is not a text; write for example "default"'),
    "a list": ("listen = 8080", 'listen: 8080 is not a list of texts; write for example ["…", "…"]'),
    "an item": ("[forwarding]\ntrusted_proxies = [1]", "forwarding.trusted_proxies: 1 is not a list of texts"),
    "a table": ("timeouts = 3", "timeouts: 3 is not a table; write [timeouts] and its keys below it"),
    "a color": ("colors.blue = 3", "colors.blue: 3 is not a table; write [colors.blue]"),
    "metadata": ("[colors.blue]\nmetadata = 3", "colors.blue.metadata: 3 is not a table"),
    "routes": ("route = [1]", "route[1]: this is not a table; write [[route]] and its keys below it"),
    "a role": (
        f'[[token]]\nname = "a"\nrole = "admin"\nsecret = "{GOOD}"',
        'token.a.role: "admin" is not known; write one',
    ),
}


@pytest.mark.parametrize("case", WRONG_TYPE)
def test_a_value_of_the_wrong_type(tmp_path, case):
    text, expected = WRONG_TYPE[case]
    assert expected in refusal(tmp_path, text)


BAD_VALUE = {
    "negative": ("[timeouts]\nconnect_timeout = -1", "timeouts.connect_timeout: -1.0 is too small; the least is 0"),
    "nan": (
        "[timeouts]\nconnect_timeout = nan",
        "timeouts.connect_timeout: nan is not a finite number; write for example 2",
    ),
    "inf": ("[timeouts]\nconnect_timeout = inf", "timeouts.connect_timeout: inf is not a finite number"),
    "huge": ("grace_timeout = 1e300", "grace_timeout: 1e+300 is too large; the most is 100000000"),
    "a negative count": ("[limits]\nmax_fields = -3", "limits.max_fields: -3 is too small; the least is 1"),
    "no workers": ("workers = 0", "workers: 0 is too small; the least is 1"),
    "a loop without rest": ("[health]\ninterval = 0", "health.interval: 0.0 is too small; the least is 0.05"),
    "sample": ("[access_log]\nsample = 2", "access_log.sample is 2.0, it must be between 0 and 1"),
    "fleet": ('fleet = "a{b}"', 'fleet: "a{b}" cannot be used; write 1 to 63 letters'),
    "color": ('[colors."Blue!"]', "colors.Blue!: this name cannot be used; write 1 to 32 of a-z"),
    "route name": ('[[route]]\nname = "a b"', "route.a b: this name cannot be used; write 1 to 63 letters"),
    "no route name": (
        '[[route]]\npath = "/"',
        'route[1].name: this route has no name; write for example name = "chat"',
    ),
    "a name twice": (
        '[[route]]\nname = "a"\n[[route]]\nname = "a"\npath = "/x"',
        "route[2].name: there are two of the name",
    ),
    "a place twice": (
        '[[route]]\nname = "a"\npath = "/x"\n[[route]]\nname = "b"\npath = "/x/"',
        "route.b: it takes the same host and path as route a; remove one or change its path",
    ),
    "path": (
        '[[route]]\nname = "a"\npath = "chat"',
        'route.a.path: "chat" is no path prefix; write one that begins with "/"',
    ),
    "path and query": ('[[route]]\nname = "a"\npath = "/?a"', 'route.a.path: "/?a" is no path prefix'),
    "host": (
        '[[route]]\nname = "a"\nhost = "http://x"',
        'route.a.host: "http://x" is no host name; write it without schem',
    ),
    "a route's color": (
        '[[route]]\nname = "a"\nupstreams = { gren = ["http://h:1"] }',
        'route.a.upstreams.gren: this is no color of this fleet; did you mean "green"?',
    ),
    "active": ('active = "gren"', 'active: "gren" is no color of this fleet; did you mean "green"?'),
    "release": ('[colors.green]\nrelease = "a b"', "colors.green.release: release label 'a b' cannot be used"),
    "upstream": (
        '[colors.green]\nupstreams = ["http://h:1/x"]',
        "colors.green.upstreams: upstream 'http://h:1/x' cannot be",
    ),
    "https": ('[colors.green]\nupstreams = ["https://h"]', "agents are reached by plain HTTP"),
    "a route's upstream": (
        '[[route]]\nname = "a"\nupstreams = { blue = ["ftp://h"] }',
        "route.a.upstreams.blue: upstream 'ftp://h' cannot be used",
    ),
    "no port": ('listen = "127.0.0.1"', 'listen: "127.0.0.1": there is no port; write "127.0.0.1:8080"'),
    "no host": ('listen = ":8080"', 'listen: ":8080": there is no host; write "0.0.0.0:8080" for every IPv4 address'),
    "bad port": ('listen = "h:99999"', 'listen: "h:99999": "99999" is not a port from 0 to 65535'),
    "no brackets": ('listen = "::1:80"', 'listen: "::1:80": an IPv6 address stands in brackets'),
    "a scheme": ('listen = "http://h:80"', 'listen: "http://h:80": an address to listen on has no scheme'),
    "a relative socket": ('listen = "unix:a.sock"', "the path of a Unix socket is absolute"),
    "nothing to listen on": ("listen = []", "listen: there is no address"),
    "listen twice": ('listen = ["h:80", "h:80"]', 'listen: "h:80" is taken by listen already'),
    "admin on listen": (
        'listen = "127.0.0.1:9900"',
        'admin.listen: "127.0.0.1:9900" is taken by listen already; give each',
    ),
    "admin address": ('admin = "nowhere"', 'admin.listen: "nowhere": there is no port'),
    "an open preview": (
        '[preview]\nlisten = "0.0.0.0:8081"',
        'preview.listen: "0.0.0.0:8081" can be reached from other machines, but there is no token for it: add a [[to',
    ),
    "an admin's token opens no preview": (
        f'[preview]\nlisten = "0.0.0.0:8081"\n[[token]]\nname = "a"\nsecret = "{GOOD}"',
        "but there is no token for it",
    ),
    "a preview's token opens no admin": (
        f'admin = "0.0.0.0:9900"\n[[token]]\nname = "a"\nrole = "preview"\nsecret = "{GOOD}"',
        "can be reached from other machines, but there is no token",
    ),
    "a preview's token that can be guessed": (
        '[[token]]\nname = "a"\nrole = "preview"\nsecret = "aaaa"',
        "token.a: the secret is too easy to guess",
    ),
    "a secret of two roles": (
        f'[[token]]\nname = "a"\nsecret = "{GOOD}"\n[[token]]\nname = "b"\nrole = "preview"\nsecret = "{GOOD}"',
        "its secret is another token's too",
    ),
    "previews on listen": (
        '[preview]\nlisten = "127.0.0.1:8080"',
        'preview.listen: "127.0.0.1:8080" is taken by listen',
    ),
    "previews of no color": (
        '[preview]\ncolor = "gren"',
        'preview.color: "gren" is no color of this fleet; did you mean',
    ),
    "an open admin": (
        'admin = "0.0.0.0:9900"',
        "can be reached from other machines, but there is no token: add a [[token]]",
    ),
    "many on memory": (
        "workers = 2",
        "2 workers cannot share the store memory://, each would have a pointer of its own; use -",
    ),
    "a node that is forgotten while it lives": (
        "[store]\nnode_ttl = 60\nnode_forget_after = 59.5",
        "store.node_forget_after: 59.5 is below node_ttl = 60, within which a node is live; make it an hour (3600), or",
    ),
    "a fence that one late beat would close": (
        "[store]\nfence_after = 4",
        "store.fence_after: 4 is too short: a node beats every 2 s, and one late beat would close it; make it more",
    ),
    "snapshot of redis": (
        '[store]\nurl = "redis://h:1/0"\nsnapshot = "/x"',
        "store.snapshot: only the memory store has a snap",
    ),
    "store scheme": (
        'store = "mysql://h"',
        "store.url: mysql://h names no store that there is; use one of memory://, redis://",
    ),
    "store host": (
        'store = "redis://"',
        "store.url: redis:// has no host or no usable port; write for example redis://127",
    ),
    "store port": (
        'store = "redis://h:123456"',
        "store.url: the URL cannot be used: its host or port cannot be read. Write redis://",
    ),
    "store of sentinels": (
        'store = "redis+sentinel://h:1,h:2"',
        "store.url: the URL cannot be used: behind the sentinels stands no name by which they know the store",
    ),
    "replicas of memory": (
        "[store]\nmin_replicas = 1",
        "store.min_replicas: the store memory:// has no replicas, only Redis has",
    ),
    "store authority": (
        'store = "rediss://h/0?ssl_ca_certs=/none/ca.pem"',
        "store.url: the URL cannot be used: ssl_ca_certs=/none/ca.pem cannot be read: No such file or directory (file",
    ),
    "more workers than are meant": (
        'workers = 1025\nstore = "redis://h:1/0"',
        "workers: 1025 is too large; the most is 1024 (file c.toml)",
    ),
    "store option": ('store = "redis://h/0?dbb=1"', "store.url: the URL cannot be used: it has an option that is not"),
    "store path": ('store = "memory://x"', "write memory:// or memory:///absolute/path"),
    "network": (
        '[forwarding]\ntrusted_proxies = ["x"]',
        'forwarding.trusted_proxies: "x" is no network; write for example "10',
    ),
    "via": ('[forwarding]\nvia = "a b"', 'forwarding.via: "a b" is no pseudonym for Via; write one word'),
    "health path": ('[health]\npath = "healthz"', 'health.path: "healthz" does not begin with "/"; write for example'),
}


@pytest.mark.parametrize("case", BAD_VALUE)
def test_a_value_that_cannot_be_used(tmp_path, case):
    text, expected = BAD_VALUE[case]
    assert expected in refusal(tmp_path, text + "\n" + ("" if "[colors.blue" in text else BLUE))


TOKENS = {
    "short": (
        'secret = "abc123"',
        "token.a: the secret is too easy to guess, it needs at least 128 random bits; make one",
    ),
    "repeated": ('secret = "' + "a" * 64 + '"', "token.a: the secret is too easy to guess"),
    "none": ('role = "viewer"', "token.a: there is no secret; write exactly one of secret, secret_file and secret_env"),
    "two": (f'secret = "{GOOD}"\nsecret_env = "X"', "token.a: there are secret and secret_env; write exactly one"),
    "no file": (
        'secret_file = "/nowhere/x"',
        "token.a: secret_file: /nowhere/x cannot be read: No such file or directory",
    ),
    "no variable": (
        'secret_env = "NOWHERE"',
        "token.a: secret_env: the environment variable NOWHERE is empty or not set",
    ),
    "a space": ('secret = "abcd efgh ijkl mnop qrst"', "token.a: the secret has characters that a bearer token cannot"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_a_token_that_cannot_be_used(tmp_path, case):
    text, expected = TOKENS[case]
    message = refusal(tmp_path, f'{BLUE}[[token]]\nname = "a"\n{text}\n')
    assert expected in message
    assert "abc" not in message.replace("secret", "")


def test_two_tokens_of_one_secret(tmp_path):
    text = f'{BLUE}[[token]]\nname = "a"\nsecret = "{GOOD}"\n[[token]]\nname = "b"\nsecret = "{GOOD}"\n'
    message = refusal(tmp_path, text)
    assert "token.b: its secret is another token's too" in message
    assert GOOD not in message


def test_a_secret_file_that_is_something_else(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 5000)
    message = refusal(tmp_path, f'{BLUE}[[token]]\nname = "a"\nsecret_file = "{tmp_path}/big"\n')
    assert "big is longer than 4096 bytes; name the file of one secret" in message


def test_a_secret_of_the_wrong_type_is_not_shown(tmp_path):
    message = refusal(tmp_path, f'{BLUE}[[token]]\nname = "a"\nsecret = 123456789\n')
    assert message.startswith('token.a.secret: "********" is not a text')


def test_an_active_color_without_upstreams_on_a_store_that_knows_nothing(tmp_path):
    assert (
        "the active color blue has no upstreams, so nothing could be answered; write for example --blue http"
        in refusal(tmp_path, "")
    )
    assert "write for example --upstream v1=http://" in refusal(tmp_path, "[colors.v1]")
    assert Settings.load(None, {"store": "redis://h:1/0"}, {}).releases() == {}


def test_a_color_that_serves_some_routes_only(tmp_path):
    routes = '[[route]]\nname = "a"\nupstreams.blue = "http://h:1"\n[[route]]\nname = "b"\npath = "/b"\n'
    assert 'route.b.upstreams: blue serves other routes but has no upstreams for this one; add blue = ["http://…"]' in (
        refusal(tmp_path, routes)
    )


def test_all_faults_are_told_at_once(tmp_path):
    lines = refusal(tmp_path, 'workers = "x"\n[timeouts]\nlinger_timeout = "y"\n').splitlines()
    assert [line.partition(":")[0] for line in lines] == ["workers", "timeouts.linger_timeout"]


def test_the_source_of_a_bad_value_is_named(tmp_path):
    assert refusal(tmp_path, BLUE, BGPROXY_WORKERS="x").endswith("(environment variable BGPROXY_WORKERS)")
    with pytest.raises(ConfigError, match=r"\(command line\)$"):
        Settings.load(None, {"workers": "x"}, {})


def test_a_variable_that_should_be_json(tmp_path):
    assert "BGPROXY_LISTEN: this is no JSON: " in refusal(tmp_path, BLUE, BGPROXY_LISTEN='["a"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"workers = 1\nlisten 3\n", "c.toml, line 2, column 8: Expected '=' after a key"),
        (b"a = [", "c.toml, line 1, column 6: Invalid value; correct the TOML there"),
        (b"a = 1\na = 2\n", "c.toml, line 2, column "),
        (b"fleet = '\xff'", "c.toml: byte 9 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_malformed_toml_is_told_with_file_line_and_column(tmp_path, text, expected):
    path = tmp_path / "c.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Settings.load(path, None, {})
    assert expected in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf" + BLUE.encode())
    assert Settings.load(path, None, {}).active == "blue"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://u:p@h:1/0", "redis://u:********@h:1/0"),
        ("redis://:p@h", "redis://:********@h"),
        ("redis://h/0?password=p&db=1", "redis://h/0?password=********&db=1"),
        ("redis+sentinel://h/m?sentinel_password=p&db=1", "redis+sentinel://h/m?sentinel_password=********&db=1"),
        ("redis://h:1/0", "redis://h:1/0"),
    ],
)
def test_passwords_in_urls_are_masked(url, masked):
    assert mask_url(url) == masked
