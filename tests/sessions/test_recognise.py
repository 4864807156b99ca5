"""Keys in heads: fields, cookies, query parameters, paths; what a head settles, and what ends a session."""

import pytest

from bgproxy.sessions.keys import MAX_KEYS, Key
from bgproxy.sessions.presets import DEFAULT_PRESETS
from bgproxy.sessions.recognise import Recogniser, Sighting
from bgproxy.sessions.spec import preset_named


def recogniser(*names: str) -> Recogniser:
    return Recogniser([preset_named(name) for name in names or DEFAULT_PRESETS])


def see(
    of: Recogniser, target: bytes = b"/", *marks: tuple[bytes, bytes], method: bytes = b"GET", upgrade: bytes = b""
) -> Sighting:
    assert {name for name, _ in marks} <= of.request_fields
    return of.request(method, target, marks, False, upgrade)


def values(sighting: Sighting) -> list[tuple[str, bytes]]:
    return [(key.space, key.value) for key in sighting.keys]


DEFAULT = recogniser()


def test_a_field_is_a_key_as_it_was_sent_but_for_the_space_around_it() -> None:
    sighting = see(DEFAULT, b"/mcp", (b"mcp-session-id", b"1868a90C-af \t"[:10] + b" \t"))
    assert sighting.keys == [Key("mcp", b"1868a90C-a", 5)]
    assert (sighting.preset, sighting.sticky_host, sighting.minting) == ("mcp", True, False)


def test_a_request_without_any_mark_has_no_key_and_may_still_mint_one() -> None:
    sighting = see(DEFAULT)
    assert (sighting.keys, sighting.preset, sighting.body, sighting.minting) == ([], "", None, True)


@pytest.mark.parametrize("bad", [b"", b" ", b"a b", b"a" * 513, b"\xe9", b"a\x00", b"a\x7f"])
def test_what_is_no_id_is_ignored_and_counted(bad: bytes) -> None:
    sighting = see(DEFAULT, b"/mcp", (b"mcp-session-id", bad))
    assert (sighting.keys, sighting.ignored, sighting.preset) == ([], 1, "")


def test_the_longest_id_is_one() -> None:
    assert values(see(DEFAULT, b"/", (b"mcp-session-id", b"a" * 512))) == [("mcp", b"a" * 512)]


def test_of_thousands_of_ids_the_first_is_taken() -> None:
    marks = [(b"mcp-session-id", b"%d" % n) for n in range(5_000)]
    sighting = see(DEFAULT, b"/", *marks)
    assert (values(sighting), sighting.ignored) == ([("mcp", b"0")], 4_999)


@pytest.mark.parametrize("piece", [b"/tasks/a", b"/threads/a", b"/threads/", b"/run", b"/v1/threads"])
def test_a_path_of_a_thousand_pieces_is_looked_at_as_one(piece: bytes) -> None:
    sighting = recogniser("a2a", "langgraph", "adk", "openai").request(b"GET", piece * 1_000, (), False, b"")
    assert sighting.ignored == 0
    assert len(sighting.keys) <= 2


def test_of_ids_of_many_kinds_a_few_are_taken_the_most_specific_first() -> None:
    many = recogniser(*(f"cookie:c{n}" for n in range(20)), "mcp")
    cookies = b"; ".join(b"c%d=v" % n for n in range(20))
    keys = see(many, b"/", (b"cookie", cookies), (b"mcp-session-id", b"m")).keys
    assert [key.space for key in keys] == ["mcp", *(f"cookie:c{n}" for n in range(MAX_KEYS - 1))]


@pytest.mark.parametrize(("status", "over"), [(200, False), (404, True), (500, False)])
def test_a_404_ends_an_mcp_session(status: int, over: bool) -> None:
    assert see(DEFAULT, b"/mcp", (b"mcp-session-id", b"a"), method=b"POST").ends(status) is over


def test_a_404_without_a_session_ends_nothing() -> None:
    assert not see(DEFAULT, b"/mcp").ends(404)


@pytest.mark.parametrize(("status", "over"), [(200, True), (204, True), (404, True), (405, False)])
def test_a_delete_ends_an_mcp_session_where_the_agent_allows_it(status: int, over: bool) -> None:
    assert see(DEFAULT, b"/mcp", (b"mcp-session-id", b"a"), method=b"DELETE").ends(status) is over


def test_a_websocket_is_a_session_without_any_key() -> None:
    sighting = see(DEFAULT, b"/chat", upgrade=b"websocket")
    assert (sighting.connection, sighting.keys, sighting.preset) == (True, [], "websocket")
    assert not see(recogniser("mcp"), b"/chat", upgrade=b"websocket").connection


def test_an_answer_mints_by_its_head() -> None:
    learner = see(DEFAULT, b"/mcp", method=b"POST").response(200, [(b"mcp-session-id", b"abc")])
    assert learner is not None
    assert learner.keys == [Key("mcp", b"abc", 5)]


def test_a_refusal_mints_nothing() -> None:
    assert see(DEFAULT, b"/mcp", method=b"POST").response(400, [(b"mcp-session-id", b"abc")]) is None
