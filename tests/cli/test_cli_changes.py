"""flip, rollback and stage: what is asked, what is said, and how each failure ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from fake_admin import FakeAdmin, problem

from bgproxy.cli import client

MOVED = {"active": "green", "previous": "blue", "epoch": 8, "took_ms": 1.25, "changed": True}


def test_a_flip(admin, run):
    admin.answers["POST", "/v1/flip"] = MOVED
    result = run("flip", "green", "--reason", "v2", "--if-epoch", "7", "--force")
    assert admin.asked == [("POST", "/v1/flip", {"to": "green", "reason": "v2", "if_epoch": 7, "force": True})]
    assert result.stdout == "green is active, came from blue, epoch 8, took 1.25 ms\n"
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_flip_says_nothing_that_it_was_not_told(admin, run):
    admin.answers["POST", "/v1/flip"] = MOVED
    run("flip", "green")
    assert admin.asked == [("POST", "/v1/flip", {"to": "green"})]
    assert "Authorization" not in admin.fields[0]


def test_a_flip_to_the_active_color_says_so_and_is_done(admin, run):
    told = "green is the active color already; nothing was changed"
    admin.answers["POST", "/v1/flip"] = {**MOVED, "changed": False, "detail": told}
    result = run("flip", "green")
    assert (result.exit_code, result.stdout) == (0, told + "\n")


@pytest.mark.parametrize("have", [0, 1])
def test_that_too_few_replicas_have_it_is_told_beside_what_was_done(admin, run, have):
    admin.answers["POST", "/v1/flip"] = {**MOVED, "replicas": {"have": have, "wanted": 1}}
    result = run("flip", "green")
    assert (result.exit_code, result.stdout.startswith("green is active")) == (0, True)
    assert ("it is done, but 0 of 1 replicas have it" in result.stderr) is (have == 0)


def test_if_epoch_zero_is_sent(admin, run):
    admin.answers["POST", "/v1/rollback"] = MOVED
    run("rollback", "--if-epoch", "0")
    assert admin.asked == [("POST", "/v1/rollback", {"if_epoch": 0})]


def test_json_is_the_answer_as_it_came(admin, run):
    admin.answers["POST", "/v1/rollback"] = MOVED
    result = run("rollback", "--json")
    assert json.loads(result.stdout) == MOVED


def test_staging(admin, run):
    answer = {"color": "green", "release": "v2", "phase": "staged", "epoch": 3, "changed": True, "took_ms": 1.0}
    admin.answers["PUT", "/v1/colors/green"] = answer
    result = run(
        *("stage", "green", "--release", "v2", "--upstream", "http://a:1", "--upstream", "unix:/b"),
        *(
            "--metadata",
            "commit=1f2e",
            "--metadata",
            "note=a=b",
            "--route-upstream",
            "chat=http://c:1",
            "--reason",
            "r",
        ),
    )
    assert result.stdout == "v2 is staged on green, phase staged\n"
    assert admin.asked[0][2] == {
        "release": "v2",
        "upstreams": ["http://a:1", "unix:/b"],
        "metadata": {"commit": "1f2e", "note": "a=b"},
        "routes": {"chat": ["http://c:1"]},
        "reason": "r",
    }


def test_a_color_is_one_segment_of_the_path(admin, run):
    admin.answers["PUT", "/v1/colors/a/../b"] = {"epoch": 1, "phase": "staged"}
    run("stage", "a/../b", "--release", "v2")
    assert admin.asked[0][1] == "/v1/colors/a%2F..%2Fb"


@pytest.mark.parametrize("text", ["commit", "=x"])
def test_a_pair_that_is_none_is_a_usage_error(run, text):
    result = run("stage", "green", "--release", "v2", "--metadata", text)
    assert result.exit_code == 2
    assert "--metadata" in result.stderr


def test_the_token_is_shown_to_the_api_and_to_nobody_else(admin, run, monkeypatch):
    admin.answers["POST", "/v1/flip"] = problem(403, "forbidden", "that needs an operator")
    monkeypatch.setenv("BGPROXY_TOKEN", "s3cret-token")
    result = run("flip", "green")
    assert admin.fields[0]["Authorization"] == "Bearer s3cret-token"
    assert "s3cret-token" not in result.output
    run("flip", "green", "--token", "stronger")
    assert admin.fields[1]["Authorization"] == "Bearer stronger"


def test_a_token_with_a_line_break_is_not_sent_and_not_shown(admin, run):
    result = run("flip", "green", "--token", "s3cret\r\nX-Evil: 1")
    assert result.exit_code == 2
    assert admin.asked == []
    assert "s3cret" not in result.output


PROBLEMS = {
    "stale": (problem(409, "stale_epoch", "the epoch is 8, not 7", epoch=8), "look with `bgproxy status`"),
    "not ready": (
        problem(409, "not_ready", "green has no healthy upstream"),
        "--force overrules what can be overruled",
    ),
    "unknown": (problem(404, "unknown_color", "there is no color 'x'"), "`bgproxy status` lists the colors"),
    "no token": (problem(401, "unauthorized", "this needs a token"), "set BGPROXY_TOKEN"),
    "store": (problem(503, "store_unavailable", "the store does not answer"), "try again when the store is back"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_the_api_refuses_ends_with_1_and_a_remedy(admin, run, case):
    answer, remedy = PROBLEMS[case]
    admin.answers["POST", "/v1/flip"] = answer
    result = run("flip", "green")
    assert (result.exit_code, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first == f"bgproxy: {answer[1]['detail']}"
    assert remedy in second


def test_with_json_a_problem_is_a_document_on_stdout(admin, run):
    answer = problem(409, "stale_epoch", "the epoch is 8, not 7", epoch=8, active="green")
    admin.answers["POST", "/v1/flip"] = answer
    result = run("flip", "green", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    assert json.loads(result.stdout) == answer[1]


def test_control_characters_do_not_reach_the_terminal(admin, run):
    admin.answers["POST", "/v1/flip"] = problem(409, "refused", "\x1b[2Jbad\r\x07")
    assert run("flip", "green").stderr == "bgproxy:  [2Jbad\nbgproxy:  \n"


# --- nobody there, or somebody else


def test_nothing_answers(run, unused_tcp_port):
    result = run("flip", "green", "--admin", f"http://127.0.0.1:{unused_tcp_port}")
    assert (result.exit_code, result.stdout) == (3, "")
    assert (
        f"nothing answers at http://127.0.0.1:{unused_tcp_port}: Connection refused; start `bgproxy serve`"
        in result.stderr
    )
    as_json = run("flip", "green", "--json", "--admin", f"127.0.0.1:{unused_tcp_port}")
    assert as_json.exit_code == 3
    assert json.loads(as_json.stdout)["code"] == "unreachable"


def test_no_socket_there(run, tmp_path):
    result = run("flip", "green", "--admin", f"unix:{tmp_path}/none.sock")
    assert result.exit_code == 3
    assert "No such file or directory" in result.stderr


@contextmanager
def stopped_beside(admin: FakeAdmin) -> Iterator[socket.socket]:
    """A worker on the same port that accepts nothing, as one that is stopped."""
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", urlsplit(admin.url).port))
        worker.listen(64)
        worker.setblocking(False)
        yield worker


def asked_of(worker: socket.socket) -> list[bytes]:
    """What lies in the queue of one that is stopped."""
    found = []
    with suppress(BlockingIOError):
        while True:
            line, _ = worker.accept()
            with line:
                found.append(line.recv(65536).split(b" HTTP", 1)[0])
    return found


def test_what_is_asked_does_not_wait_at_a_worker_that_is_stopped(served, monkeypatch, run):
    admin = served(shared=True)
    monkeypatch.setattr(client, "KNOCK_TIMEOUT", 0.1)
    with stopped_beside(admin) as worker:
        admin.answers["POST", "/v1/flip"] = MOVED
        met: list[bytes] = []
        for _ in range(40):
            assert run("flip", "green", "--admin", admin.url).exit_code == 0
            if met := asked_of(worker):
                break
        assert set(met) == {b"GET /livez"}, "nothing is left there to be done when it goes on"


def test_all_are_stopped(monkeypatch, run):
    monkeypatch.setattr(client, "KNOCK_TIMEOUT", 0.01)
    monkeypatch.setattr(client, "LAST_KNOCK_TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as worker:
        worker.setblocking(False)
        result = run("flip", "green", "--admin", f"127.0.0.1:{worker.getsockname()[1]}")
        assert (result.exit_code, result.stdout) == (3, "")
        assert "they are stopped or hang; nothing was asked of them" in result.stderr
        assert asked_of(worker) == [b"GET /livez"] * client.KNOCKS


STRANGERS = {
    "an agent's JSON": {"hello": "world"},
    "a list": [1],
    "another API's error": (404, {"detail": "Not Found"}),
    "a redirect": (302, {}),
    "a success of another kind": (201, MOVED),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_what_answers_is_no_bgproxy(admin, run, case):
    admin.answers["POST", "/v1/flip"] = STRANGERS[case]
    result = run("flip", "green")
    assert result.exit_code == 3
    assert "is no bgproxy admin API" in result.stderr


def test_what_answers_does_not_speak_http(run, stranger):
    result = run("flip", "green", "--admin", stranger(b"-ERR unknown command\r\n"))
    assert result.exit_code == 3
    assert "does not speak HTTP; check --admin" in result.stderr


def test_a_connection_that_breaks_leaves_it_open_whether_it_was_done(run, stranger):
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    for sent in (b"", answer):
        result = run("flip", "green", "--admin", stranger(sent))
        assert result.exit_code == 3
        assert "is not known, look with `bgproxy status`" in result.stderr


@pytest.mark.parametrize(
    "url", ["ftp://h:1", "http://u:hush@h:1", "http://h:99999", "unix:relative", "http://", "http://h?x"]
)
def test_a_url_that_cannot_be_is_a_usage_error(run, url):
    result = run("status", "--admin", url)
    assert result.exit_code == 2
    assert "write for example" in result.stderr
    assert "hush" not in result.stderr


def test_over_a_unix_socket(served, run, tmp_path):
    admin = served(tmp_path / "a.sock")
    admin.answers["POST", "/v1/flip"] = MOVED
    assert run("flip", "green", "--admin", f"unix:{tmp_path}/a.sock").exit_code == 0
    assert run("flip", "green", "--admin", f"unix://{tmp_path}/a.sock").exit_code == 0
    assert admin.fields[0]["Host"] == "localhost"


def test_no_scheme_and_a_path_in_front(admin, run):
    async def moved(request: web.Request) -> web.Response:
        return web.json_response(MOVED)

    admin.answers["POST", "/bg/v1/flip"] = moved
    assert run("flip", "green", "--admin", admin.url.removeprefix("http://") + "/bg/").exit_code == 0


def test_a_proxy_of_the_environment_is_not_used(admin, run, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    admin.answers["POST", "/v1/flip"] = MOVED
    assert run("flip", "green").exit_code == 0


async def _again(request: web.Request) -> web.Response:
    return web.json_response({**MOVED, "phase": "staged"}, headers={"Idempotency-Replayed": "true"})


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("flip", "green"), ("POST", "/v1/flip")),
        (("rollback",), ("POST", "/v1/rollback")),
        (("stage", "green", "--release", "v2"), ("PUT", "/v1/colors/green")),
    ],
)
def test_an_idempotency_key(admin, run, words, asked):
    admin.answers[asked] = {**MOVED, "phase": "staged"}
    result = run(*words, "--idempotency-key", "job 7/2")
    assert admin.fields[0]["Idempotency-Key"] == '"job 7/2"'
    assert (result.exit_code, result.stderr) == (0, "")
    admin.answers[asked] = _again
    again = run(*words, "--idempotency-key", "job 7/2")
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    assert "done before, under the same key" in again.stderr
    assert json.loads(run(*words, "--idempotency-key", "job 7/2", "--json").stdout) == {**MOVED, "phase": "staged"}


def test_without_a_key_none_is_sent(admin, run):
    admin.answers["POST", "/v1/flip"] = MOVED
    run("flip", "green")
    assert "Idempotency-Key" not in admin.fields[0]


@pytest.mark.parametrize("key", ['a"b', "a\\b", "ü", "x" * 256, "a\nb"])
def test_a_key_that_is_none_is_not_sent(admin, run, key):
    result = run("flip", "green", "--idempotency-key", key)
    assert (result.exit_code, admin.asked) == (2, [])
    assert "--idempotency-key" in result.stderr


def test_a_key_of_another_request_has_a_remedy(admin, run):
    admin.answers["POST", "/v1/flip"] = problem(422, "key_reused", "the key 'a' was used for another request")
    result = run("flip", "green", "--idempotency-key", "a")
    assert result.exit_code == 1
    assert "use another --idempotency-key" in result.stderr
