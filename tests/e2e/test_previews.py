"""A color that is not active, reached on purpose: by the listener, by the token, and by nobody else in any spelling."""

from __future__ import annotations

import json
import socket
from hashlib import sha256

import pytest
from rig import Proxy, Rig, Serving, get, ok, post
from serving import Agent, Town

from bgproxy.proxy.listener import Listener
from bgproxy.proxy.options import PreviewOptions
from bgproxy.rules.release import Release

SECRET = "0123456789abcdef0123456789ABCDEF"
TOKEN = f"X-Bgproxy-Preview-Token: {SECRET}"
GREEN = "X-Bgproxy-Color: green"
SESSION = "X-Session-Id: s-1"


class World:
    """A proxy before two agents that say their color, and its preview's listener."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.blue = Serving(lambda _: ok(b"blue"))
        self.green = Serving(lambda _: ok(b"green"))
        self.listener: Listener | None = None

    async def start(self, **options: object) -> Proxy:
        preview = PreviewOptions(tokens=(sha256(SECRET.encode()).digest(),), **options)  # type: ignore[arg-type]
        green = (self.rig.agent(self.green),)
        presets = ["header:X-Session-Id", "mcp"]
        proxy = await self.rig.proxy(self.rig.agent(self.blue), green=green, sessions=presets, preview=preview)
        sock = socket.create_server(("127.0.0.1", 0))
        self.address = sock.getsockname()
        self.listener = Listener(proxy.plane, sock, preview=True)
        self.listener.start()
        return proxy

    async def by_listener(self, proxy: Proxy, request: bytes) -> tuple[int, str]:
        main, proxy.address = proxy.address, self.address
        try:
            answer = await proxy.ask(request)
        finally:
            proxy.address = main
        return answer.status, answer.body.decode()


@pytest.fixture
async def world(rig: Rig):
    world = World(rig)
    yield world
    if world.listener is not None:
        world.listener.stop()


async def says(proxy: Proxy, *fields: str) -> str:
    answer = await proxy.ask(get("/", *fields))
    assert answer.status == 200, answer
    return answer.body.decode()


HONOURED = {
    "both fields": (GREEN, TOKEN),
    "in any case": ("x-BGPROXY-color:green", f"X-BGPROXY-PREVIEW-TOKEN:\t{SECRET} "),
    "the token alone: the idle color": (TOKEN,),
}
NOT_HONOURED = {
    "no token": (GREEN,),
    "a wrong token": (GREEN, "X-Bgproxy-Preview-Token: 0123456789abcdef0123456789ABCDEX"),
    "the token in another case": (GREEN, f"X-Bgproxy-Preview-Token: {SECRET.lower()}"),
    "an empty token": (GREEN, "X-Bgproxy-Preview-Token:"),
    "two tokens": (GREEN, TOKEN, TOKEN),
    "a right one behind a wrong one": (GREEN, "X-Bgproxy-Preview-Token: x", TOKEN),
    "as CGI would read it": ("X_Bgproxy_Color: green", f"X_Bgproxy_Preview_Token: {SECRET}"),
    "in part as CGI would read it": (GREEN, f"X-Bgproxy-Preview_Token: {SECRET}"),
    "as a bearer": (GREEN, f"Authorization: Bearer {SECRET}"),
}


async def test_the_header_leads_there_for_those_with_the_token_and_reaches_no_agent(world: World) -> None:
    proxy = await world.start()
    for fields in HONOURED.values():
        assert await says(proxy, *fields) == "green", fields
    for fields in NOT_HONOURED.values():
        assert await says(proxy, *fields) == "blue", fields
    assert len(world.green.seen) == len(HONOURED)
    for request in (*world.blue.seen, *world.green.seen):
        assert b"x-bgproxy-" not in request.raw.lower().replace(b"_", b"-")
    assert (proxy.plane.counted["preview"], proxy.plane.counted["preview_wrong_token"]) == (3, 4)


async def test_a_preview_session_has_a_pin_like_any_other(world: World) -> None:
    proxy = await world.start()
    assert await says(proxy, SESSION) == "blue"
    assert await says(proxy, SESSION, GREEN, TOKEN) == "blue"  # it lives there already
    assert await says(proxy, "X-Session-Id: s-2", GREEN, TOKEN) == "green"
    assert await says(proxy, "X-Session-Id: s-2") == "green"  # its id is enough from now on
    assert {(pin.color, pin.release) for pin, _ in (await world.rig.pins.page("", 9))[0]} == {
        ("blue", "v1"),
        ("green", "v2"),
    }
    proxy.flip("green")
    proxy.flip("blue")
    assert await says(proxy, "X-Session-Id: s-2") == "green"


async def test_what_an_agent_mints_in_a_preview_stays_there(world: World) -> None:
    proxy = await world.start()
    world.green.reply = ok(b"green", b"Mcp-Session-Id: minted")
    hello = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}).encode()
    answer = await proxy.ask(post(hello, "Content-Type: application/json", GREEN, TOKEN, target="/mcp"), b"POST")
    assert answer.body == b"green"
    assert await says(proxy, "Mcp-Session-Id: minted") == "green"


async def test_the_listener_leads_there_without_more(world: World) -> None:
    proxy = await world.start(needs_token=False)
    assert await world.by_listener(proxy, get("/")) == (200, "green")
    assert await world.by_listener(proxy, get("/", SESSION)) == (200, "green")
    assert await says(proxy, SESSION) == "green"
    assert await says(proxy) == "blue"
    assert await world.by_listener(proxy, get("/", "X-Bgproxy-Color: blue")) == (200, "green")  # without the token
    assert await world.by_listener(proxy, get("/", "X-Bgproxy-Color: blue", TOKEN)) == (200, "blue")
    proxy.flip("green")
    assert await world.by_listener(proxy, get("/")) == (200, "blue")


async def test_where_others_reach_the_listener_it_wants_the_token(world: World) -> None:
    proxy = await world.start()
    for fields in ((), (GREEN,), ("X-Bgproxy-Preview-Token: guessed",)):
        status, body = await world.by_listener(proxy, get("/", *fields))
        assert (status, json.loads(body)["code"]) == (403, "preview_forbidden")
    assert await world.by_listener(proxy, get("/", TOKEN)) == (200, "green")
    assert not world.blue.seen


async def test_a_color_that_cannot_be_looked_at_is_an_honest_answer(world: World) -> None:
    proxy = await world.start()
    for color in ("mauve", "green, green"):
        answer = await proxy.ask(get("/", f"X-Bgproxy-Color: {color}", TOKEN))
        assert answer.status == 503
        assert b'"no_preview"' in answer.body
    assert proxy.plane.state is not None
    releases = {"blue": proxy.plane.state.releases["blue"]}
    proxy.apply(type(proxy.plane.state)(9, proxy.plane.state.pointer, releases, proxy.plane.state.colors))
    answer = await proxy.ask(get("/", TOKEN))
    assert (answer.status, json.loads(answer.body)["detail"]) == (
        503,
        "no color but the active one, blue, has a release",
    )
    assert await says(proxy) == "blue"


async def test_upstreams_that_are_down_are_said_to_be(world: World) -> None:
    proxy = await world.start()
    assert proxy.plane.state is not None
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    state = proxy.plane.state
    releases = {**state.releases, "green": Release("v3", (url,))}
    proxy.apply(type(state)(9, state.pointer, releases, state.colors))
    answer = await proxy.ask(get("/", TOKEN))
    assert (answer.status, json.loads(answer.body)["code"]) == (502, "agent_unreachable")


async def test_as_it_is_served(town: Town, agents: tuple[Agent, Agent], tmp_path) -> None:
    file = tmp_path / "preview.toml"
    file.write_text(f'preview.listen = "127.0.0.1:0"\n[[token]]\nname = "qa"\nrole = "preview"\nsecret = "{SECRET}"\n')
    file.chmod(0o600)
    serve = await town.serve(*agents, "--config", str(file))
    found = await serve.said(r"previews on 127\.0\.0\.1:(\d+)")
    assert await serve.ask() == (200, "v1")
    assert await serve.ask("/", TOKEN) == (200, "v2")
    code, _ = await serve.api("GET", "/v1/status")
    assert code == 200  # the token of a preview is none of the admin API's, which has none
    async with serve.session.get(f"http://127.0.0.1:{found[1]}/") as answer:
        assert (answer.status, await answer.text()) == (200, "v2")
    assert await serve.counted("bgproxy_session_previews_total") == 2
