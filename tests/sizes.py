"""The house's sizes, checked: no file of the package above 400 lines, no function above 60, ARCHITECTURE.md in 150."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE_LINES, FUNCTION_LINES, ARCHITECTURE_LINES = 400, 60, 150


def too_long(path: Path) -> list[str]:
    """What of one source file is longer than it may be."""
    text = path.read_text()
    name = path.relative_to(ROOT)
    found = []
    if (lines := text.count("\n")) > FILE_LINES:
        found.append(f"{name}: {lines} lines, {FILE_LINES} are allowed: which second thing does it do?")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                found.append(f"{name}:{node.lineno}: {node.name} has {size} lines, {FUNCTION_LINES} are allowed")
    return found


def main() -> int:
    found = [fault for path in sorted((ROOT / "bgproxy").rglob("*.py")) for fault in too_long(path)]
    architecture = (ROOT / "ARCHITECTURE.md").read_text().count("\n")
    if architecture > ARCHITECTURE_LINES:
        found.append(f"ARCHITECTURE.md: {architecture} lines, {ARCHITECTURE_LINES} are allowed")
    print("\n".join(found) or "sizes are within their limits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
