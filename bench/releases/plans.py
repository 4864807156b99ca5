"""The plans that releases are brought out by here, and in the tests."""

from __future__ import annotations

from typing import Final

TURN: Final = "count to 3 every 1 ms for ann"

GATES: Final = f"""
ready_timeout = 0.5
parity = {{ contracts = ["mcp"] }}
[[gate]]
kind = "mcp"
name = "tools"
call = "ask"
arguments = {{ tag = "ann" }}
[[gate]]
kind = "chat"
name = "stream"
prompt = "{TURN}"
stream = true
timeout = 1.2
expect_text = "ann:0 ann:1 ann:2"
[[gate]]
kind = "websocket"
name = "talk"
text = "hello"
expect_json = {{ "/text" = "hello", "/turn" = 0 }}
[[gate]]
kind = "load"
name = "turns"
method = "POST"
path = "/v1/chat/completions"
json = {{ model = "counter", messages = [{{ role = "user", content = "{TURN}" }}] }}
agents = 50
duration = 5.0
requests = 100
slo = {{ max_error_rate = 0.01, max_p50 = 0.3 }}
"""
"""What a plan should have for an agent that chats, has tools and takes WebSockets, in the order of what it costs."""

BAKE: Final = """
parity = {{ contracts = [] }}
[bake]
duration = {duration}
min_samples = 200
max_error_rate = 0.01
max_p95_ratio = 1.5
"""
"""No gate at all: what is bad meets live traffic, and the bake has to find it."""
