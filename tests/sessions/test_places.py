"""Places that an operator names: a field, a cookie, a query parameter, a piece of the path, a member of the body."""

import pytest
from turns import recogniser, sighted, turn

from bgproxy.sessions.keys import MAX_KEYS, credentials_hash


def get(target: str, *fields: str) -> str:
    return "\n".join((f"GET {target} HTTP/1.1", *fields, "", ""))


def post(body: str, kind: str = "application/json", *fields: str) -> str:
    return "\n".join(("POST /x HTTP/1.1", f"Content-Type: {kind}", *fields, "", body))


OK = "HTTP/1.1 200 OK\n"


def test_a_field_is_named_in_any_case_and_learned_from_the_answer() -> None:
    of = recogniser("header:X-Session-Id")
    assert turn(get("/", "x-SESSION-id: a.B"), of=of).keys == [("header:x-session-id", b"a.B")]
    assert turn(get("/"), OK + "X-Session-Id: a.B\n\n", of=of).minted == [("header:x-session-id", b"a.B")]


def test_a_named_field_goes_before_every_protocol_and_keeps_the_body_unread() -> None:
    of = recogniser("a2a", "header:X-Session-Id")
    body = '{"params":{"message":{"taskId":"t","contextId":"c"}}}'
    seen = turn(post(body, "application/json", "X-Session-Id: s"), of=of)
    assert (seen.keys, seen.preset, seen.read) == ([("header:x-session-id", b"s")], "header:X-Session-Id", 0)
    assert turn(post(body), of=of).preset == "a2a"


@pytest.mark.parametrize(
    "field",
    [
        "sid=abc",
        "a=b; sid=abc; c=d",
        "a=sid=x; sid=abc",
        'sid="abc"',
        "xsid=1;sid=abc",
        "sid=abc; sid=other",
        "SID=x; sid = abc",
    ],
)
def test_a_cookie_is_found_among_others(field: str) -> None:
    assert turn(get("/", f"Cookie: {field}"), of=recogniser("cookie:sid")).keys == [("cookie:sid", b"abc")]


@pytest.mark.parametrize("field", ["", "xsid=abc", "sidx=abc", "a=sid", "sid=", "sid", 'sid=""'])
def test_a_cookie_that_is_not_there_is_none(field: str) -> None:
    assert turn(get("/", f"Cookie: {field}"), of=recogniser("cookie:sid")).keys == []


def test_a_cookie_is_learned_where_the_agent_sets_it() -> None:
    of = recogniser("cookie:sid")
    answer = OK + "Set-Cookie: other=1; Path=/\nSet-Cookie: sid=abc; Path=/; HttpOnly\nSet-Cookie: x=1; sid=no\n\n"
    assert turn(get("/"), answer, of=of).minted == [("cookie:sid", b"abc")]


def test_a_cookie_of_our_own_is_asked_for_where_the_client_has_none() -> None:
    of = recogniser("cookie", "mcp")
    assert sighted(of, get("/"))[0].own_cookie == b"bgproxy_session"
    known, _ = sighted(of, get("/", "Cookie: bgproxy_session=abc"))
    assert (known.own_cookie, [(key.space, key.value) for key in known.keys]) == (b"", [("cookie", b"abc")])
    assert sighted(of, get("/", "Mcp-Session-Id: a"))[0].own_cookie == b""
    task = '{"method":"tasks/get","params":{"taskId":"t"}}'
    assert sighted(of, post(task))[0].own_cookie == b""
    assert sighted(of, post("{}"))[0].own_cookie == b"bgproxy_session"
    assert sighted(recogniser("mcp"), get("/"))[0].own_cookie == b""


@pytest.mark.parametrize("query", ["s=a%2Db", "x=1&s=a-b", "s=a-b&s=other", "s=a-b#f", "xs=1&s=a-b"])
def test_a_query_parameter(query: str) -> None:
    assert turn(get(f"/any?{query}"), of=recogniser("query:s")).keys == [("query:s", b"a-b")]


@pytest.mark.parametrize("query", ["", "xs=a", "s", "s=", "S=a", "s=a%20b", "s=%00", "s=%E9"])
def test_a_query_parameter_that_is_none(query: str) -> None:
    assert turn(get(f"/any?{query}"), of=recogniser("query:s")).keys == []


@pytest.mark.parametrize(
    "template", ["path:/agents/{id}", "path:/agents/{id}/…", "path:/agents/{id}/...", "path:/agents/{id}/*"]
)
@pytest.mark.parametrize("path", ["/agents/a-7", "/agents/a%2d7/", "/agents/a-7/x/y?z=/agents/b"])
def test_a_piece_of_the_path(template: str, path: str) -> None:
    assert turn(get(path), of=recogniser(template)).keys == [(template, b"a-7")]


@pytest.mark.parametrize(
    "path", ["/agents", "/agents/", "/x/agents/a-7", "/agentsx/a-7", "/agents//x", "/agents?x=/agents/a"]
)
def test_another_path(path: str) -> None:
    assert turn(get(path), of=recogniser("path:/agents/{id}/…")).keys == []


def test_a_path_may_have_what_several_presets_look_for() -> None:
    of = recogniser("path:/api/v1/{name}", "openai")
    keys = turn(get("/api/v1/conversations/conv_1"), of=of).keys
    assert keys == [("path:/api/v1/{name}", b"conversations"), ("openai.conversation", b"conv_1")]


def test_several_pieces_are_one_id() -> None:
    of = recogniser("path:/t/{tenant}/a.b/{id}")
    assert [value for _, value in turn(get("/t/x/a.b/y/z"), of=of).keys] == [b"x y"]
    assert turn(get("/t/x/aXb/y"), of=of).keys == []


