"""One request to one upstream, and what came back: as much of it as a judge needs, and never more than is kept.

Whatever goes wrong is words in the answer, no exception: an agent that is down is a finding.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from bgproxy import __version__
from bgproxy.rollout.health import words
from bgproxy.rules.gate import Answer

KEPT_BYTES = 1_048_576  # of a body
MOST_EVENTS = 10_000
MOST_EVENT_CHARACTERS = 8_388_608  # of all events' data together
CLOSE_TIMEOUT = 1.0  # seconds for an agent to say goodbye
AGENT = f"bgproxy-gate/{__version__}"

Enough = Callable[[Sequence[str]], bool]


class Upstream:
    """One agent address, spoken to beside the proxy."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session
        self._base = "http://localhost" if url.startswith("unix:") else url

    async def ask(
        self,
        method: str,
        path: str,
        *,
        fields: Mapping[str, str] | Sequence[tuple[str, str]],
        body: bytes = b"",
        timeout: float,
        enough: Enough | None = None,
    ) -> Answer:
        """Send it and read the answer. `enough`: told the server-sent events so far, says when to stop reading."""
        reading = _Reading(perf_counter(), enough)
        try:
            async with asyncio.timeout(timeout):
                url = URL(self._base + path, encoded=True)
                asked = self._session.request(method, url, headers=fields, data=body or None, allow_redirects=False)
                async with asked as answer:
                    await reading.read(answer)
        except TimeoutError:
            what = "no whole answer" if reading.status else "no answer"
            return reading.answer(f"{what} within {timeout:g} s")
        except (OSError, aiohttp.ClientError, ValueError) as error:
            what = words(error)
            return reading.answer(f"the answer broke off: {what}" if reading.status else what)
        return reading.answer()

    def socket(
        self, path: str, *, fields: Mapping[str, str], subprotocols: Sequence[str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """A WebSocket for as long as the block runs. Raises aiohttp's errors."""
        return self._session.ws_connect(
            URL(self._base + path, encoded=True),
            headers=fields,
            protocols=subprotocols,
            autoping=False,
            max_msg_size=KEPT_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
        )


@asynccontextmanager
async def upstream(url: str) -> AsyncIterator[Upstream]:
    """An upstream for as long as the block runs; its connections are closed at the end."""
    unix = url.startswith("unix:")
    connector = aiohttp.UnixConnector(urlsplit(url).path) if unix else aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": AGENT}
    ) as session:
        yield Upstream(url, session)


def json_body(value: object) -> bytes:
    """A value as it is sent."""
    return json.dumps(value, ensure_ascii=False).encode()


def request_body(gate: Any, fields: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """The fields and the body of a gate that has `json` and `body`."""
    names = {name.lower() for name in fields}
    own = {"Host": gate.host} if gate.host else {}
    if gate.json is None:
        return {**own, **fields}, gate.body.encode()
    kind = {} if "content-type" in names else {"Content-Type": "application/json"}
    return {**own, **kind, **fields}, json_body(gate.json)


def fault_of(answer: Answer, expected: Container[int]) -> str:
    """What kind of error an answer is, where only its status counts; empty where it is none."""
    if answer.trouble:
        return answer.trouble[:100]
    return "" if answer.status in expected else f"status {answer.status}"


class _Reading:
    """An answer while it comes in."""

    def __init__(self, began: float, enough: Enough | None) -> None:
        self.status = 0
        self._began = began
        self._enough = enough
        self._fields: list[tuple[str, str]] = []
        self._body = bytearray()
        self._size = 0
        self._first_byte = 0.0
        self._events = Events()

    async def read(self, answer: aiohttp.ClientResponse) -> None:
        self.status = answer.status
        self._fields = list(answer.headers.items())
        streamed = answer.content_type == "text/event-stream"
        async for chunk in answer.content.iter_any():
            self._first_byte = self._first_byte or perf_counter() - self._began
            self._size += len(chunk)
            self._body += chunk[: KEPT_BYTES - len(self._body)]
            if streamed:
                self._events.feed(chunk)
                if self._enough is not None and self._enough(self._events.found):
                    return
                if self._events.is_full:
                    return

    def answer(self, trouble: str = "") -> Answer:
        latency = perf_counter() - self._began
        return Answer(
            status=self.status,
            fields=self._fields,
            body=bytes(self._body),
            size=self._size,
            latency=latency,
            first_byte=self._first_byte or latency,
            events=tuple(self._events.found),
            trouble=trouble,
        )


class Events:
    """The data of server-sent events (WHATWG HTML §9.2.6), from bytes as they come."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._rest = b""
        self._data: list[str] = []
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether no more is to be kept."""
        return len(self.found) >= MOST_EVENTS or self._size >= MOST_EVENT_CHARACTERS

    def feed(self, chunk: bytes) -> None:
        """Take more bytes. A line that never ends is given up at what is kept of a body."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[:KEPT_BYTES]
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line and self._data:
                self.found.append("\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" ").decode(errors="replace"))
                self._size += len(self._data[-1]) + 1
