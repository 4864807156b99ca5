"""kind = "websocket": the handshake (RFC 6455 §4), then a message, and what is said to it; else a ping and its pong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import aiohttp

from bgproxy.rollout.gates.ask import KEPT_BYTES, Upstream, json_body
from bgproxy.rollout.gates.trial import Trial
from bgproxy.rollout.gates.tried import Tried, on_each
from bgproxy.rollout.health import words
from bgproxy.rules.assertion import shown
from bgproxy.rules.gate import Answer, Finding, check_json, too_slow
from bgproxy.rules.plan import WebsocketGate

SWITCHED = 101
_ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def try_websocket(gate: WebsocketGate, trial: Trial) -> Finding:
    """One conversation with each upstream."""
    fields = {**({"Host": gate.host} if gate.host else {}), **trial.fields(gate.headers)}

    async def one(agent: Upstream, tried: Tried) -> None:
        conversation = _Conversation(gate)
        faults = await conversation.hold(agent, fields)
        tried.note(f"GET {gate.path}", conversation.answer())
        tried.fail(*faults)

    return await on_each(trial.upstreams(gate.route, gate.host, gate.path), one)


@dataclass(slots=True)
class _Conversation:
    """One attempt, and how far it came."""

    gate: WebsocketGate
    began: float = 0.0
    took: float = 0.0  # from what was sent, or else the handshake's beginning, to what was waited for
    status: int = 0
    fields: Sequence[tuple[str, str]] = ()
    said: bytes = b""  # the last message
    trouble: str = ""

    async def hold(self, agent: Upstream, fields: dict[str, str]) -> list[str]:
        """Its faults."""
        self.began = perf_counter()
        faults: list[str] = []
        try:
            async with (
                asyncio.timeout(self.gate.timeout),
                agent.socket(self.gate.path, fields=fields, subprotocols=self.gate.subprotocols) as line,
            ):
                self.status = SWITCHED
                faults = await self._talk(line)
        except TimeoutError:
            what = "what is expected did not come" if self.status else "no handshake"
            self.trouble = f"{what} within {self.gate.timeout:g} s"
        except aiohttp.WSServerHandshakeError as error:
            self.status, self.fields = error.status, list((error.headers or {}).items())
            refused = error.status != SWITCHED
            why = f"the status is {error.status}, expected is {SWITCHED}" if refused else error.message
            return [f"the handshake: {why}"]
        except (OSError, aiohttp.ClientError, ValueError) as error:
            self.trouble = words(error)
        return [*([self.trouble] if self.trouble else []), *faults]

    async def _talk(self, line: aiohttp.ClientWebSocketResponse) -> list[str]:
        gate = self.gate
        if gate.subprotocols and line.protocol not in gate.subprotocols:
            return [f"the agent speaks none of {', '.join(gate.subprotocols)}"]
        if gate.sends:
            self.began = perf_counter()
            await line.send_str(gate.text or json_body(gate.json).decode())
        elif not gate.expects:
            await line.ping()
        faults = await self._awaited(line)
        self.took = perf_counter() - self.began
        return [*faults, *too_slow("what is expected", self.took, gate.max_latency)]

    async def _awaited(self, line: aiohttp.ClientWebSocketResponse) -> list[str]:
        """Read on until a message is as expected, or the agent ends: then how the last one was not."""
        faults: list[str] = []
        while True:
            message = await line.receive()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                self.said = message.data.encode() if isinstance(message.data, str) else message.data
                faults = self._faults()
                if (self.gate.sends or self.gate.expects) and not faults:
                    return []
            elif message.type is aiohttp.WSMsgType.PING:
                await line.pong(message.data)
            elif message.type is aiohttp.WSMsgType.PONG and not (self.gate.sends or self.gate.expects):
                return []
            elif message.type in _ENDS:
                return [f"the agent ended it with {line.close_code or 'no word'}", *faults]

    def _faults(self) -> list[str]:
        """How the last message is not what is expected."""
        text = self.gate.expect_text
        missing = [f"it does not contain {shown(text)}"] if text and text.encode() not in self.said else []
        return [*missing, *check_json(self.gate.expect_json, self.answer().json())]

    def answer(self) -> Answer:
        """As evidence."""
        took = self.took or perf_counter() - self.began
        return Answer(
            self.status,
            self.fields,
            self.said[:KEPT_BYTES],
            len(self.said),
            latency=took,
            first_byte=took,
            trouble=self.trouble,
        )
