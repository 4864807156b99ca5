"""Store URLs: what they mean, what is refused, and that no text ever shows a password."""

from __future__ import annotations

from typing import Any

import pytest
import trustme

from bgproxy.errors import ConfigError
from bgproxy.store.address import redacted, store_address, store_hosts, tls_fault
from bgproxy.store.base import StoreOptions, open_store

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
    address = store_address(url)
    assert (address.kind, address.transport, dict(address.arguments)) == ("server", transport, arguments)
    assert (address.service, address.sentinel) == ("", {})
    assert address.hosts == ((arguments["host"], arguments["port"]),) if transport != "unix" else not address.hosts


LISTS = "a:1,[::1]:2,B"


@pytest.mark.parametrize(
    ("url", "hosts", "service", "arguments", "sentinel"),
    [
        (
            f"redis+sentinel://{LISTS}/mymaster",
            (("a", 1), ("::1", 2), ("b", 26379)),
            "mymaster",
            {"db": 0},
            {},
        ),
        (
            f"redis+sentinel://us%40er:{QUOTED}@h/main-1/3?client_name=x",
            (("h", 26379),),
            "main-1",
            {"username": "us@er", "password": SECRET, "db": 3, "client_name": "x"},
            {},
        ),
        (
            f"redis+sentinel://h/m?db=2&sentinel_username=watch&sentinel_password={QUOTED}",
            (("h", 26379),),
            "m",
            {"db": 2},
            {"username": "watch", "password": SECRET},
        ),
        (
            "rediss+sentinel://h/m?ssl_ca_certs=/ca.pem",
            (("h", 26379),),
            "m",
            {"db": 0, "ssl_ca_certs": "/ca.pem"},
            {"ssl": True, "ssl_ca_certs": "/ca.pem"},
        ),
        (
            "rediss+sentinel://h/m?ssl_ca_certs=/ca.pem&sentinel_ssl=no",
            (("h", 26379),),
            "m",
            {"db": 0, "ssl_ca_certs": "/ca.pem"},
            {},
        ),
    ],
)
def test_what_a_url_of_sentinels_means(
    url: str, hosts: Any, service: str, arguments: dict[str, Any], sentinel: dict[str, Any]
) -> None:
    address = store_address(url)
    assert (address.kind, address.hosts, address.service) == ("sentinel", hosts, service)
    assert address.transport == ("tls" if url.startswith("rediss") else "tcp")
    assert (dict(address.arguments), dict(address.sentinel)) == (arguments, sentinel)
    assert store_hosts(url) == hosts


@pytest.mark.parametrize(
    ("url", "hosts", "arguments"),
    [
        (f"redis+cluster://{LISTS}", (("a", 1), ("::1", 2), ("b", 6379)), {}),
        (f"redis+cluster://u:{QUOTED}@a/0", (("a", 6379),), {"username": "u", "password": SECRET}),
        ("rediss+cluster://a:1/?ssl_ca_certs=/ca.pem", (("a", 1),), {"ssl_ca_certs": "/ca.pem"}),
    ],
)
def test_what_a_url_of_a_cluster_means(url: str, hosts: Any, arguments: dict[str, Any]) -> None:
    address = store_address(url)
    assert (address.kind, address.hosts, dict(address.arguments)) == ("cluster", hosts, arguments)
    assert address.transport == ("tls" if url.startswith("rediss") else "tcp")


def test_an_address_shows_no_password() -> None:
    address = store_address(f"redis+sentinel://u:{QUOTED}@h/m?sentinel_password=hush")
    assert address.secrets == (SECRET, "hush")
    assert not [secret for secret in address.secrets if secret in repr(address)]


def test_what_names_no_host_has_none() -> None:
    assert [store_hosts(url) for url in ("memory://", "unix:/x", "redis://", "redis://h:x", "127.0.0.1:1")] == [()] * 5


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+sentinel://h:1,h:2", "no name by which they know the store.*redis\\+sentinel://.*SERVICE"),
        ("redis+sentinel://h/a b", "no name"),
        ("redis+sentinel://h/m/x", "database's number"),
        ("redis+sentinel:///m", "a host is missing"),
        ("redis+sentinel://h,/m", "a host is missing"),
        ("redis+sentinel://h?sentinel_password=x", "no name"),
        ("redis+sentinel://h/m?sentinel_ssl=no", "option that is not known; there are.*sentinel_password"),
        ("redis+cluster://h/1", "no database but 0.*redis\\+cluster://"),
        ("redis+cluster://h?db=1", "option that is not known"),
        ("redis+cluster://", "a host is missing"),
        ("redis://a,b/0", "several hosts.*redis\\+sentinel"),
    ],
)
def test_what_is_wrong_with_a_url_of_several(url: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        store_address(url)


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
    "redis+sentinel://user:hunter2@h",
    "redis+sentinel://user:hunter2#@h/m",
    "redis+sentinel://user:hunter2/@h,g/m",
    "redis+sentinel://h:1,user:hunter2@g:x/m",
    "redis+sentinel://h/m?sentinel_password=hunter2&sentinel_password2=x",
    "redis+sentinel://h:1,hunter2:x/m",
    "redis+cluster://user:hunter2@h:99999",
    "redis+cluster://h:1;g:2",
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
        (
            "redis+sentinel://u:secret@a:1,[::1]:2/m/0?sentinel_password=x",
            "redis+sentinel://***@a:1,[::1]:2/m/0",
        ),
        ("rediss+cluster://:secret@a:1,b", "rediss+cluster://***@a:1,b"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_the_stores_representation() -> None:
    store = open_store(StoreOptions(url=f"redis://user:{QUOTED}@127.0.0.1:6379/0", fleet="agents"))
    assert repr(store) == "<RedisStore redis://***@127.0.0.1:6379/0 fleet agents>"


def test_files_for_tls_are_read_before_they_are_needed(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("one", "two"):
        issued = authority.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    (tmp_path / "junk.pem").write_text("no certificate")

    def fault(scheme: str = "rediss", /, **files: str) -> str:
        query = "&".join(f"{name}={tmp_path}/{file}" for name, file in files.items())
        tail = "/mine" if "sentinel" in scheme else ""
        return tls_fault(store_address(f"{scheme}://h{tail}?{query}")).replace(f"{tmp_path}/", "")

    good = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "one.pem", "ssl_keyfile": "one.key"}
    for scheme in ("rediss", "rediss+sentinel", "rediss+cluster"):
        assert fault(scheme, **good) == ""
        assert fault(scheme) == ""
        assert fault(scheme, ssl_ca_certs="x.pem") == "ssl_ca_certs=x.pem cannot be read: No such file or directory"
    assert fault(**good | {"ssl_ca_certs": "junk.pem"}) == "ssl_ca_certs=junk.pem holds no certificate in PEM"
    assert fault(ssl_keyfile="one.key") == "ssl_keyfile has no certificate to go with; name that with ssl_certfile"
    for wrong in ({"ssl_keyfile": "two.key"}, {"ssl_certfile": "junk.pem"}, {"ssl_keyfile": "junk.pem"}):
        assert fault(**good | wrong).startswith("ssl_certfile and ssl_keyfile are no certificate and its key")
    assert tls_fault(store_address("redis://h")) == ""
