"""What a machine boots from, when it boots a kernel directly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """A kernel with its initial RAM disk and command line."""

    kernel: str
    """Path for ``-kernel``: a bzImage, or a vmlinux with a PVH entry."""
    initrd: str | None
    """Path for ``-initrd``."""
    append: str
    """The kernel's command line."""
