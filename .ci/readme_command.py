# ruff: noqa: INP001  # a script, run by its path
"""Print one of the README's two commands: ``readme_command.py examples`` or ``readme_command.py tests``.

CI runs what the README tells people to type, so that it cannot go stale. A command is a line of a shell block
(a line that ends in a backslash goes on in the next) that sets everything up and ends in pytest: the one that
names ``examples`` and the one that does not.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
PARTS = ("pip install", "qemuvm setup", "pytest")


def commands(text: str) -> list[str]:
    """Return the lines of shell blocks that set up and test, without prompts."""
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if all(part in line for part in PARTS)]


def main() -> int:
    """Print the command asked for."""
    wanted = sys.argv[1]
    found = [line for line in commands(README.read_text()) if ("examples" in line) == (wanted == "examples")]
    if len(found) != 1:
        sys.stderr.write(
            f"README.md should hold one line that sets everything up and runs the {wanted}, "
            f"with {', '.join(PARTS)} in it; found {found}\n"
        )
        return 1
    sys.stdout.write(f"{found[0]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
