"""What of the built-in guest a boot server can hand out, and when nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_qemuvm.errors import GuestUnavailable, NotSupportedInDryRun
from pytest_qemuvm.guest.tiny import TinyGuest
from pytest_qemuvm.machine.templates import BuiltGuests, PlannedGuests
from pytest_qemuvm.spec.boot import KernelBoot

if TYPE_CHECKING:
    from pathlib import Path

BZIMAGE = bytes(0x1FE) + b"\x55\xaa" + bytes(2) + b"HdrS" + bytes(0x100)


class Built(BuiltGuests):
    """Guests of a kernel that need not be built."""

    def __init__(self, kernel: Path) -> None:
        super().__init__(kernel.parent, None, lambda _line: None)
        self.kernel = kernel

    def _built(self, named: object) -> TinyGuest:
        assert named is None
        boot = KernelBoot("vmlinux", "initrd", "quiet")
        return TinyGuest(boot, "key", self.kernel, self.kernel.parent, "6.1", "named", "")


def test_the_kernel_is_one_that_a_boot_loader_takes(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(BZIMAGE)
    assert Built(kernel).netboot() == KernelBoot(str(kernel), "initrd", "quiet")


def test_a_kernel_that_only_qemu_boots_is_not_handed_out(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF" + bytes(4096))
    with pytest.raises(GuestUnavailable, match="boot loader") as caught:
        Built(kernel).netboot()
    assert "--qemu-kernel" in (caught.value.hint or "")


def test_a_dry_run_has_none(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedInDryRun):
        PlannedGuests(tmp_path, None).netboot()
