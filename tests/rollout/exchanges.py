"""An exchange as the data path hands it to those who look on: one that went well, from which others differ."""

from __future__ import annotations

from bgproxy.telemetry.taken import Taken

TAKEN = Taken(
    method="GET",
    target="/v1/models?key=hush",
    request_head=b"GET /v1/models HTTP/1.1\r\nHost: agents.test\r\nAccept: */*\r\nIf-Unknown: 1\r\n",
    body=b"",
    status=200,
    answer_head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
    answer=b'{"ok": true}',
    complete=True,
    whole=True,
    at=0.0,
    latency=1.0,
    route="default",
    color="blue",
    release="v1",
)
