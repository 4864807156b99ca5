"""Where an A2A agent takes messages, by its card: of 1.0, of 0.3, and of one that is not as a card should be."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from gate_bench import Bench, bench

from bgproxy.rollout.gates.a2a import Interface, interface_of
from bgproxy.rollout.gates.tried import Broken
from bgproxy.rules.gate import Verdict
from bgproxy.rules.plan import A2aGate

RPC = {"protocolBinding": "JSONRPC", "url": "https://a.example/rpc"}
OLD = {"transport": "JSONRPC", "url": "https://a.example/old"}


@pytest.fixture
async def agent() -> AsyncIterator[Bench]:
    async with bench() as made:
        yield made


@pytest.mark.parametrize(
    ("card", "there"),
    [
        ({"supportedInterfaces": [{"protocolBinding": "GRPC"}, RPC]}, Interface("/rpc", "1.0")),
        ({"supportedInterfaces": [{**RPC, "protocolVersion": "0.3.0"}]}, Interface("/rpc", "0.3")),
        ({"url": "https://a.example"}, Interface("/", "0.3")),
        ({"preferredTransport": "GRPC", "additionalInterfaces": [5, OLD]}, Interface("/old", "0.3")),
    ],
)
def test_the_card_says_where_and_how(card, there):
    assert interface_of(card, "") == there


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ({"supportedInterfaces": [5]}, "no interface over JSON-RPC"),
        ({"supportedInterfaces": [{**RPC, "url": "http://["}]}, 'has an address that is none: "http://\\["'),
        ({"preferredTransport": "GRPC", "additionalInterfaces": 5}, "no interface over JSON-RPC"),
        ({"url": "http://["}, "has an address that is none"),
    ],
)
def test_a_card_that_does_not_is_the_agents_fault(card, why):
    with pytest.raises(Broken, match=why):
        interface_of(card, "")


async def test_what_should_be_a_list_of_skills_and_is_none_has_no_skill(agent):
    agent.says(text='{"name": "a", "skills": 5}', content_type="application/json")
    finding = await agent.found(A2aGate(skills=("plan",)))
    assert (finding.verdict, "the card has no skill plan" in finding.why) == (Verdict.FAIL, True)
