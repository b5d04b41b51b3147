"""Writing to the terminal."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Write a line to stdout at once, in order with what child processes write there."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")
