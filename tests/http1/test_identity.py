"""Who the client is: what anyone says of it, what a trusted proxy says, and names that only look like others."""

from __future__ import annotations

import pytest
from heads import GET, HOST, Case, dropped, goes_on_exactly, means_the_same_to_agents

IDENTITY = [
    dropped(
        "what anyone says about the client",
        "X-Forwarded-For: 1.2.3.4",
        "x-forwarded-proto: https",
        "X-Forwarded-Host: a",
        "X-FORWARDED-PORT: 1",
        "X-Forwarded-Prefix: /a",
        "X-Real-IP: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
    ),
    dropped("our own fields", "X-Bgproxy-Color: green", "x-bgproxy-anything: 1"),
    dropped("request ids that are none", "X-Request-Id: a b"),
    dropped("an empty request id", "X-Request-Id:"),
    dropped("a request id without end", f"X-Request-Id: {'a' * 129}"),
    dropped("two request ids", "X-Request-Id: a", "X-Request-Id: b"),
    Case(
        "what a trusted proxy says about the client",
        (
            GET,
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Proto: HTTPS",
            "X-Forwarded-Host: Outside.test",
            HOST,
            "X-Forwarded-For:  5.6.7.8 ",
            "X-Forwarded-Port: 443",
            "X-Real-IP: 1.2.3.4",
            "Forwarded: for=1.2.3.4;By=x",
        ),
        (GET, HOST, "X-Forwarded-Port: 443", "X-Real-IP: 1.2.3.4"),
        {
            "forwarded_for": b"1.2.3.4, 5.6.7.8",
            "forwarded_proto": b"HTTPS",
            "forwarded_host": b"Outside.test",
            "forwarded": b"for=1.2.3.4;By=x",
        },
        trusted=True,
    ),
    Case(
        "what the client of a trusted proxy cannot name away",
        (
            GET,
            HOST,
            "Connection: X-Forwarded-For, X-Forwarded-Port, X-Real-IP",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Port: 443",
            "X-Real-IP: 1.2.3.4",
        ),
        (GET, HOST, "X-Forwarded-Port: 443", "X-Real-IP: 1.2.3.4"),
        {"forwarded_for": b"1.2.3.4"},
        trusted=True,
    ),
    Case("our own fields from a trusted proxy", (GET, HOST, "X-Bgproxy-Color: green"), (GET, HOST), trusted=True),
    Case(
        "what several trusted proxies say",
        (
            GET,
            HOST,
            "X-Forwarded-Proto: https",
            "x-forwarded-proto:http",
            "X-Forwarded-Host: a",
            "X-Forwarded-Host: b",
            "Forwarded: for=a",
            "Forwarded: for=b, for=c",
        ),
        (GET, HOST),
        {"forwarded_proto": b"https, http", "forwarded_host": b"a, b", "forwarded": b"for=a, for=b, for=c"},
        trusted=True,
    ),
    Case("nothing said by a trusted proxy", (GET, HOST), (GET, HOST), {"forwarded_for": b""}, trusted=True),
]

UNDERSCORES = [
    dropped("by default", "X_Token: 1", "a_b:2", "x_token: 3", "_: 4"),
    dropped("a name that begins as one that matters", "Host_: evil", "X_Forwarded-For: 1.2.3.4"),
    dropped("that begin as fields of ours", "X-Forwarded-A_B: 1", "X-Bgproxy-A_B: 1"),
    dropped("many", *[f"a_{n}: 1" for n in range(90)]),
    Case("by setting", (GET, HOST, "X_Token: 1"), (GET, HOST, "X_Token: 1"), parser={"underscores": "pass"}),
    Case(
        "that stand in for fields of ours",
        (
            GET,
            "X_Forwarded_For: 1",
            "X-Forwarded_Port: 1",
            "x_real_ip: 1",
            HOST,
            "Keep_Alive: 1",
            "X_Request_Id: 1",
            "X_Bgproxy_Color: 1",
            "A_B: 1",
        ),
        (GET, HOST, "A_B: 1"),
        {"has_request_id": False},
        trusted=True,
        parser={"underscores": "pass"},
    ),
]

every = pytest.mark.parametrize("case", [*IDENTITY, *UNDERSCORES], ids=lambda case: case.what)


@every
def test_what_goes_on_is_exactly_this(case: Case) -> None:
    goes_on_exactly(case)


@every
def test_an_independent_parser_sees_the_same_message(case: Case) -> None:
    means_the_same_to_agents(case)
