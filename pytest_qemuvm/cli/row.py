"""One thing that was looked at on this host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    from collections.abc import Callable

Status = Literal["ok", "warn", "missing"]

SETUP = "run `qemuvm setup`"
"""The remedy for what packages can mend."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    status: Status
    """``missing``: the built-in guest cannot run without it; ``warn``: it can, with less."""
    value: str
    remedy: str | None = None


def guarded(name: str, look: Callable[[], str], remedy: str | None = None) -> Row:
    """Return the row of something that is there, or whose absence raises QemuVMError or OSError."""
    try:
        return Row(name, "ok", look())
    except QemuVMError as error:
        value = "; ".join([error.brief, *(error.details or "").splitlines()[:1]])
        return Row(name, "missing", value, error.hint or remedy)
    except OSError as error:
        return Row(name, "missing", str(error), remedy)
