"""The kinds of gates, and who tries each. Whatever happens, there is a verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bgproxy.rollout.gates.a2a import try_a2a
from bgproxy.rollout.gates.chat import try_chat
from bgproxy.rollout.gates.command import try_command
from bgproxy.rollout.gates.http import try_http
from bgproxy.rollout.gates.load import try_load
from bgproxy.rollout.gates.mcp import try_mcp
from bgproxy.rollout.gates.replay import try_replay
from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rollout.gates.webhook import try_webhook
from bgproxy.rollout.gates.websocket import try_websocket
from bgproxy.rules.gate import Finding
from bgproxy.rules.plan import Gate

# Manual gates wait for what stands in the fleet's state: the conductor's business.
_KINDS: Mapping[str, Callable[[Any, Trial], Awaitable[Finding]]] = {
    "http": try_http,
    "mcp": try_mcp,
    "a2a": try_a2a,
    "chat": try_chat,
    "websocket": try_websocket,
    "command": try_command,
    "webhook": try_webhook,
    "load": try_load,
    "replay": try_replay,
}


async def try_gate(gate: Gate, trial: Trial) -> Finding:
    """Try one gate of any kind but manual."""
    try:
        return await _KINDS[gate.kind](gate, trial)
    except Unanswerable as error:
        return error.finding()
