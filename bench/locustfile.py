"""Agents' clients and flips in one scenario, and a run that fails if anything is lost.

    BGPROXY_ADMIN=http://127.0.0.1:9900 locust -f bench/locustfile.py --headless -u 40 -r 40 -t 60s \\
        --host http://127.0.0.1:8080

Talks to what the demo's agents and bench/upstream.py understand. Every answer is checked: a turn must hold all that was
asked for, a stream every event in order up to its end, an MCP answer the caller's own tag, and no answer may mix two
releases. One user flips every BGPROXY_FLIP_INTERVAL seconds (3) through the admin API and then looks where a new
request lands. The exit code is 1 if anything was lost, refused or wrong, or if no flip was made.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any
from uuid import uuid4

import requests
from locust import HttpUser, between, constant, events, task
from locust.env import Environment

ADMIN = os.environ.get("BGPROXY_ADMIN", "http://127.0.0.1:9900")
TOKEN = os.environ.get("BGPROXY_TOKEN", "")
FLIP_INTERVAL = float(os.environ.get("BGPROXY_FLIP_INTERVAL", "3"))
SPREAD_SECONDS = 0.2  # for workers that did not take the command themselves to hear of it
EVENTS = 25
EVERY_MS = 40  # a stream lasts a second, so a flip meets many of them half-way
REQUEST_TIMEOUT = 30.0
CHAT = "/v1/chat/completions"

flips = 0


def order(tag: str, *, count: int, every_ms: int, stream: bool) -> dict[str, Any]:
    """A chat request that the agents can answer: they count."""
    prompt = f"count to {count} every {every_ms} ms for {tag}"
    return {"model": "counter", "stream": stream, "messages": [{"role": "user", "content": prompt}]}


def words(tag: str, count: int) -> str:
    """The whole answer to such a request."""
    return "".join(f"{tag}:{number} " for number in range(count))


def read_stream(response: requests.Response) -> tuple[str, set[str], bool]:
    """The text of a streamed chat answer, the releases that its events name, and whether it came to its end."""
    text, releases, ended = "", set(), False
    for line in response.iter_lines():
        if line == b"data: [DONE]":
            ended = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            releases.add(event["system_fingerprint"])
            text += event["choices"][0]["delta"].get("content", "")
    return text, releases, ended


def read_rpc(response: requests.Response) -> dict[str, Any]:
    """The JSON-RPC answer of an MCP server, sent as JSON or as the one event of a stream."""
    if response.headers.get("Content-Type", "").startswith("text/event-stream"):
        data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        return dict(json.loads(data[-1]))
    return dict(response.json())


class Chatter(HttpUser):
    """A chat turn every second or so, answered whole."""

    weight = 3
    wait_time = between(0.2, 1.0)

    @task
    def turn(self) -> None:
        tag = uuid4().hex
        body = order(tag, count=10, every_ms=1, stream=False)
        with self.client.post(CHAT, json=body, name="turn", timeout=REQUEST_TIMEOUT, catch_response=True) as response:
            if response.ok and response.json()["choices"][0]["message"]["content"] != words(tag, 10):
                response.failure(f"not the answer that was asked for: {response.text[:200]}")


class Listener(HttpUser):
    """A streamed turn, each event checked."""

    weight = 3
    wait_time = between(0.0, 0.5)

    @task
    def stream(self) -> None:
        tag = uuid4().hex
        body = order(tag, count=EVENTS, every_ms=EVERY_MS, stream=True)
        with self.client.post(
            CHAT, json=body, name="stream", timeout=REQUEST_TIMEOUT, stream=True, catch_response=True
        ) as response:
            if not response.ok:
                return
            try:
                text, releases, ended = read_stream(response)
            except (requests.RequestException, ValueError, LookupError) as error:
                response.failure(f"the stream broke: {error!r}")
                return
            if not ended or text != words(tag, EVENTS) or len(releases) != 1:
                response.failure(
                    f"{len(text.split())} of {EVENTS} events, ended: {ended}, releases: {sorted(releases)}"
                )


class Caller(HttpUser):
    """An MCP client over plain HTTP: initialize, say so, call a tool."""

    weight = 2
    wait_time = between(0.2, 1.0)

    @task
    def session(self) -> None:
        tag = uuid4().hex
        client = {"name": "bench", "version": "1"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        if self._rpc("initialize", hello, number=1) is None:
            return
        self._rpc("notifications/initialized", {}, number=None)
        self._rpc("tools/call", {"name": "ask", "arguments": {"tag": tag}}, number=2, expected=tag)

    def _rpc(
        self, method: str, params: dict[str, Any], *, number: int | None, expected: str = ""
    ) -> dict[str, Any] | None:
        """The result; None where there was none, which is then on record as a failure."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if number is not None:
            message["id"] = number
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
        with self.client.post(
            "/mcp", json=message, headers=headers, name=method, timeout=REQUEST_TIMEOUT, catch_response=True
        ) as response:
            if not response.ok or number is None:
                return None
            answer = read_rpc(response)
            if answer.get("id") != number or "result" not in answer:
                response.failure(f"not an answer to {method}: {answer}")
                return None
            if expected and answer["result"].get("structuredContent", {}).get("tag") != expected:
                response.failure(f"somebody else's answer: {answer}")
            return dict(answer["result"])


class Releaser(HttpUser):
    """Flips to the next color, then asks which release answers now."""

    fixed_count = 1
    wait_time = constant(FLIP_INTERVAL)

    def on_start(self) -> None:
        self.client.headers.update({"Authorization": f"Bearer {TOKEN}"} if TOKEN else {})
        self.seen: dict[str, str] = {}
        status = self.client.get(f"{ADMIN}/v1/status", name="status").json()
        self.colors = sorted(status["colors"])
        self.active = status["active"]

    @task
    def flip(self) -> None:
        global flips
        target = self.colors[(self.colors.index(self.active) + 1) % len(self.colors)]
        body = {"to": target, "reason": "locust"}
        with self.client.post(f"{ADMIN}/v1/flip", json=body, name="flip", catch_response=True) as response:
            if not response.ok or response.json()["active"] != target:
                response.failure(f"{response.status_code}: {response.text[:300]}")
                return
        self.active = target
        flips += 1
        time.sleep(SPREAD_SECONDS)  # only this user's: locust has made sleeping cooperative
        self._look(target)

    def _look(self, target: str) -> None:
        body = order("look", count=1, every_ms=0, stream=False)
        with self.client.post(CHAT, json=body, name="after a flip", catch_response=True) as response:
            if not response.ok:
                return
            release = response.json()["system_fingerprint"]
            others = {color: seen for color, seen in self.seen.items() if color != target}
            if self.seen.setdefault(target, release) != release or release in others.values():
                response.failure(f"{release} answered, but {target} is active; seen so far: {self.seen}")


def judge(environment: Environment, **_unused: object) -> None:
    """The last word: one line, and the exit code."""
    total = environment.stats.total
    raised = environment.runner.exceptions.values() if environment.runner else []
    lost = total.num_failures + sum(each["count"] for each in raised)
    print(f"locust: {total.num_requests} requests, {flips} flips, {lost} lost")
    environment.process_exit_code = 1 if lost or not flips else 0


events.quitting.add_listener(judge)  # type: ignore[no-untyped-call]