@pytest.mark.parametrize(
    ("pointer", "body"),
    [
        ("/session/id", '{"x":[1],"session":{"n":null,"id":"s-1"},"after":1}'),
        ("/a~1b/m~0n", '{"a/b":{"m~n":"s-1"}}'),
        ("/items/1/id", '{"items":[{"id":"no"},{"id":"s-1"},{"id":"no"}]}'),
        ("/sitzung/schlüssel", '{"sitzung":{"schl\\u00fcssel":"s-1"}}'),
        ("/sitzung/schlüssel", '{"sitzung":{"schlüssel":"s\\u002d1"}}'),
    ],
)
def test_a_member_of_the_body(pointer: str, body: str) -> None:
    assert turn(post(body), of=recogniser(f"json:{pointer}")).keys == [(f"json:{pointer}", b"s-1")]


def test_a_whole_number_is_an_id_as_it_is_written() -> None:
    of = recogniser("json:/id")
    assert turn(post('{"id":42}'), of=of).keys == turn(post('{"id":"42"}'), of=of).keys == [("json:/id", b"42")]
    for other in ("4.2", "true", "null", "4e2", "{}", "[42]", "9" * 70):
        assert turn(post(f'{{"id":{other}}}'), of=of).keys == []


def test_each_member_that_is_named_is_read_for_and_a_protocol_beside_them() -> None:
    of = recogniser("json:/user", "json:/session", "a2a")
    body = '{"user":"u","message":{"taskId":"t","contextId":"c"},"session":"s","rest":[]}'
    seen = turn(post(body), of=of)
    assert [value for _, value in seen.keys] == [b"u", b"s", b"t", b"c"]
    assert seen.read == len(body) - len(',"rest":[]}')


def test_credentials_are_the_last_resort() -> None:
    of = recogniser("credentials", "mcp")
    field = "Authorization: Bearer sk-secret"
    key = ("credentials", credentials_hash(b"Bearer sk-secret").hex().encode())
    assert turn(get("/", field), of=of).keys == [key]
    assert turn(get("/", field, "Mcp-Session-Id: a"), of=of).keys == [("mcp", b"a"), key]
    assert turn(get("/", "Authorization: "), of=of).keys == []


# What is not read


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP ", "identity, gzip", "x"])
def test_a_compressed_body_is_not_read(encoding: str) -> None:
    seen = turn(post('{"id":1}', "application/json", f"Content-Encoding: {encoding}"), of=recogniser("json:/id"))
    assert (seen.keys, seen.unread, seen.read) == ([], "compressed", 0)


def test_one_that_is_not_is() -> None:
    seen = turn(post('{"id":1}', "application/json", "Content-Encoding: identity"), of=recogniser("json:/id"))
    assert (len(seen.keys), seen.unread) == (1, "")


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/octet-stream", "application/jsonx", ""]
)
def test_what_does_not_say_that_it_is_json_is_not_read(kind: str) -> None:
    seen = turn(post('{"id":1}', kind), of=recogniser("json:/id"))
    assert (seen.keys, seen.unread, seen.read) == ([], "not_json", 0)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON ; charset=utf-8", "application/a2a+json", "text/json"]
)
def test_what_says_so_is(kind: str) -> None:
    assert len(turn(post('{"id":1}', kind), of=recogniser("json:/id")).keys) == 1


def test_what_says_so_and_is_not_is_left_at_its_first_byte() -> None:
    seen = turn(post("\x1f\x8b\x08" + "x" * 100), of=recogniser("json:/id"))
    assert (seen.keys, seen.unread, seen.read) == ([], "not_json", 1)


@pytest.mark.parametrize(("spaces", "unread"), [(0, ""), (85, ""), (86, "oversized"), (4_000, "oversized")])
def test_a_body_is_read_to_the_limit(spaces: int, unread: str) -> None:
    of = recogniser("json:/id", inspect_bytes=100)
    body = '{"x":1' + " " * spaces + ',"id":"a"}'
    seen = turn(post(body + "\n" * 300), of=of)
    assert (len(seen.keys), seen.unread) == ((0, unread) if unread else (1, ""))
    assert seen.read <= 100


def test_what_was_found_before_the_limit_counts() -> None:
    of = recogniser("a2a", inspect_bytes=100)
    body = '{"params":{"message":{"contextId":"c","parts":["' + "x" * 100 + '"],"taskId":"t"}}}'
    seen = turn(post(body), of=of)
    assert (seen.keys, seen.unread) == ([("a2a.context", b"c")], "oversized")


def test_a_body_that_is_cut_off_tells_what_it_has_told() -> None:
    assert turn(post('{"message":{"contextId":"c"'), of=recogniser("a2a")).keys == [("a2a.context", b"c")]


def test_a_batch_of_thousands_gives_a_few_keys() -> None:
    body = "[" + ",".join(f'{{"message":{{"contextId":"c{n}"}}}}' for n in range(2_000)) + "]"
    keys = turn(post(body), of=recogniser("a2a")).keys
    assert keys == [("a2a.context", b"c%d" % n) for n in range(MAX_KEYS)]


@pytest.mark.parametrize("bad", ["", "two words", "x" * 513, "\\u0000", "\\n", "é", "\\ud800", "\\q", "x" * 50_000])
def test_a_member_that_can_be_no_id_is_ignored_and_counted(bad: str) -> None:
    of = recogniser("json:/id")
    sighting, _ = sighted(of, post(f'{{"id":"{bad}"}}'))
    assert (sighting.keys, sighting.ignored) == ([], 1)
    assert turn(post(f'{{"id":"{bad}"}}'), of=of).keys == []
