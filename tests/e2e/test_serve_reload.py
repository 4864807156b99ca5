"""SIGHUP: what can change while traffic flows does, what cannot is named, and a bad file changes nothing."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from serving import Agent, Serve, Town, until

OLD, NEW = (hashlib.sha256(name).hexdigest() for name in (b"old", b"new"))


class File:
    """A configuration file under the test's hand."""

    def __init__(self, path: Path, blue: Agent, green: Agent) -> None:
        self.path = path
        self.blue, self.green = blue, green
        self.parts = {
            "top": 'listen = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nfleet = "reloaded"\n',
            "blue": f'[colors.blue]\nrelease = "v1"\nupstreams = ["{blue.url}"]\n',
            "green": f'[colors.green]\nrelease = "v2"\nupstreams = ["{green.url}"]\n',
        }
        self.write()

    def write(self, **parts: str) -> None:
        self.parts |= parts
        new = self.path.with_suffix(".new")
        new.write_text("".join(self.parts.values()))
        new.chmod(0o600)
        new.replace(self.path)


@pytest.fixture
async def file(town: Town, tmp_path: Path) -> File:
    return File(tmp_path / "bgproxy.toml", await town.agent("v1"), await town.agent("v2"))


async def started(town: Town, file: File) -> Serve:
    return await town.serve(None, None, "--config", str(file.path))


async def reloaded(serve: Serve, saying: str) -> None:
    serve.signal(signal.SIGHUP)
    await serve.said(saying)


async def test_timeouts_are_taken_over_for_the_next_request_and_streams_go_on(town, file):
    serve = await started(town, file)
    stream = await serve.connect()
    await stream.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    await stream.head()
    assert await stream.chunk()
    file.write(timeouts="[timeouts]\nresponse_head_timeout = 0.2\nstream_idle_timeout = 60\n")
    await reloaded(serve, r"reloaded: timeouts\.response_head_timeout, timeouts\.stream_idle_timeout")
    assert (await serve.ask("/hold"))[0] == 504
    file.blue.say()
    assert await stream.chunk() == b"id: 2\ndata: v1\n\n"
    stream.close()


async def test_pools_and_health_checks_that_exist_follow_too(town, file):
    serve = await started(town, file)
    assert await serve.ask() == (200, "v1")
    file.write(more='[pool]\nmax_waiting = 0\nmax_connections = 1\n[health]\npath = "/healthz"\ninterval = 0.1\n')
    asked = file.blue.asked
    await reloaded(serve, r"reloaded: health\.interval, health\.path, pool\.max_connections, pool\.max_waiting")
    await until(lambda: file.blue.asked > asked + 1, "checks by their new path")
    wire = await serve.connect()
    await wire.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: file.blue.held == 1)
    code, said = await serve.ask()
    assert (code, "too many requests wait" in said) == (503, True)
    wire.close()


async def test_the_upstreams_of_a_release_of_the_file(town, file):
    serve = await started(town, file)
    again = await town.agent("v1 on another port")
    file.write(blue=f'[colors.blue]\nrelease = "v1"\nupstreams = ["{again.url}"]\n')
    await reloaded(serve, r"reloaded: colors\.blue\.upstreams")
    assert await until(lambda: serve.all_say(again.label, 1))
    status = await serve.status()
    assert [one["url"] for one in status["colors"]["blue"]["upstreams"]] == [again.url]
    assert (status["epoch"], status["colors"]["blue"]["phase"]) == (1, "active")


async def test_another_release_is_never_put_under_live_traffic(town, file):
    serve = await started(town, file)
    file.write(blue=f'[colors.blue]\nrelease = "v3"\nupstreams = ["{file.green.url}"]\n')
    await reloaded(serve, r"the configured releases were not taken over: .*v3 on blue, where v1 is active")
    assert "(not taken over: colors.blue.release, colors.blue.upstreams)" in serve.log
    assert "reloaded:" not in serve.log
    assert await serve.ask() == (200, "v1")
    assert (await serve.status())["colors"]["blue"]["release"] == "v1"


async def test_what_was_taken_is_told_apart_from_what_was_refused(town, file):
    serve = await started(town, file)
    file.write(
        blue=f'[colors.blue]\nrelease = "v3"\nupstreams = ["{file.blue.url}"]\n', more="[limits]\nmax_fields = 90\n"
    )
    await reloaded(serve, r"reloaded: limits\.max_fields; but the configured releases were not taken over: .*")
    assert "(not taken over: colors.blue.release)" in serve.log


async def test_a_release_that_was_staged_stays_and_the_file_s_is_not_called_reloaded(town, file):
    serve = await started(town, file)
    staged = {"release": "v9", "upstreams": [file.green.url]}
    assert (await serve.api("PUT", "/v1/colors/green", staged))[0] == 200
    file.write(green=f'[colors.green]\nrelease = "v3"\nupstreams = ["{file.green.url}"]\n')
    await reloaded(
        serve, r"green holds v9, which was staged there and stays \(not taken over: colors\.green\.release\)"
    )
    assert "reloaded:" not in serve.log
    await reloaded(serve, "reloaded: nothing has changed")


