# ruff: noqa: INP001  # a script, run by its path
"""Print one of the README's two commands: ``readme_command.py examples`` or ``readme_command.py tests``.

CI runs what the README tells people to type, so that it cannot go stale: the line of a shell block that calls
``run.sh`` for that suite.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def commands(text: str, suite: str) -> list[str]:
    """Return the lines of shell blocks that call run.sh for a suite, without prompts."""
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(rf"sh run\.sh\b.*\b{suite}$", line)]


def main() -> int:
    """Print the command asked for."""
    suite = sys.argv[1]
    found = commands(README.read_text(), suite)
    if len(found) != 1:
        sys.stderr.write(f"README.md should hold one line 'sh run.sh ... {suite}'; found {found}\n")
        return 1
    sys.stdout.write(f"{found[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
