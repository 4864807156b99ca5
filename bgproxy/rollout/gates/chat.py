"""kind = "chat": a client of OpenAI's chat completions, at once or as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bgproxy.rollout.gates.ask import Upstream, json_body
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.gates.tried import Broken, Tried, on_each
from bgproxy.rules.assertion import MISSING, at, shown
from bgproxy.rules.gate import Answer, Finding, too_slow
from bgproxy.rules.plan import ChatGate

DONE = "[DONE]"


async def try_chat(gate: ChatGate, trial: Trial) -> Finding:
    """One completion of each upstream, whole and well-formed."""
    messages = list(gate.messages) or [{"role": "user", "content": gate.prompt}]
    body = json_body({"model": gate.model, "messages": messages, "stream": gate.stream})
    fields = {**({"Host": gate.host} if gate.host else {}), **trial.fields(gate.headers)}
    fields["Content-Type"] = "application/json"
    fields["Accept"] = "text/event-stream" if gate.stream else "application/json"

    async def one(agent: Upstream, tried: Tried) -> None:
        asked = await agent.ask("POST", gate.path, fields=fields, body=body, timeout=gate.timeout)
        answer = tried.note(f"POST {gate.path}", asked)
        if answer.trouble or answer.status != 200:
            begins = shown(answer.body[:80].decode(errors="replace"))
            raise Broken(answer.trouble or f"the status is {answer.status}; it says {begins}")
        said = "".join(_streamed(answer)) if gate.stream else _completed(answer)
        if gate.expect_text and gate.expect_text not in said:
            tried.fail(f"the assistant says {shown(said)}, expected is {shown(gate.expect_text)} in it")
        tried.fail(*too_slow("the completion", answer.latency, gate.max_latency))
        tried.fail(*too_slow("the first token", answer.first_byte, gate.max_first_token))

    return await on_each(trial.upstreams(gate.route, gate.host, gate.path), one)


def _completed(answer: Answer) -> str:
    """What the assistant says; it may call tools and say nothing. Raises `Broken`."""
    document = answer.json()
    if document is MISSING:
        raise Broken("the body is no JSON")
    message = at(document, "/choices/0/message")
    if not isinstance(message, Mapping) or message.get("role") != "assistant":
        raise Broken(f"there is no message of the assistant at /choices/0/message: {shown(message)}")
    content = message.get("content")
    if not content and not message.get("tool_calls"):
        raise Broken("the assistant says nothing and calls no tool")
    return content if isinstance(content, str) else ""


def _streamed(answer: Answer) -> Iterator[str]:
    """The pieces of what the assistant says. Raises `Broken` where the stream is not as the API has it."""
    if not answer.events:
        raise Broken("no event came: the answer is no stream")
    *chunks, last = answer.events
    if last != DONE:
        raise Broken(f"the stream does not end with {DONE}")
    finished = False
    for text in chunks:
        choice = at(_chunk(text), "/choices/0")
        if not isinstance(choice, Mapping):
            continue  # usage comes in a chunk without choices
        finished = finished or bool(choice.get("finish_reason"))
        content = at(choice, "/delta/content")
        if isinstance(content, str):
            yield content
    if not finished:
        raise Broken("the stream ends without a finish_reason")


def _chunk(text: str) -> Any:
    try:
        chunk = json.loads(text)
    except (ValueError, RecursionError):
        raise Broken(f"an event is no JSON: {shown(text)}") from None
    choices = chunk.get("choices") if isinstance(chunk, Mapping) else None
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        raise Broken(f"an event is no chunk of a completion: {shown(text)}")
    return chunk
