"""The demo's agent answers whoever asks it over chat, by the numbers or not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest

from bgproxy.cli.demo.agent import build

SMALLEST = Path(__file__).parents[3] / "config" / "examples" / "plan-smallest.toml"


async def asked(**body: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build("v1")), base_url="http://a") as client:
        return await client.post("/v1/chat/completions", **body)


async def test_it_passes_the_gate_of_the_smallest_plan() -> None:
    (gate,) = tomllib.loads(SMALLEST.read_text())["gate"]
    answer = await asked(json=gate["json"])
    message = answer.json()["choices"][0]["message"]
    assert (answer.status_code, message["role"], bool(message["content"].strip())) == (200, "assistant", True)


async def test_it_counts_as_it_is_told_to() -> None:
    answer = await asked(json={"messages": [{"role": "user", "content": "count to 3 every 0 ms for ann"}]})
    assert answer.json()["choices"][0]["message"]["content"] == "ann:0 ann:1 ann:2 "


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"messages": []}', b"[]"])
async def test_what_cannot_be_read_is_refused(content: bytes) -> None:
    assert (await asked(content=content)).status_code == 400
