"""Which requests are repeated, what goes along, and what the lot proves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bgproxy.rules.comparing import Mirror
from bgproxy.rules.gate import Verdict
from bgproxy.rules.mirrored import EXAMPLE_CHARACTERS, EXAMPLES, Repeating, Tally, judge, tally_from

LISTING = Repeating(Mirror(rpc=("tools/list", "prompts/list")))


@pytest.mark.parametrize(
    ("mirror", "method", "path", "may"),
    [
        (Mirror(), "GET", "/anything", True),
        (Mirror(), "POST", "/mcp", False),
        (Mirror(), "DELETE", "/mcp", False),
        (Mirror(rpc=("tools/list",)), "POST", "/mcp", True),
        (Mirror(paths=("/v1/", "/mcp")), "GET", "/v1/models", True),
        (Mirror(paths=("/v1/", "/mcp")), "GET", "/v2/models", False),
    ],
)
def test_by_the_first_line(mirror: Mirror, method: str, path: str, may: bool) -> None:
    assert Repeating(mirror).may(method, path) is may


def rpc(*methods: str) -> Any:
    return [{"jsonrpc": "2.0", "id": number, "method": name} for number, name in enumerate(methods)]


@pytest.mark.parametrize(
    ("document", "repeats"),
    [
        (rpc("tools/list")[0], True),
        (rpc("tools/call")[0], False),
        (rpc("tools/list", "prompts/list"), True),
        (rpc("tools/list", "tools/call"), False),  # one of them is not safe
        ([], False),
        ({"method": "tools/list"}, False),
        ("jsonrpc tools/list", False),
    ],
)
def test_by_the_method_in_the_body(document: Any, repeats: bool) -> None:
    assert LISTING.repeats("POST", json.dumps(document).encode(), []) is repeats


def test_a_body_that_is_no_json_is_not_repeated() -> None:
    assert not LISTING.repeats("POST", b'{"jsonrpc": "2.0", "method": "tools/list"', [])


@pytest.mark.parametrize("name", ["Range", "If-None-Match", "If-Modified-Since", "If-Match"])
def test_a_question_for_a_part_or_on_a_condition_is_another_one(name: str) -> None:
    assert LISTING.repeats("GET", b"", [("Accept", "*/*")])
    assert not LISTING.repeats("GET", b"", [(name, "x")])


LIVE = [
    ("Host", "agents.test"),
    ("Accept", "application/json"),
    ("Authorization", "Bearer a"),
    ("Cookie", "session=1234; theme=dark"),
    ("X-Bgproxy-Mirror", "no"),
    ("X-Request-Id", "r1"),
    ("traceparent", "00-1"),
    ("Transfer-Encoding", "chunked"),
    ("Idempotency-Key", "k"),
    ("mcp-session-id", "s-1"),
]


def along(mirror: Mirror, *ids: str, more: dict[str, str] | None = None) -> list[tuple[str, str]] | None:
    return Repeating(mirror).fields(LIVE, ids, more or {})


def test_what_goes_along() -> None:
    kept = ["Host", "Accept", "Authorization", "mcp-session-id"]
    assert [name for name, _ in along(Mirror()) or []] == [*kept, "X-Bgproxy-Mirror"]
    assert (along(Mirror()) or [])[-1] == ("X-Bgproxy-Mirror", "1")
    bare = along(Mirror(credentials=()), more={"Accept": "text/plain"}) or []
    assert bare == [
        ("Host", "agents.test"),
        ("mcp-session-id", "s-1"),
        ("Accept", "text/plain"),
        ("X-Bgproxy-Mirror", "1"),
    ]
    assert ("Cookie", "session=1234; theme=dark") in (along(Mirror(credentials=("cookie",))) or [])


def test_a_session_stays_where_it_is() -> None:
    assert along(Mirror(), "s-1") is None
    without = along(Mirror(sessions=True), "s-1")
    assert without is not None
    assert "mcp-session-id" not in dict(without)
    assert along(Mirror(sessions=True), "s-1", "in-the-body") is None  # it cannot be taken away
    of_a_cookie = along(Mirror(sessions=True, credentials=("cookie",)), "1234")
    assert of_a_cookie is not None
    assert "Cookie" not in dict(of_a_cookie)


def node(compared: int = 0, **more: Any) -> Tally:
    return Tally(compared=compared, **more)


@pytest.mark.parametrize(
    ("nodes", "verdict", "why"),
    [
        ([node(60)], Verdict.PASS, "60 answers compared"),
        ([node(30), node(20)], Verdict.PASS, "50 answers compared"),
        ([node(49)], Verdict.UNDECIDED, "49 requests were mirrored, 50 are needed"),
        ([], Verdict.UNDECIDED, "0 requests were mirrored"),
        ([], Verdict.UNDECIDED, "let more be mirrored (methods, rpc, paths, sessions, share, max_rate)"),
        ([node(60, differed=1, examples=["GET /a: /b is gone"])], Verdict.FAIL, "1 of 60 mirrored requests were answ"),
        ([node(60, failed=1)], Verdict.FAIL, "1 of 61 mirrored requests got no whole answer"),
        ([node(0, failed=80)], Verdict.FAIL, "80 of 80"),
        ([node(100, slow=5)], Verdict.PASS, "100"),
        ([node(100, slow=6)], Verdict.FAIL, "6 of 100 mirrored requests were answered too slowly, 0.05 is the limit"),
        ([node(60, dropped=1_000)], Verdict.PASS, "60"),
    ],
)
def test_judgement(nodes: list[Tally], verdict: Verdict, why: str) -> None:
    found = judge(Mirror(), {f"n{number}": one for number, one in enumerate(nodes)})
    assert found.verdict is verdict, found
    assert why in found.why
    assert found.evidence["compared"] == sum(one.compared for one in nodes)


def test_some_may_differ_where_the_plan_says_so() -> None:
    mirror = Mirror(max_differing=0.1, max_failed=0.1)
    assert judge(mirror, {"n": node(90, differed=9, failed=10)}).verdict is Verdict.PASS
    assert judge(mirror, {"n": node(90, differed=10, failed=10)}).verdict is Verdict.FAIL


def test_a_tally_keeps_few_short_examples_and_travels() -> None:
    tally = Tally()
    for number in range(EXAMPLES + 2):
        tally.note(f"GET /{number}", ["x" * 1_000], slow=number == 0)
    tally.fail("GET /", "no answer")
    tally.note("GET /", [], slow=False)
    assert (tally.compared, tally.differed, tally.slow, tally.failed) == (EXAMPLES + 3, EXAMPLES + 2, 1, 1)
    assert [len(text) for text in tally.examples] == [EXAMPLE_CHARACTERS] * EXAMPLES
    assert tally_from(json.loads(json.dumps(tally.document()))) == tally


@pytest.mark.parametrize("said", [{}, {"compared": "many", "examples": 5}, {"compared": -1, "examples": [1, None]}])
def test_what_another_version_says_is_not_believed(said: dict[str, Any]) -> None:
    assert tally_from(said) == Tally()


def test_what_an_agent_calls_its_members_never_keeps_a_node_from_telling() -> None:
    tally = Tally()
    tally.note("GET /", ["/\ud83d is gone"], slow=False)
    assert tally.document()["examples"] == ["GET /: /? is gone"]
