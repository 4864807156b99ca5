"""Hosts as network namespaces: each with a cable of its own to the clients and agents, and one to the store.

A cable that is pulled is the kernel's: what is on its way is lost, nobody is told, and TCP sends again. It needs root.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess

_SUBNET = "10.213"  # of which each cable has four addresses
_numbers = itertools.count()  # a namespace is gone a while after it was deleted: the next one has names of its own


class Namespace:
    """One host: `near` is this side's address on a cable, `far` the host's."""

    def __init__(self, number: int) -> None:
        self._own = next(_numbers)
        self.name = f"bgproxy-{os.getpid()}-{self._own}"
        self._cables = {"clients": 2 * number, "store": 2 * number + 1}

    @property
    def prefix(self) -> list[str]:
        """Words before a command that is to run there."""
        return ["ip", "netns", "exec", self.name]

    def near(self, cable: str) -> str:
        """This side's address."""
        return f"{_SUBNET}.{self._cables[cable]}.1"

    def far(self, cable: str) -> str:
        """The host's address."""
        return f"{_SUBNET}.{self._cables[cable]}.2"

    def reach(self, other: Namespace) -> None:
        """What has this side's address on another's cable to the clients can be reached from here too."""
        if other is not self:
            _ip("-n", self.name, "route", "add", f"{other.near('clients')}/32", "via", self.near("clients"))

    def make(self) -> None:
        """Raises `subprocess.CalledProcessError` where the kernel, or who asks, must not."""
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        for cable in self._cables:
            here, there = self._device(cable), f"to-{cable}"
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
            _ip("addr", "add", f"{self.near(cable)}/30", "dev", here)
            _ip("-n", self.name, "addr", "add", f"{self.far(cable)}/30", "dev", there)
            _ip("link", "set", here, "up")
            _ip("-n", self.name, "link", "set", there, "up")

    def pull(self, cable: str) -> None:
        """Nothing comes through any more."""
        _ip("link", "set", self._device(cable), "down")

    def plug_in(self, cable: str) -> None:
        """It is well again."""
        _ip("link", "set", self._device(cable), "up")

    def close(self) -> None:
        """Take it away, and its cables with it."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def _device(self, cable: str) -> str:
        return f"bg{os.getpid() % 100_000}x{self._own}{cable[0]}"  # 15 characters at most


def why_not() -> str:
    """Why there can be none here, or nothing."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    probe = Namespace(99)
    try:
        probe.make()
    except subprocess.CalledProcessError as error:
        return f"`ip` says: {error.stderr.decode(errors='replace').strip()}"
    finally:
        probe.close()
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