async def test_routes_are_taken_over(town, file):
    serve = await started(town, file)
    own = await town.agent("tools")
    file.write(route=f'[[route]]\nname = "tools"\npath = "/tools"\nupstreams = {{ blue = ["{own.url}"] }}\n')
    await reloaded(serve, "reloaded: ")
    assert await until(lambda: _says(serve, "/tools/x", "tools"))
    assert (await serve.ask("/other"))[0] == 404


async def _says(serve: Serve, path: str, label: str) -> bool:
    return await serve.ask(path) == (200, label)


async def test_tokens_are_exchanged_without_a_gap(town, file):
    def token(name: str, secret: str) -> str:
        return f'[[token]]\nname = "{name}"\nrole = "operator"\nsecret = "{secret}"\n'

    file.write(token=token("ci", OLD))
    serve = await started(town, file)
    assert (await serve.api("GET", "/v1/status", token=OLD))[0] == 200
    file.write(token=token("ci", OLD) + token("ci", NEW))
    await reloaded(serve, r"reloaded: token")
    for secret in (OLD, NEW):
        assert (await serve.api("GET", "/v1/status", token=secret))[0] == 200
    file.write(token=token("ci", NEW))
    serve.signal(signal.SIGHUP)
    await until(lambda: _is_refused(serve, OLD))
    assert (await serve.api("GET", "/v1/status", token=NEW))[0] == 200
    assert OLD not in serve.log
    assert NEW not in serve.log


async def _is_refused(serve: Serve, secret: str) -> bool:
    return (await serve.api("GET", "/v1/status", token=secret))[0] == 401


async def test_what_needs_a_restart_is_named_and_stays(town, file):
    serve = await started(town, file)
    file.write(top='listen = "127.0.0.1:1"\nadmin = "127.0.0.1:2"\nfleet = "other"\nworkers = 1\nactive = "green"\n')
    await reloaded(serve, "these need a restart and stay as they were: active, admin.listen, fleet, listen")
    assert (await serve.status())["fleet"] == "reloaded"
    # A worker that is started again must not take what its siblings were refused.
    os.kill(serve.workers[0], signal.SIGKILL)
    await serve.ready(workers=2)
    status = await serve.status()
    assert (status["fleet"], status["active"]) == ("reloaded", "blue")
    assert await serve.ask() == (200, "v1")


async def test_a_bad_file_changes_nothing(town, file, tmp_path):
    serve = await started(town, file)
    file.write(blue=f'[colors.blue]\nrelease = "v1"\nupstreams = ["{file.green.url}"]\n')
    for number, fault in enumerate(
        (
            "[timeouts\n",
            "[timeouts]\nconnect_timeoot = 1\n",
            '[timeouts]\nconnect_timeout = "soon"\n',
            f'[access_log]\noutput = "{tmp_path}/none/access.log"\n',
        ),
        1,
    ):
        file.write(fault=fault)
        serve.signal(signal.SIGHUP)
        await until(lambda number=number: _refusals(serve) == number, fault)
        assert await serve.ask() == (200, "v1")
    assert "reloaded:" not in serve.log
    file.write(fault="")
    await reloaded(serve, r"reloaded: colors\.blue\.upstreams")


def _refusals(serve: Serve) -> int:
    """How often the worker has said no; the supervisor says so for itself."""
    lines = serve.log.splitlines()
    return sum("bgproxy.app: the configuration was not reloaded, the old one stays: " in line for line in lines)


async def test_the_access_log_moves_and_loses_no_line(town, file, tmp_path):
    first, second, away = tmp_path / "one.log", tmp_path / "two.log", tmp_path / "one.log.1"
    file.write(log=f'[access_log]\noutput = "{first}"\nflush_interval = 0.05\n')
    serve = await started(town, file)
    assert (await serve.ask("/one"))[0] == 200
    await until(lambda: "/one" in first.read_text())
    first.rename(away)  # as logrotate does
    await reloaded(serve, "reloaded: nothing has changed")
    assert (await serve.ask("/two"))[0] == 200
    file.write(log=f'[access_log]\noutput = "{second}"\nflush_interval = 0.05\n')
    await reloaded(serve, r"reloaded: access_log\.output")
    assert (await serve.ask("/three"))[0] == 200
    await until(lambda: second.exists() and "/three" in second.read_text())
    assert "/two" in first.read_text()
    assert "/two" not in away.read_text()


async def test_told_many_times_it_takes_over_the_last_word(town, file):
    serve = await started(town, file)
    for number in range(1, 6):
        file.write(limits=f"[limits]\nmax_fields = {100 + number}\n")
        serve.signal(signal.SIGHUP)
    await until(lambda: _fields_allowed(serve, 105), "the last of them holds")
    assert serve.process.poll() is None


async def _fields_allowed(serve: Serve, count: int) -> bool:
    fields = [f"X-{number}: 1" for number in range(count - 2)]  # Host and Connection are there already
    return (await serve.ask("/", *fields))[0] == 200
