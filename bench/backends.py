"""Starts what stands behind the contenders, on the load's core."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.contenders.base import fill
from bench.processes import Cores, Stage, free_ports

ROOT = Path(__file__).resolve().parents[1]
ANSWER = '{"answer":"' + "x" * (200 - len('{"answer":""}')) + '"}'


def start_echo(stage: Stage, cores: Cores) -> int:
    """nginx that answers everything with 200 bytes of JSON, cheaper than any proxy can ask; its port."""
    (port,) = free_ports(1)
    config = fill("echo.conf", stage.directory / "echo.conf", dir=stage.directory, listen=port, answer=ANSWER)
    stage.start("echo", ["nginx", "-c", str(config)], core=cores.load, ports=[port])
    return port


def start_agent(stage: Stage, cores: Cores, color: str) -> int:
    """A color's agent (upstream.py); its port."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "bench.upstream", "--port", str(port), "--color", color]
    stage.start(f"agent-{color}", argv, core=cores.load, ports=[port], cwd=ROOT)
    return port
