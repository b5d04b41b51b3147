"""Writing to the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.errors import QemuVMError


def say(text: str) -> None:
    """Write a line to stdout at once, in order with what child processes write there."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")


def print_error(error: QemuVMError) -> None:
    """Write what happened, the evidence, and what to do, to stderr."""
    complain(f"qemuvm: {error.brief}")
    for line in (error.details or "").splitlines():
        complain(f"  {line}")
    if error.hint:
        complain(f"hint: {error.hint}")
