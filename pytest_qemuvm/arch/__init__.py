"""Architectures, one module each: rows of facts about machines. No effects."""

from __future__ import annotations

from pytest_qemuvm.arch.model import Architecture, Machine
from pytest_qemuvm.arch.x86_64 import X86_64
from pytest_qemuvm.errors import SpecError, nearest

ARCHITECTURES: dict[str, Architecture] = {X86_64.name: X86_64}


def machine_type(arch: Architecture, name: str | None) -> Machine:
    """Return the row of a machine type; None is the architecture's default.

    Raises SpecError naming the nearest known one.
    """
    wanted = name or arch.default_machine
    for row in arch.machines:
        if row.name == wanted:
            return row
    raise SpecError(
        f"machine {wanted!r} is not known for {arch.name}",
        hint=nearest(wanted, (row.name for row in arch.machines)),
    )


__all__ = ["ARCHITECTURES", "Architecture", "Machine", "machine_type"]
