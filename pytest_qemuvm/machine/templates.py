"""Templates: what VMs start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_qemuvm.errors import GuestUnavailable, NotSupportedInDryRun, SpecError, TemplateNotFound, nearest
from pytest_qemuvm.host.executables import NOT_IN_DRY_RUN, PLANNED_INITRD, PLANNED_KERNEL
from pytest_qemuvm.spec.boot import KernelBoot
from pytest_qemuvm.spec.sizes import MIB, format_size

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pytest_qemuvm.guest.tiny import TinyGuest
    from pytest_qemuvm.spec.vm import Boot, VMSpec

BUILT_IN = {
    "bare": "a machine without a guest, for tests of devices and QMP; or with the one on your own image",
    "tiny": "a small Linux made on this machine, with an agent that runs commands",
}


class BootSource(Protocol):
    """Where a guest's kernel and RAM disk come from."""

    def boot(self, spec: VMSpec) -> KernelBoot | None:
        """Return what a VM of that spec boots; None for a machine without a guest."""

    def netboot(self) -> KernelBoot:
        """Return the built-in guest as a server of a test's hands it out."""


def check_template(name: str) -> None:
    """Raise TemplateNotFound for a name that no template has."""
    if name not in BUILT_IN:
        raise TemplateNotFound(f"no template {name!r}", hint=nearest(name, BUILT_IN))


def how_it_boots(root: str, spec: VMSpec) -> Boot:
    """Return what a VM runs first: what its spec says, or what the built-in template ``root`` does.

    Raises SpecError where it cannot.
    """
    network = any(nic.boot for nic in spec.nics)
    if root == "tiny":
        if spec.boot is None:
            return "network" if network else "kernel"
        if spec.boot in ("kernel", "network"):
            return spec.boot
        hint = "template='bare' boots what is on its first disk, or nothing"
    elif spec.boot is None:
        return "disk" if spec.image is not None else "network" if network else "none"
    elif spec.boot == "kernel":
        hint = "template='tiny' boots one"
    elif spec.boot == "disk" and spec.image is None and not spec.disks:
        hint = "give it an image=, or a disk"
    else:
        return spec.boot
    raise SpecError(f"a VM of template {root!r} cannot boot with boot={spec.boot!r}", hint=hint)


LEAST_MEMORY = 96 * MIB
"""What the built-in guest needs to come up; with less its kernel dies without a word."""


def _check_memory(spec: VMSpec) -> None:
    if spec.bytes < LEAST_MEMORY:
        raise SpecError(
            f"memory: {format_size(spec.bytes)} is too little for the built-in guest",
            hint=f"give it {format_size(LEAST_MEMORY)} or more",
        )


class BuiltGuests:
    """Builds the built-in guest when it is first asked for; later it comes from the cache."""

    def __init__(self, cache: Path, kernel: str | None, progress: Callable[[str], None]) -> None:
        self._cache = cache
        self._kernel = kernel
        self._progress = progress

    def boot(self, spec: VMSpec) -> KernelBoot | None:
        """Return the guest's files, built if need be. Raises GuestUnavailable where they cannot be."""
        check_template(spec.template)
        if spec.template == "bare":
            return None
        _check_memory(spec)
        return self._built(spec.kernel).boot

    def netboot(self) -> KernelBoot:
        """Return the guest's files as a boot loader takes them. Raises GuestUnavailable."""
        built = self._built(None)
        from pytest_qemuvm.guest.vmlinux import is_bzimage  # noqa: PLC0415  # as above

        if not is_bzimage(built.vmlinuz.read_bytes()):
            raise GuestUnavailable(
                f"the kernel {built.vmlinuz} is nothing that a boot loader boots",
                hint="--qemu-kernel= names another one, a bzImage",
            )
        return replace(built.boot, kernel=str(built.vmlinuz))

    def _built(self, named: str | os.PathLike[str] | None) -> TinyGuest:
        from pytest_qemuvm.guest.tiny import build_tiny  # noqa: PLC0415  # bare has no guest to build

        chosen = named or self._kernel
        kernel = Path(chosen) if chosen else None
        return build_tiny(self._cache, kernel=kernel, progress=self._progress)


class PlannedGuests:
    """Names what stands for the files of the built-in guest, which is not built where nothing can boot it."""

    def __init__(self, cache: Path, kernel: str | None) -> None:
        self._cache = cache
        self._kernel = kernel

    def boot(self, spec: VMSpec) -> KernelBoot | None:
        """Return the guest's files under names that say what they will be.

        Raises GuestUnavailable where a kernel was named that is none.
        """
        check_template(spec.template)
        if spec.template == "bare":
            return None
        _check_memory(spec)
        if chosen := spec.kernel or self._kernel:
            from pytest_qemuvm.guest.kernel import find_kernel  # noqa: PLC0415  # few name one

            find_kernel(Path(chosen), self._cache)
        return KernelBoot(PLANNED_KERNEL, PLANNED_INITRD, "<tiny>")

    def netboot(self) -> KernelBoot:
        """Raise NotSupportedInDryRun: where nothing runs, nobody hands anything out."""
        raise NotSupportedInDryRun(
            "dry-run: there is no built-in guest that a server could hand out", hint=NOT_IN_DRY_RUN
        )
