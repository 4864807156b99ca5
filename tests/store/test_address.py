"""Store URLs: what they mean, what is refused, and that no text ever shows a password."""

from __future__ import annotations

from typing import Any

import pytest

from bgproxy.errors import ConfigError
from bgproxy.store.address import connection_arguments
from bgproxy.store.base import StoreOptions, open_store, redacted

SECRET = "p@ss/w#rd?:%"
QUOTED = "p%40ss%2Fw%23rd%3F%3A%25"


@pytest.mark.parametrize(
    ("url", "transport", "arguments"),
    [
        ("redis://", "tcp", {"host": "localhost", "port": 6379, "db": 0}),
        ("redis://h", "tcp", {"host": "h", "port": 6379, "db": 0}),
        ("redis://127.0.0.1:7000/3", "tcp", {"host": "127.0.0.1", "port": 7000, "db": 3}),
        ("redis://h/?db=4", "tcp", {"host": "h", "port": 6379, "db": 4}),
        ("redis://[::1]:7000", "tcp", {"host": "::1", "port": 7000, "db": 0}),
        (f"redis://:{QUOTED}@h", "tcp", {"host": "h", "port": 6379, "db": 0, "password": SECRET}),
        (
            f"redis://us%40er:{QUOTED}@h:1/2",
            "tcp",
            {"host": "h", "port": 1, "db": 2, "username": "us@er", "password": SECRET},
        ),
        ("rediss://h:1", "tls", {"host": "h", "port": 1, "db": 0}),
        (
            "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none&ssl_check_hostname=false&client_name=x",
            "tls",
            {
                "host": "h",
                "port": 6379,
                "db": 0,
                "ssl_ca_certs": "/ca.pem",
                "ssl_cert_reqs": "none",
                "ssl_check_hostname": False,
                "client_name": "x",
            },
        ),
        ("unix:/run/redis.sock", "unix", {"path": "/run/redis.sock"}),
        ("unix:///run/re%20dis.sock?db=2", "unix", {"path": "/run/re dis.sock", "db": 2}),
        (f"unix://u:{QUOTED}@/run/s", "unix", {"path": "/run/s", "username": "u", "password": SECRET}),
    ],
)
def test_what_a_url_means(url: str, transport: str, arguments: dict[str, Any]) -> None:
    assert connection_arguments(url) == (transport, arguments)


BAD = [
    "redis://h:port",
    "redis://h:99999",
    "redis://[::1",
    "redis://h/x",
    "redis://h/1/2",
    "redis://h/٣",
    "redis://h?db=x",
    "redis://h?dbb=1",
    "redis://h?password=hunter2",
    "redis://h?ssl_cert_reqs=none",
    "rediss://h?ssl_cert_reqs=perhaps",
    "rediss://h?ssl_check_hostname=perhaps",
    "redis://h#x",
    "redis://h h",
    "redis://user:hunter2#@h",
    "redis://user:hunter2/@h",
    "redis://user:/hunter2@h",
    "redis://user:hunter2?@h",
    "redis://user:[hunter2@h",
    "unix:relative",
    "unix://host/path",
    "unix:",
]


@pytest.mark.parametrize("url", BAD)
def test_what_cannot_be_used_says_so_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="store: the URL cannot be used") as refused:
        open_store(StoreOptions(url=url))
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("url", [*BAD, "mysql://user:hunter2@h/x", "user:hunter2@h", "hunter2", "", "://hunter2"])
def test_nothing_shown_holds_the_password(url: str) -> None:
    options = StoreOptions(url=url)
    assert "hunter2" not in redacted(url)
    assert "hunter2" not in repr(options)
    assert "hunter2" not in str(options)


@pytest.mark.parametrize("url", ["mysql://h/x", "http://127.0.0.1:6379", "", "redis", "127.0.0.1:6379", "file:///x"])
def test_a_scheme_that_is_no_store(url: str) -> None:
    with pytest.raises(ConfigError, match=r"names no store.*memory://.*redis://host:port/db"):
        open_store(StoreOptions(url=url))


@pytest.mark.parametrize("fleet", ["", "a b", "a{b}", "a:b", "x" * 65, "a\n", "ü"])
def test_a_fleet_that_cannot_be_part_of_a_key(fleet: str) -> None:
    with pytest.raises(ConfigError, match="fleet"):
        open_store(StoreOptions(fleet=fleet))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("memory:///var/lib/x.json", "memory:///var/lib/x.json"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:secret@h:1/0?client_name=x", "redis://***@h:1/0"),
        ("unix:/run/redis.sock?db=1", "unix:/run/redis.sock"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("rediss://[::1]:1", "rediss://[::1]:1"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_the_stores_representation() -> None:
    store = open_store(StoreOptions(url=f"redis://user:{QUOTED}@127.0.0.1:6379/0", fleet="agents"))
    assert repr(store) == "<RedisStore redis://***@127.0.0.1:6379/0 fleet agents>"
