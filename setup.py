"""The build: the modules on the data path are compiled from their plain, typed source where that can be done.

Without a compiler, or with BGPROXY_COMPILE=0, the same source is installed to be interpreted. BGPROXY_COMPILE=1 makes
a failure to compile an error. What is compiled and what is interpreted behave alike: the tests run on both.
"""

from __future__ import annotations

import os
import sys

from setuptools import setup

# Not among them: modules whose dataclasses the configuration builds (pydantic looks into them as interpreted classes).
HOT = [
    "bgproxy/http1/fields.py",
    "bgproxy/http1/first_line.py",
    "bgproxy/http1/framing.py",
    "bgproxy/http1/head.py",
    "bgproxy/http1/parser.py",
    "bgproxy/http1/scan.py",
    "bgproxy/http1/websocket.py",
    "bgproxy/proxy/answer.py",
    "bgproxy/proxy/client.py",
    "bgproxy/proxy/exchange.py",
    "bgproxy/proxy/hold.py",
    "bgproxy/proxy/plane.py",
    "bgproxy/proxy/pool.py",
    "bgproxy/proxy/record.py",
    "bgproxy/proxy/routing.py",
    "bgproxy/proxy/sending.py",
    "bgproxy/proxy/session_rules.py",
    "bgproxy/proxy/tap.py",
    "bgproxy/proxy/tunnel.py",
    "bgproxy/proxy/turn.py",
    "bgproxy/proxy/upload.py",
    "bgproxy/proxy/upstream.py",
    "bgproxy/proxy/wait.py",
    "bgproxy/rules/route.py",
    "bgproxy/sessions/events.py",
    "bgproxy/sessions/jsonpath.py",
    "bgproxy/sessions/jsonscan.py",
    "bgproxy/sessions/keys.py",
    "bgproxy/sessions/learn.py",
    "bgproxy/sessions/plan.py",
    "bgproxy/sessions/recognise.py",
    "bgproxy/sessions/sighting.py",
    "bgproxy/sessions/tables.py",
    "bgproxy/sessions/words.py",
    "bgproxy/store/pin_table.py",
    "bgproxy/store/pins.py",
    "bgproxy/telemetry/metrics.py",
]


def extensions(wish: str) -> list[object]:
    """The extension modules to build; none where that is not wished for or cannot be done."""
    if wish == "0":
        return []
    try:
        from mypyc.build import mypycify

        modules: list[object] = mypycify(["--config-file=", "--ignore-missing-imports", *HOT], opt_level="3")
    except (Exception, SystemExit) as error:
        if wish == "1":
            raise
        print(f"bgproxy is built without compiled modules: {error}", file=sys.stderr)
        return []
    for module in modules:
        module.optional = wish != "1"  # type: ignore[attr-defined]
    return modules


setup(ext_modules=extensions(os.environ.get("BGPROXY_COMPILE", "")))
