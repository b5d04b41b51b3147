"""The boot ROMs that QEMU gives NICs: a package of their own, which may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import CapabilityError
from pytest_qemuvm.host.bounded import run_bounded

if TYPE_CHECKING:
    from collections.abc import Iterable

REMEDY = "install them: ipxe-qemu on Debian and Ubuntu, ipxe-roms-qemu on Fedora"
_SECONDS = 10.0
"""It takes 20 ms; a cold disk may take longer."""


def data_directories(binary: str) -> list[Path]:
    """Return where a QEMU looks for ROMs, the first first; it is started to be asked."""
    outcome = run_bounded([binary, "-L", "help"], seconds=_SECONDS)
    return [Path(line) for line in outcome.stdout.splitlines() if line]


def missing_roms(names: Iterable[str], directories: Iterable[Path]) -> list[str]:
    """Return those of the names under which there is no file in any of the directories."""
    places = list(directories)
    return sorted({name for name in names if not any((place / name).is_file() for place in places)})


def require_roms(binary: str, names: Iterable[str]) -> None:
    """Raise CapabilityError unless a QEMU has all of these: it would not start."""
    directories = data_directories(binary)
    missing = missing_roms(names, directories)
    if missing:
        raise CapabilityError(
            f"QEMU has no boot ROM {' and no '.join(missing)}, which a NIC with boot=True needs",
            f"looked for in {', '.join(map(str, directories)) or 'nothing: QEMU did not say where'}",
            REMEDY,
        )
