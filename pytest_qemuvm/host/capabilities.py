"""What this host can do, and so in which mode the session runs. Decided once, before collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_qemuvm.errors import CapabilityError
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
    simulates: str | None = None
    """The version of QEMU that dry-run simulates, ``"7.2"``; None in real mode."""
    simulates_why: str = ""
    """Why that one."""

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
        return cls(**{**data, "binary": binary, "accelerator": accelerator})


def discover(settings: Settings, cache: Path) -> Capabilities:
    """Decide the mode.

    What was demanded (real mode, a binary, an accelerator) and cannot be had raises CapabilityError; it is
    never replaced by something else. Where nothing was said, real mode is taken if QEMU runs, else dry-run.
    """
    if settings.mode == "dry-run":
        return _dry_run(settings.mode_source, *_found_binary(settings, cache))
    try:
        binary = identify(find_qemu(settings.binary), cache)
        accelerator = prove(binary, settings.accel, cache)
    except CapabilityError as error:
        if settings.mode == "real" or settings.binary or settings.accel != "auto":
            raise
        return _dry_run(f"{settings.mode_source}, and {error.brief}", *_found_binary(settings, cache))
    why = settings.mode_source
    if settings.mode is None:
        why += ", and QEMU runs"
    return Capabilities("real", why, binary, accelerator)


def _dry_run(why: str, binary: QemuBinary | None, missing: str) -> Capabilities:
    """Return a dry-run of the recorded version nearest to the binary's. Raises SimulatorUnusable."""
    from pytest_qemuvm.host.simulator import nearest_version, recorded_versions  # noqa: PLC0415

    version = nearest_version(binary, recorded_versions())
    reason = f"of those recorded the nearest to {binary.version_text}" if binary else missing
    return Capabilities("dry-run", why, binary, None, version, reason)


def _found_binary(settings: Settings, cache: Path) -> tuple[QemuBinary | None, str]:
    """Return the QEMU that a plan names, if one is there and usable, or why not; dry-run needs none."""
    try:
        return identify(find_qemu(settings.binary), cache), ""
    except CapabilityError as error:
        return None, error.brief


def may_administer_networks() -> bool:
    """Return whether this process may make TAP devices and bridges (CAP_NET_ADMIN)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False
