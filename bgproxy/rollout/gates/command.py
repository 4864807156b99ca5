"""kind = "command": a program on the proxy's host, told by its environment what to try. Exit status 0 passes.

It runs in a session of its own, with nothing to read and an environment that holds none of the proxy's secrets. When
its time is over, or nobody waits for it any more, all that it has started goes with it. Of what it writes the end is
kept. A program may run twice where the node that led died while it ran.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from time import perf_counter

from bgproxy.rollout.gates.trial import Trial, Unanswerable
from bgproxy.rules.gate import Finding, Verdict
from bgproxy.rules.plan import CommandGate

KEPT_BYTES = 4_096  # of the output, its end
_READS = 8
END_GRACE = 2.0  # seconds between SIGTERM and SIGKILL

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "SSL_CERT_FILE", "SSL_CERT_DIR")


async def try_command(gate: CommandGate, trial: Trial) -> Finding:
    """Run the program to its end."""
    return await run_for(trial, gate.command, gate.env, gate.timeout)


async def run_for(
    trial: Trial, command: Sequence[str], env: Mapping[str, str], timeout: float, told: Mapping[str, str] | None = None
) -> Finding:
    """Run a program for a release on trial. `told`: more for its environment. Raises `Unanswerable`."""
    if not trial.options.allows_command(command[0]):
        raise Unanswerable(f"{command[0]} may not be run on this proxy's host: add it to rollout.commands")
    urls = trial.everywhere()
    place = {"BGPROXY_TARGET": next(iter(urls), ""), "BGPROXY_TARGETS": " ".join(urls), "BGPROXY_COLOR": trial.color}
    active = trial.active.label if trial.active is not None else ""
    names = {"BGPROXY_RELEASE": trial.release.label, "BGPROXY_ACTIVE_RELEASE": active}
    return await run(command, {**environment(trial), **place, **names, **(told or {}), **trial.fields(env)}, timeout)


def environment(trial: Trial) -> dict[str, str]:
    """What a program finds of the proxy's own environment: where things are, and what is meant for gates."""
    return {name: value for name, value in trial.environ.items() if name in _PASSED_ON or name.startswith("GATE_")}


async def run(command: Sequence[str], env: Mapping[str, str], timeout: float) -> Finding:
    """Run a program; what it came to. It is ended, with all of its process group, when nobody waits for it any more."""
    began = perf_counter()
    with _Output() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.end,
                stderr=output.end,
                env=dict(env),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return Finding(Verdict.UNDECIDED, f"{command[0]} cannot be started: {error.strerror or error}")
        try:
            async with asyncio.timeout(timeout):
                status = await process.wait()
            verdict, how = Verdict.FAIL if status else Verdict.PASS, f"ended with status {status}"
            if status < 0:
                how = f"was ended by signal {-status}"
        except TimeoutError:
            verdict, how = Verdict.FAIL, f"did not end within {timeout:g} s"
        finally:
            await _end(process)
        output.take()
    text = output.text()
    why = f"{command[0]} {how}" + (f": {text.splitlines()[-1][:200]}" if text and verdict is not Verdict.PASS else "")
    return Finding(verdict, why, {"command": list(command), "took": round(perf_counter() - began, 3), "output": text})


class _Output:
    """The end of what a program writes. Its own pipe, as asyncio's would make the end of the program wait for whoever
    else holds it.
    """

    def __init__(self) -> None:
        self._pipe, self.end = os.pipe()
        os.set_blocking(self._pipe, False)
        self._kept = bytearray()

    def __enter__(self) -> _Output:
        asyncio.get_running_loop().add_reader(self._pipe, self.take)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
        os.close(self.end)

    def take(self) -> None:
        """Take what has come; of a program that writes without end a part, so that others get their turn."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):
                self._kept += os.read(self._pipe, 65_536)
                del self._kept[:-KEPT_BYTES]

    def text(self) -> str:
        return self._kept.decode(errors="replace").strip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Politely first, where it still runs; what it has left behind in any case."""
    try:
        if process.returncode is None:
            _signal(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_GRACE):
                    await process.wait()
    finally:  # also where nobody waits for its politeness either, as when the proxy ends
        _signal(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
