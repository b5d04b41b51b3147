"""What this host can do, and so in which mode the session runs. Decided once, before collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_qemuvm.errors import CapabilityError, QemuNotFound
from pytest_qemuvm.host.accel import Accelerator, prove
from pytest_qemuvm.host.binary import QemuBinary, find_qemu, identify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_qemuvm.spec.settings import Mode, Settings

CAP_NET_ADMIN = 12
"""Its bit in the kernel's capability sets (``linux/capability.h``)."""


class Capabilities(NamedTuple):
    """The mode of the session with its reason, and what was proven of the host."""

    mode: Mode
    why: str
    binary: QemuBinary | None
    """None in dry-run where there is no QEMU."""
    accelerator: Accelerator | None
    """None in dry-run: nothing was run to prove one."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, to be handed to another process."""
        return {
            **self._asdict(),
            "binary": self.binary and self.binary._asdict(),
            "accelerator": self.accelerator and self.accelerator._asdict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Capabilities:
        """Return what ``as_dict`` was made from."""
        binary, accelerator = data["binary"], data["accelerator"]
        if binary is not None:
            binary = QemuBinary(**{**binary, "version": tuple(binary["version"])})
        if accelerator is not None:
            accelerator = Accelerator(**accelerator)
        return cls(data["mode"], data["why"], binary, accelerator)


def discover(settings: Settings, cache: Path) -> Capabilities:
    """Decide the mode.

    What was demanded (real mode, a binary, an accelerator) and cannot be had raises CapabilityError; it is
    never replaced by something else. Where nothing was said, real mode is taken if QEMU runs, else dry-run.
    """
    if settings.mode == "dry-run":
        return Capabilities("dry-run", settings.mode_source, _planned_binary(settings), None)
    try:
        binary = identify(find_qemu(settings.binary), cache)
        accelerator = prove(binary, settings.accel, cache)
    except CapabilityError as error:
        if settings.mode == "real" or settings.binary or settings.accel != "auto":
            raise
        return Capabilities("dry-run", f"{settings.mode_source}, and {error.brief}", None, None)
    why = settings.mode_source
    if settings.mode is None:
        why += ", and QEMU runs"
    return Capabilities("real", why, binary, accelerator)


def _planned_binary(settings: Settings) -> QemuBinary | None:
    """Return the binary that a plan names, where there is one; dry-run does not run it."""
    try:
        path = find_qemu(settings.binary)
    except QemuNotFound:
        return None
    return QemuBinary(str(path), (0, 0, 0), "not run", "")


def may_administer_networks() -> bool:
    """Return whether this process may make TAP devices and bridges (CAP_NET_ADMIN)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False
