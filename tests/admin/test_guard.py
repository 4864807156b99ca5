"""Who gets in: tokens and roles, Host, Origin, what a body may be. Each refusal has a test that trips it."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging

import pytest
from admin_plane import OPERATOR, TOKENS, VIEWER, bearer, release

from bgproxy.admin import call as call_module
from bgproxy.admin.app import build
from bgproxy.admin.auth import MAX_PEERS, Failures, Keyring, peer_name
from bgproxy.admin.call import Route
from bgproxy.admin.options import AdminOptions, Token
from bgproxy.admin.routes import ROUTES
from bgproxy.errors import ConfigError
from bgproxy.store.pinning import Want

FLIP = json.dumps({"to": "green"})
JSON = {"Content-Type": "application/json"}


async def problem_of(answer) -> tuple[int, str]:
    assert answer.content_type == "application/problem+json"
    return answer.status, (await answer.json())["code"]


def path_of(route: Route, session: str = "0" * 32) -> str:
    return (
        route.path.replace("{color}", "green").replace("{id}", session).replace("{epoch}", "2").replace("{node}", "n")
    )


async def test_without_a_token_nothing_but_the_probes_answers(connect):
    client = await connect(tokens=TOKENS)
    for route in ROUTES:
        answer = await client.request(route.method, path_of(route))
        if route.role is None:
            assert answer.status == 200, route.path
        else:
            assert await problem_of(answer) == (401, "unauthorized"), route.path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_viewer_looks_and_does_not_touch(connect, plane):
    client = await connect(tokens=TOKENS)
    [found] = await plane.store.pins.resolve([Want((b"0123456789abcdef",), "chat", "mcp", 600.0)])
    await plane.ledger.flip("green", actor="test", reason="")
    await plane.runs.begin("violet", release("v3", 9103), {}, actor="test", reason="", once=None)
    for route in ROUTES:
        if route.answer == "text/event-stream":
            continue
        answer = await client.request(route.method, path_of(route, found.pin.id.hex()), headers=bearer(VIEWER))
        if route.role == "operator":
            assert await problem_of(answer) == (403, "forbidden"), route.path
            assert "operator" in (await answer.json())["detail"]
        else:
            assert answer.status == 200, route.path
    assert plane.switch.asked == []
    assert await plane.store.pins.find(found.pin.id) == found.pin


async def test_an_operator_is_on_record_by_the_token_s_name(connect, plane):
    client = await connect(tokens=TOKENS)

    answer = await client.post("/v1/flip", json={"to": "green"}, headers=bearer(OPERATOR))

    assert answer.status == 200
    assert plane.switch.asked[0]["actor"] == "deploy"
    entries = (await (await client.get("/v1/audit", headers=bearer(VIEWER))).json())["entries"]
    assert entries[0]["actor"] == "deploy"


@pytest.mark.parametrize(
    "fields",
    [
        [("Authorization", f"Bearer {OPERATOR[:-1]}x")],
        [("Authorization", f"Bearer {OPERATOR}x")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer")],
        [("Authorization", OPERATOR)],
        [("Authorization", f"Basic {OPERATOR}")],
        [("Authorization", f"Bearer {OPERATOR}"), ("Authorization", f"Bearer {OPERATOR}")],
        [("Authorization", "Bearer \udcff\udcfe")],
    ],
)
async def test_wrong_tokens(connect, plane, fields):
    client = await connect(tokens=TOKENS)

    answer = await client.post("/v1/flip", json={"to": "green"}, headers=fields)

    assert await problem_of(answer) == (401, "unauthorized")
    assert plane.switch.asked == []


async def test_the_scheme_s_case_does_not_matter(connect):
    client = await connect(tokens=TOKENS)
    assert (await client.get("/v1/status", headers={"Authorization": f"bEARER {VIEWER}"})).status == 200


async def test_two_secrets_of_one_name_hold_at_once(connect, plane):
    new = Token("deploy", "operator", OPERATOR[::-1])
    client = await connect(tokens=(*TOKENS, new))
    for secret in (OPERATOR, new.secret):
        assert (await client.post("/v1/flip", json={"to": "blue"}, headers=bearer(secret))).status == 200
    assert {asked["actor"] for asked in plane.switch.asked} == {"deploy"}


async def test_too_many_wrong_tokens_get_429_and_the_right_one_still_works(connect):
    client = await connect(tokens=TOKENS, failure_rate=3)
    for _ in range(3):
        assert (await client.get("/v1/status", headers=bearer("wrong"))).status == 401

    limited = await client.get("/v1/status", headers=bearer("wrong"))

    assert await problem_of(limited) == (429, "too_many_failures")
    assert 1 <= int(limited.headers["Retry-After"]) <= 20
    assert (await client.get("/v1/status", headers=bearer(VIEWER))).status == 200


async def test_a_missing_token_is_no_failure_to_count(connect):
    client = await connect(tokens=TOKENS, failure_rate=1)
    for _ in range(3):
        assert (await client.get("/v1/status")).status == 401


async def test_tokens_never_reach_the_log(connect, caplog):
    caplog.set_level(logging.DEBUG)
    client = await connect(tokens=TOKENS)
    await client.get("/v1/status", headers=bearer("wrong-secret-that-is-somebody-s"))
    await client.get("/v1/status", headers=bearer(VIEWER))
    assert "not known" in caplog.text
    assert "wrong-secret" not in caplog.text
    assert VIEWER not in caplog.text


def test_failures_come_back_with_time():
    failures = Failures(rate=2)
    assert [failures.count("a", now) for now in (0.0, 0.0)] == [0.0, 0.0]
    assert failures.count("a", 0.0) == pytest.approx(30.0)
    assert failures.count("b", 0.0) == 0.0
    assert failures.count("a", 15.0) == pytest.approx(15.0)
    assert failures.count("a", 30.0) == 0.0
    assert failures.count("a", 30.0) > 0.0


def test_the_table_of_failures_is_bounded():
    failures = Failures(rate=1)
    for number in range(MAX_PEERS + 50):
        failures.count(f"10.0.{number // 256}.{number % 256}", 0.0)
    assert len(failures) == MAX_PEERS


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        (None, "unix"),
    ],
)
def test_peers_are_counted_by_address_or_network(address, name):
    assert peer_name(address) == name


def test_every_token_is_compared_however_early_one_fits(monkeypatch):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr("bgproxy.admin.auth.hmac.compare_digest", compare)
    keyring = Keyring(TOKENS)

    assert keyring.find(VIEWER) == ("dashboard", "viewer")
    assert len(compared) == len(TOKENS)
    assert all(len(one) == 32 for one in compared)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1234", "127.0.0.1:9", "[::1]:9900", "localhost.", "proxy.test:80"]
)
async def test_known_hosts(connect, host):
    client = await connect(allowed_hosts=("Proxy.test",))
    assert (await client.get("/v1/status", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "127.0.0.1.evil.test",
        "localhost.evil.test:80",
        "127.0.0.2",
        "proxy.test.evil.test",
        "",
        "localhost:80:80",
        "localhost:x",
        "user@localhost",
        "[::1",
        "localhost,evil.test",
        "localhost evil.test",
    ],
)
async def test_rebound_hosts(connect, host):
    client = await connect(allowed_hosts=("proxy.test",))
    answer = await client.get("/v1/status", headers={"Host": host})
    assert await problem_of(answer) == (403, "foreign_request")


async def test_the_listen_address_is_a_known_host(connect):
    client = await connect(listen="admin.internal:9900", tokens=TOKENS)
    headers = bearer(VIEWER) | {"Host": "admin.internal:9900"}
    assert (await client.get("/v1/status", headers=headers)).status == 200


async def raw(client, head: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(head.replace("\n", "\r\n").encode())
    status = await reader.readline()
    writer.close()
    return status


async def test_a_missing_and_a_doubled_host_are_refused(client):
    none = await raw(client, "GET /v1/status HTTP/1.0\n\n")
    assert none.startswith(b"HTTP/1.0 403 ")
    two = await raw(client, "GET /v1/status HTTP/1.1\nHost: localhost\nHost: evil.test\nConnection: close\n\n")
    assert two.split(b" ")[1] in (b"400", b"403")  # the HTTP library may refuse it first


async def test_probes_need_no_known_host(client):
    for path in ("/livez", "/readyz"):
        assert (await client.get(path, headers={"Host": "10.9.8.7:9900"})).status == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Origin": "http://localhost:9900"}, True),
        ({"Origin": "http://LOCALHOST:9900", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://evil.test"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "chrome-extension://localhost:9900"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "anything"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/flip", "/v1/rollback"])
async def test_pages_of_other_sites(client, plane, headers, allowed, path):
    await plane.ledger.flip("green", actor="t", reason="")
    data = json.dumps({"to": "green"}) if path == "/v1/flip" else "{}"
    answer = await client.post(path, data=data, headers=JSON | {"Host": "localhost:9900"} | headers)
    if allowed:
        assert answer.status == 200
    else:
        assert await problem_of(answer) == (403, "foreign_request")
        assert plane.switch.asked == []


async def test_no_cors_and_no_cookies(client):
    preflight = await client.options(
        "/v1/flip", headers={"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"}
    )
    plain = await client.get("/v1/status")
    assert preflight.status == 403
    for answer in (preflight, plain):
        assert not [name for name in answer.headers if name.lower().startswith(("access-control", "set-cookie"))]
    assert plain.headers["Cache-Control"] == "no-store"
    assert "aiohttp" not in plain.headers["Server"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, 415, "not_json"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "not_json"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "not_json"),
        ({"Content-Type": "application/json; charset=latin-1"}, 415, "not_json"),
        ({"Content-Type": "application/jsonx"}, 415, "not_json"),
        ({}, 415, "not_json"),
        ({"Content-Type": "application/json; charset=UTF-8"}, 200, ""),
    ],
)
async def test_only_json_is_taken(client, headers, status, code):
    skip = [] if headers else ["Content-Type"]
    answer = await client.post("/v1/flip", data=FLIP, headers=headers, skip_auto_headers=skip)
    assert answer.status == status
    if code:
        assert await problem_of(answer) == (status, code)


async def test_a_compressed_body_is_not_unpacked(client):
    headers = JSON | {"Content-Encoding": "gzip"}
    answer = await client.post("/v1/flip", data=gzip.compress(FLIP.encode()), headers=headers)
    assert await problem_of(answer) == (415, "not_json")


@pytest.mark.parametrize("data", [b"{", b"", b"\xff", b'{"to": NaN}', b"[" * 5000, b'{"to":"green"} x', b"null"])
async def test_bodies_that_are_no_json_object(client, plane, data):
    answer = await client.post("/v1/flip", data=data, headers=JSON)
    assert await problem_of(answer) == (400, "bad_input")
    assert plane.switch.asked == []


async def test_the_body_is_limited_with_and_without_a_length(connect, plane):
    client = await connect(max_body_bytes=300)
    whole = json.dumps({"to": "green", "reason": "x" * (300 - 29)})
    assert len(whole) == 300

    async def chunked(data: str):
        yield data.encode()

    for data in (whole + " ", chunked(whole + " ")):
        assert await problem_of(await client.post("/v1/flip", data=data, headers=JSON)) == (413, "body_too_large")
    assert plane.switch.asked == []
    for data in (whole, chunked(whole)):
        assert (await client.post("/v1/flip", data=data, headers=JSON)).status == 200


async def test_a_body_that_does_not_come_is_given_up(client, monkeypatch):
    monkeypatch.setattr(call_module, "BODY_TIMEOUT", 0.01)
    answer = await raw(
        client,
        "POST /v1/flip HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 9\n"
        "Connection: close\n\n{",
    )
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/status", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/colors/blue/x", 404, "not_found"),
        ("GET", "/v1/flip", 405, "wrong_method"),
        ("DELETE", "/v1/colors/blue", 405, "wrong_method"),
        ("OPTIONS", "/v1/status", 405, "wrong_method"),
    ],
)
async def test_unknown_paths_and_methods_are_problems_too(client, method, path, status, code):
    answer = await client.request(method, path)
    assert await problem_of(answer) == (status, code)
    if status == 405:
        assert answer.headers["Allow"]


async def test_what_does_not_exist_is_not_told_without_a_token(connect):
    client = await connect(tokens=TOKENS)
    assert (await client.get("/v2/status")).status == 401
    assert (await client.get("/v2/status", headers=bearer(VIEWER))).status == 404


@pytest.mark.parametrize("listen", ["0.0.0.0:9900", "[::]:9900", "10.0.0.1:9900", "admin.internal:9900"])
def test_an_open_door_is_not_built(empty_plane, listen):
    with pytest.raises(ConfigError, match=r"no token.*\[\[token\]\]"):
        build(empty_plane.deps(AdminOptions(listen=listen)))


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:0", "127.8.9.1:9900", "[::1]:9900", "localhost:9900", "unix:/run/x.sock"]
)
def test_doors_to_this_machine_only_need_no_token(empty_plane, listen):
    build(empty_plane.deps(AdminOptions(listen=listen)))
