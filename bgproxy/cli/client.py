"""Talks HTTP to the admin API, for the verbs that ask it something.

`http.client` of the standard library, not aiohttp: a verb makes one request and ends, and importing aiohttp alone would
take longer than everything else that it does. Workers share a port, and the kernel gives a connection to one that is
stopped as to any other: so each is asked for a sign of life first, and nothing else is sent where none comes.

Promises: whatever goes wrong is `Unreachable` or `RefusedByApi`, no text holds the token, and no proxy of the
environment is used: the admin API is near, and the token is nobody else's.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

from bgproxy import __version__
from bgproxy.errors import TYPE_PREFIX, BgproxyError, ConfigError

DEFAULT_ADMIN = "http://127.0.0.1:9900"
ANSWER_TIMEOUT = 60.0  # s; a flip waits for the target's readiness, everything else takes milliseconds
KNOCK_TIMEOUT = 0.5  # s, for a sign of life; then another connection is tried, which another worker may get
KNOCKS = 12  # of two workers, one of them stopped, all of these meet the stopped one in 1 of 4,096 calls
LAST_KNOCK_TIMEOUT = 10.0  # s; the last one waits longer, for a host that is busy
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024  # of an event stream

_TOKEN = re.compile(r"[!-~]+")
_KEY = re.compile(r"[ !#-\[\]-~]{1,255}")


class Unreachable(BgproxyError):
    """Nothing answers at the admin URL, or what answers is no bgproxy."""


class RefusedByApi(BgproxyError):
    """The admin API said no; `problem` is its problem document (RFC 9457)."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or "refused"))
        self.problem = problem


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)  # the name that the admin API knows itself by there
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Admin:
    """One admin API by its URL: `http://host:port`, `https://…`, `host:port` or `unix:/path`. Raises ConfigError."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.replayed = False  # the last answer told what was done before, under the same idempotency key
        self._socket_path = self._prefix = ""
        if url.startswith("unix:"):
            self._socket_path = url.removeprefix("unix:").removeprefix("//")
            if not self._socket_path.startswith("/"):
                raise ConfigError(
                    f"--admin {url}: a socket's path is absolute; write for example unix:/run/bgproxy.sock"
                )
        else:
            self._split(url)
        if token and not _TOKEN.fullmatch(token):
            raise ConfigError("--token: this is no bearer token, it has spaces or control characters; copy it anew")
        self._fields = {"Accept": "application/json", "User-Agent": f"bgproxy/{__version__}"}
        if token:
            self._fields["Authorization"] = f"Bearer {token}"

    def _split(self, url: str) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"--admin {url}: {error}; write for example {DEFAULT_ADMIN}") from None
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
            raise ConfigError(f"--admin {_without_user(url)}: this is no admin URL; write for example {DEFAULT_ADMIN}")
        self._tls, self._host, self._port, self._prefix = parts.scheme == "https", host, port, parts.path.rstrip("/")

    def get(self, path: str, *, expect: str, **query: object) -> dict[str, Any]:
        """The JSON at a path. `expect`: a member that a bgproxy's answer always has."""
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None, expect)

    def post(self, path: str, body: Mapping[str, Any], *, expect: str, key: str = "") -> dict[str, Any]:
        """Ask for a change. `key`: an idempotency key; `replayed` says then whether it was done at an earlier time."""
        return self._ask("POST", path, body, expect, key)

    def put(self, path: str, body: Mapping[str, Any], *, expect: str, key: str = "") -> dict[str, Any]:
        """Ask for a resource to be as in `body`. `key`: as with `post`."""
        return self._ask("PUT", path, body, expect, key)

    def delete(self, path: str, *, expect: str, **query: object) -> dict[str, Any]:
        """Ask for a resource to be gone."""
        return self._ask("DELETE", f"{path}?{urlencode(query)}" if query else path, None, expect)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, expect: str, key: str = ""
    ) -> dict[str, Any]:
        if key and not _KEY.fullmatch(key):
            raise ConfigError(
                f"--idempotency-key {key!r}: this is none; write 1 to 255 visible ASCII characters, none of them a "
                "quote or backslash"
            )
        connection = self._awake(ANSWER_TIMEOUT)
        try:
            answer = self._send(connection, method, path, body, {"Idempotency-Key": f'"{key}"'} if key else {})
            document = self._document(answer)
        finally:
            connection.close()
        if answer.status >= 400:
            raise self._problem(answer, document)
        if answer.status != 200 or not isinstance(document, dict) or expect not in document:
            raise self._stranger(answer)
        self.replayed = answer.headers.get("Idempotency-Replayed") == "true"
        return document

    def stream(self, path: str, silence_timeout: float, last_event_id: str = "") -> Iterator[str]:
        """The lines of an event stream until it ends; Unreachable where it breaks or says nothing for so long."""
        connection = self._awake(silence_timeout)
        fields = {"Accept": "text/event-stream"}
        if last_event_id:
            fields["Last-Event-ID"] = last_event_id
        try:
            answer = self._send(connection, "GET", path, None, fields)
            if answer.status >= 400:
                raise self._problem(answer, self._document(answer))
            if answer.headers.get_content_type() != "text/event-stream":
                raise self._stranger(answer)
            while True:
                with self._reading():
                    line = answer.readline(MAX_LINE_BYTES)
                if not line:
                    return
                yield line.decode("utf-8", "replace").rstrip("\r\n")
        finally:
            connection.close()

    def _awake(self, timeout: float) -> http.client.HTTPConnection:
        """A connection on which somebody has just answered. Raises Unreachable."""
        for last in (*(False,) * (KNOCKS - 1), True):
            connection = self._connected(LAST_KNOCK_TIMEOUT if last else KNOCK_TIMEOUT)
            try:
                if not self._socket_path:  # of which there is one, that all of them accept from
                    connection.request("GET", f"{self._prefix}/livez", headers={"User-Agent": f"bgproxy/{__version__}"})
                    connection.getresponse().read(MAX_ANSWER_BYTES)
            except TimeoutError:
                connection.close()
                continue
            except (OSError, http.client.HTTPException):
                connection.close()  # the question itself will show what answers there
            connection.timeout = timeout
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            return connection
        raise Unreachable(
            f"no worker answers at {self.url}, though it is listened there: they are stopped or hang; nothing was "
            "asked of them, look at their processes"
        )

    def _connected(self, timeout: float) -> http.client.HTTPConnection:
        connection = self._connection(timeout)
        try:
            connection.connect()
        except OSError as error:
            raise Unreachable(
                f"nothing answers at {self.url}: {error.strerror or error}; "
                "start `bgproxy serve`, or name its admin address with --admin or BGPROXY_ADMIN"
            ) from None
        return connection

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._socket_path:
            return _SocketConnection(self._socket_path, timeout)
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=timeout)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        fields: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        data = json.dumps(body).encode() if body is not None else None
        content = {"Content-Type": "application/json"} if body is not None else {}
        with self._reading():
            connection.request(method, self._prefix + path, data, {**self._fields, **content, **fields})
            return connection.getresponse()

    def _document(self, answer: http.client.HTTPResponse) -> Any:
        """The answer's JSON; None where it is none."""
        with self._reading():
            data = answer.read(MAX_ANSWER_BYTES)
            if answer.length:  # what Content-Length promised and did not come
                raise http.client.IncompleteRead(data, answer.length)
        try:
            return json.loads(data)
        except ValueError:
            return None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Foreign failures of an exchange that has begun, told by one name."""
        try:
            yield
        except TimeoutError:
            why = "no answer in time"
        except ConnectionError as error:
            why = error.strerror or "it was closed"
        except http.client.IncompleteRead:
            why = "the answer was cut off"
        except http.client.HTTPException:
            raise Unreachable(f"what answers at {self.url} does not speak HTTP; check --admin") from None
        except OSError as error:
            why = error.strerror or str(error)
        else:
            return
        raise Unreachable(
            f"the connection to {self.url} broke: {why}; "
            "whether what was asked for is done is not known, look with `bgproxy status`"
        )

    def _problem(self, answer: http.client.HTTPResponse, document: Any) -> BgproxyError:
        if isinstance(document, dict) and str(document.get("type", "")).startswith(TYPE_PREFIX):
            return RefusedByApi(document)
        return self._stranger(answer)

    def _stranger(self, answer: http.client.HTTPResponse) -> Unreachable:
        what = f"{answer.status}, {answer.headers.get_content_type()}"
        return Unreachable(f"what answers at {self.url} is no bgproxy admin API ({what}); check --admin")


def _without_user(url: str) -> str:
    """The URL as it may be shown: somebody may have put a password where none belongs."""
    return url.rpartition("@")[2]
