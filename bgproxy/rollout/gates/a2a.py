"""kind = "a2a": a client of A2A over JSON-RPC, in 1.0 or 0.3 as the agent's card has it: the card, then a message."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bgproxy.rollout.gates.ask import Upstream, json_body
from bgproxy.rollout.gates.mcp import response_in, result_of
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.gates.tried import Broken, Tried, items_of, on_each
from bgproxy.rules.assertion import MISSING, shown
from bgproxy.rules.gate import Answer, Finding, check_json, too_slow
from bgproxy.rules.plan import A2aGate


@dataclass(frozen=True, slots=True)
class Interface:
    """Where and how an agent takes messages over JSON-RPC. `version`: "1.0" or "0.3"."""

    path: str
    version: str


async def card_of(
    agent: Upstream, tried: Tried, path: str, fields: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """The agent card. Raises `Broken`."""
    answer = tried.note(f"GET {path}", await agent.ask("GET", path, fields=fields, timeout=timeout))
    document = answer.json()
    if answer.trouble or answer.status != 200:
        raise Broken(f"the agent card: {answer.trouble or f'the status is {answer.status}'}")
    if document is MISSING or not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise Broken("the agent card is no JSON object with a name")
    return document


def interface_of(card: Mapping[str, Any], endpoint: str) -> Interface:
    """How to speak to the agent of this card; what it says of hosts is for its clients, who come through the proxy.

    Raises `Broken` where it does not take JSON-RPC.
    """
    offered = card.get("supportedInterfaces")
    if isinstance(offered, list):  # 1.0
        for one in offered:
            if isinstance(one, Mapping) and one.get("protocolBinding") == "JSONRPC":
                version = "0.3" if str(one.get("protocolVersion", "1.0")).startswith("0.") else "1.0"
                return Interface(endpoint or _path_of(one.get("url")), version)
        raise Broken("the agent card offers no interface over JSON-RPC")
    if card.get("preferredTransport", "JSONRPC") != "JSONRPC" and not endpoint:  # 0.3
        more = [one for one in items_of(card, "additionalInterfaces") if isinstance(one, Mapping)]
        url = next((one.get("url") for one in more if one.get("transport") == "JSONRPC"), None)
        if url is None:
            raise Broken("the agent card offers no interface over JSON-RPC")
        return Interface(_path_of(url), "0.3")
    return Interface(endpoint or _path_of(card.get("url", "")), "0.3")


def _path_of(url: object) -> str:
    try:
        return urlsplit(str(url)).path or "/"
    except ValueError:
        raise Broken(f"the agent card has an address that is none: {shown(url)}") from None


async def try_a2a(gate: A2aGate, trial: Trial) -> Finding:
    """Each upstream as a client finds it."""
    fields = {**({"Host": gate.host} if gate.host else {}), **trial.fields(gate.headers)}

    async def one(agent: Upstream, tried: Tried) -> None:
        card = await card_of(agent, tried, gate.path, fields, gate.timeout)
        skills = {str(skill.get("id")) for skill in items_of(card, "skills") if isinstance(skill, Mapping)}
        tried.fail(*(f"the card has no skill {name}" for name in gate.skills if name not in skills))
        if gate.text:
            await _send(gate, agent, tried, interface_of(card, gate.endpoint), fields)

    return await on_each(trial.upstreams(gate.route, gate.host, gate.path), one)


async def _send(gate: A2aGate, agent: Upstream, tried: Tried, there: Interface, fields: Mapping[str, str]) -> None:
    new = there.version == "1.0"
    part: dict[str, Any] = {"text": gate.text} if new else {"kind": "text", "text": gate.text}
    message = {"messageId": uuid.uuid4().hex, "role": "ROLE_USER" if new else "user", "parts": [part]}
    if not new:
        message["kind"] = "message"
    streaming, plain = ("SendStreamingMessage", "SendMessage") if new else ("message/stream", "message/send")
    method = streaming if gate.stream else plain
    body = json_body({"jsonrpc": "2.0", "id": "1", "method": method, "params": {"message": message}})
    sent = {
        **fields,
        "Content-Type": "application/json",
        "Accept": "text/event-stream" if gate.stream else "application/json",
        "A2A-Version": there.version,
    }
    answer = tried.note(method, await agent.ask("POST", there.path, fields=sent, body=body, timeout=gate.timeout))
    if gate.stream:
        _check_stream(method, answer)
    result = result_of(method, answer, "1")
    state = _state(result)
    if any(word in state for word in ("failed", "rejected", "canceled")):
        tried.fail(f"{method}: the task is {state}")
    tried.fail(*check_json(gate.expect_json, result))
    tried.fail(*too_slow("the message", answer.latency, gate.max_latency))


def _check_stream(method: str, answer: Answer) -> None:
    """Each event is a response to the one request, and the agent ends the stream. Raises `Broken`."""
    if answer.trouble:
        raise Broken(f"{method}: {answer.trouble}")
    if not answer.events:
        raise Broken(f"{method}: no event came; the status is {answer.status}")
    strange = next((text for text in answer.events if response_in(text, "1") is None), None)
    if strange is not None:
        raise Broken(f"{method}: an event is no JSON-RPC response: {strange[:100]}")


def _state(result: Mapping[str, Any]) -> str:
    """The state that a result tells of its task, in lower case; empty where it tells none."""
    for holder in (result, *(result.get(name) for name in ("task", "statusUpdate"))):
        status = holder.get("status") if isinstance(holder, Mapping) else None
        if isinstance(status, Mapping):
            return str(status.get("state", "")).removeprefix("TASK_STATE_").lower()
    return ""
