"""What an installation runs: the data path compiled (setup.py), under the same tests as its source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THE_SAME_TESTS = [
    "tests/http1",
    "tests/proxy",
    "tests/rules",
    "tests/sessions",
    *(f"tests/e2e/test_data_path_{part}.py" for part in ("answers", "basics", "gone", "retries", "streams", "tunnels")),
    "tests/e2e/test_flip_verbs.py",
    "tests/e2e/test_serve_reload.py",
]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not shutil.which(os.environ.get("CC", "cc")), reason="no C compiler: it runs interpreted here")
def test_compiled_it_passes_the_same_tests(tmp_path: Path) -> None:
    for part in ("bgproxy", "tests", "bench", "config"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for part in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / part, tmp_path)
    environment = {**os.environ, "BGPROXY_COMPILE": "1", "PYTHONPATH": str(tmp_path)}
    environment.pop("PYTEST_XDIST_WORKER", None)

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout

    run("setup.py", "--quiet", "build_ext", "--inplace")
    assert "True" in run("-c", "from bgproxy.http1 import scan; print(scan.COMPILED)")
    run("-m", "pytest", "-q", "-p", "no:xdist", *THE_SAME_TESTS)
