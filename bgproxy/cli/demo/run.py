"""One run of the demo: two agents, a proxy before them, clients on it, flips under their load, and the end of it all.

It promises that what the tally holds afterwards is what the clients saw, and that no process outlives it.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from bgproxy import tasks
from bgproxy.cli.demo.agent import READY_LINE
from bgproxy.cli.demo.clients import Load, everyone
from bgproxy.cli.demo.moves import Mover
from bgproxy.cli.demo.processes import Child, Family, NotStarted
from bgproxy.cli.demo.tally import PointerLog, Tally

RELEASES = {"blue": "v1", "green": "v2"}  # color → the release that stands there for the whole demo
START = "blue"

_START_TIMEOUT = 30.0  # seconds for a process to come up, on a busy machine too
_FINISH_TIMEOUT = 20.0  # seconds for the answers that are under way when the load stops; the rest is lost
_WARM_TIME = 0.5  # seconds of questions to the agents alone
_TICK_INTERVAL = 0.25  # seconds between two looks at the counts


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `seconds` is how long clients begin new questions, `clients` how many there are of each kind."""

    flips: int = 10
    seconds: float = 20.0
    clients: int = 4
    store: str = "memory://"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a run tells how it goes: a line for good, and a look at the counts several times a second."""

    say: Callable[[str], None]
    tick: Callable[[float], None]  # the seconds since the load began


async def run(plan: Plan, tally: Tally, family: Family, screen: Screen) -> None:
    """Set up, load, flip, stop. Raises NotStarted where a process does not come up; ends all of them in any case."""
    try:
        async with aiohttp.ClientSession() as http:
            agents = await asyncio.gather(*(_agent(family, release) for release in RELEASES.values()))
            upstreams = dict(zip(RELEASES, (url for _, url in agents), strict=True))
            for (child, url), (color, release) in zip(agents, RELEASES.items(), strict=True):
                screen.say(f"agent {release} ({color}) at {url}, pid {child.pid}")
            await asyncio.gather(*(_warm(upstreams[color], release) for color, release in RELEASES.items()))
            # A fleet of its own: in a shared store, the pointer and releases of others are none of the demo's business.
            fleet = f"demo-{secrets.token_hex(4)}"
            listen, admin = _free_address(), _free_address()
            proxy = await family.start("bgproxy serve", *_serve(plan, fleet, listen, admin, upstreams))
            mover = Mover(http, f"http://{admin}", tally, RELEASES)
            await proxy.until(mover.ready, _START_TIMEOUT)
            screen.say(f"bgproxy at http://{listen}, admin at http://{admin}, pid {proxy.pid}")
            if not plan.store.startswith("memory:"):
                screen.say(f"its fleet is {fleet}, of which two small keys stay in the store")
            await _load(plan, Load(f"http://{listen}", tally, plan.seconds), mover, screen)
            for child in (proxy, *(child for child, _ in agents)):
                if child.process.returncode is not None:
                    tally.problems.append(str(child.failed("it ended during the run")))
    finally:
        await family.end()


async def _agent(family: Family, release: str) -> tuple[Child, str]:
    child = await family.start(f"agent {release}", "-m", "bgproxy.cli.demo.agent", "--release", release)
    return child, await child.says(READY_LINE.format(release=release, url=""), _START_TIMEOUT)


async def _warm(url: str, release: str) -> None:
    """Ask the agent a little, without the proxy: first calls load and compile much, in the SDKs as in the agent, and
    would be told as the proxy's slowest. Raises NotStarted where the agent alone already loses answers."""
    tally = Tally(PointerLog(release))
    load = Load(url, tally, long_stream=0.0, think=0.01, word_every=0.001)
    clients = tasks.spawn(everyone(load, 2), f"demo-warm-{release}")
    try:
        await asyncio.sleep(_WARM_TIME)
        load.stopping = True
        await asyncio.wait([clients], timeout=_START_TIMEOUT)
    finally:
        await tasks.stop(clients)
    if tally.lost:
        raise NotStarted(f"agent {release} fails without the proxy: " + "; ".join(tally.details))


def _serve(plan: Plan, fleet: str, listen: str, admin: str, upstreams: dict[str, str]) -> list[str]:
    colors = [word for color, url in upstreams.items() for word in (f"--{color}", url)]
    where = ["--listen", listen, "--admin", admin, "--store", plan.store, "--workers", str(plan.workers)]
    return ["-m", "bgproxy", "serve", *where, *colors, "--active", START, "--fleet", fleet]


def _free_address() -> str:
    """An address on loopback that the kernel has just given out, and will not soon give out again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def _load(plan: Plan, load: Load, mover: Mover, screen: Screen) -> None:
    """The clients, the moves at even distances among their questions, and the last answers."""
    began = time.perf_counter()
    clients = tasks.spawn(everyone(load, plan.clients), "demo-clients")
    ticker = tasks.spawn(_tick(screen, began), "demo-ticker")
    try:
        gap = plan.seconds / (plan.flips + 2)
        for number in range(1, plan.flips + 1):
            await _reach(began + gap * number)
            screen.say(f"{number * gap:5.1f} s  {number}/{plan.flips}: {await mover.flip()}")
        await _reach(began + gap * (plan.flips + 1))
        screen.say(f"{gap * (plan.flips + 1):5.1f} s  {await mover.rollback()}")
        await _reach(began + plan.seconds)
        load.stopping = True
        await asyncio.wait([clients], timeout=_FINISH_TIMEOUT)
        if clients.done():
            clients.result()  # a client that died of an error of its own is a bug, not a lost answer
    finally:
        # What is open still is counted by being ended.
        await tasks.stop(clients, ticker)


async def _reach(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))


async def _tick(screen: Screen, began: float) -> None:
    while True:
        screen.tick(time.perf_counter() - began)
        await asyncio.sleep(_TICK_INTERVAL)
