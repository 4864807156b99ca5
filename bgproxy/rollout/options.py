"""What a plan may reach beyond the agents: nothing, unless the operator of the proxy's host says so. Whoever may begin
a release could otherwise run programs there, or have the proxy call what only its host may call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from bgproxy.rules.action import Action
from bgproxy.rules.jury import BakeJudge
from bgproxy.rules.plan import Gate, Plan


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """Lists of what is allowed."""

    commands: tuple[str, ...] = ()  # programs by their absolute path; one that ends in "/" allows all below it
    webhooks: tuple[str, ...] = ()  # addresses: scheme, host and port, and a path that others may follow

    def allows_command(self, program: str) -> bool:
        """Whether a plan may run it."""
        inner = ".." in program.split("/")
        return any(
            program == one or (one.endswith("/") and program.startswith(one) and not inner) for one in self.commands
        )

    def allows_webhook(self, url: str) -> bool:
        """Whether a plan may have it called. The path is compared by whole segments, of which none may lead upwards,
        escaped or not.
        """
        asked = urlsplit(url)
        if ".." in unquote(asked.path).replace("\\", "/").split("/"):
            return False
        for one in self.webhooks:
            allowed = urlsplit(one)
            path = allowed.path.rstrip("/")
            same = (asked.scheme, asked.netloc.lower()) == (allowed.scheme, allowed.netloc.lower())
            if same and (asked.path == path or asked.path.startswith(f"{path}/")):
                return True
        return False

    def refuse(self, plan: Plan) -> str:
        """Why a plan cannot be run here, or nothing."""
        asked: list[tuple[str, Gate | Action | BakeJudge]]
        asked = [(f"gate[{number}]", gate) for number, gate in enumerate(plan.gates, start=1)]
        asked += [(f"hook[{number}]", hook) for number, hook in enumerate(plan.hooks, start=1)]
        asked += [("decommission", plan.decommission)] if plan.decommission is not None else []
        judges = plan.bake.judges if plan.bake is not None else ()
        asked += [(f"bake.judge[{number}]", judge) for number, judge in enumerate(judges, start=1)]
        for name in ("expand", "revert", "contract") if plan.migrate is not None else ():
            asked += [(f"migrate.{name}", one)] if (one := getattr(plan.migrate, name)) is not None else []
        for place, one in asked:
            command, url = getattr(one, "command", ()), getattr(one, "url", "")
            if command and not self.allows_command(command[0]):
                return (
                    f"{place}.command: {command[0]} may not be run on this proxy's host; "
                    "add it to rollout.commands in the proxy's configuration"
                )
            if url and not self.allows_webhook(url):
                return (
                    f"{place}.url: {url} may not be called from this proxy's host; "
                    "add it to rollout.webhooks in the proxy's configuration"
                )
        return ""


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """Whether sessions are kept for replays, and how much of them. What is redacted comes beside what always is."""

    directory: str = ""  # an absolute path; empty: nothing is recorded
    key_file: str = ""  # holds the key: 32 bytes in base64
    key_env: str = ""  # or the environment variable that does
    share: float = 1.0  # of sessions
    max_bytes: int = 268_435_456  # of all files of this host
    max_sessions: int = 1_000
    max_age: float = 604_800.0  # seconds since a session's last turn
    max_turns: int = 200  # of one session, which is forgotten beyond
    redact_headers: tuple[str, ...] = ()
    redact_names: tuple[str, ...] = ()  # of parameters and of JSON members
    redact_pointers: tuple[str, ...] = ()  # JSON pointers; * stands for any member or item
    redact_patterns: tuple[str, ...] = ()  # regular expressions
    key: str = field(default="", repr=False)  # as it was found
