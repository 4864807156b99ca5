"""Topics are forgotten some time after the last word on them, in either store."""

from __future__ import annotations

import pytest

from bgproxy.store.base import StoreOptions, open_store
from bgproxy.store.topics import TOPIC_TTL, TopicTable


def test_a_topic_is_kept_while_anybody_tells_of_it():
    now = 100.0
    topics = TopicTable(lambda: now)
    topics.tell("a", "one", "1")
    topics.tell("b", "one", "1")
    now += TOPIC_TTL - 1
    topics.tell("a", "two", "2")
    now += TOPIC_TTL - 1
    assert topics.told("a") == {"one": "1", "two": "2"}, "the last words of those who are gone too"
    assert topics.told("b") == {}
    now += 1
    assert topics.told("a") == {}
    topics.tell("c", "one", "1")
    assert [*topics._topics] == ["c"], "what is forgotten takes no room"


@pytest.mark.redis
async def test_in_redis_too(redis_server, fleet_name):
    store = open_store(StoreOptions(url=redis_server.url, fleet=fleet_name))
    await store.tell("a", "one", "1")
    left = redis_server.command("PTTL", f"bgproxy:{{{fleet_name}}}:topic:a")
    assert 0.9 * TOPIC_TTL < int(left.strip().removeprefix(b":")) / 1000 <= TOPIC_TTL
    await store.close()
