"""Take the plain kernel out of a bzImage, so that QEMU can enter it directly.

Under emulation the boot loader stub, and the kernel unpacking itself, cost more than the rest of the boot. A
vmlinux with a PVH entry point (an ELF note) is loaded by QEMU into place and entered in 32-bit mode.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pytest_qemuvm.guest import elf
from pytest_qemuvm.guest.decompress import CannotDecompress, decompress

XEN_ELFNOTE_PHYS32_ENTRY = 18
"""The note that holds the PVH entry point (xen/include/public/elfnote.h)."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """The kernel to boot, and how it came about."""

    data: bytes | None
    """The vmlinux, or None where the bzImage itself has to be booted."""
    note: str
    """What was done, or why it could not be."""


def is_bzimage(data: bytes) -> bool:
    """Tell whether these are the first bytes (at least 1 KiB) of an x86 kernel image."""
    return len(data) > 0x250 and data[0x202:0x206] == b"HdrS" and data[0x1FE:0x200] == b"\x55\xaa"


def bzimage_release(data: bytes) -> str | None:
    """Return the release (``uname -r``) that a bzImage states in its header."""
    if not is_bzimage(data):
        return None
    start = int(struct.unpack_from("<H", data, 0x20E)[0]) + 0x200
    words = data[start : start + 256].split(b"\0", 1)[0].split()
    return words[0].decode("ascii", "replace") if words else None


def vmlinux_release(data: bytes) -> str | None:
    """Return the release that an uncompressed kernel states in its banner."""
    at = data.find(b"Linux version ")
    if at < 0:
        return None
    words = data[at + 14 : at + 200].split(b" ", 1)
    return words[0].decode("ascii", "replace")


def has_pvh_entry(vmlinux: bytes) -> bool:
    """Tell whether QEMU can enter this ELF kernel by the PVH protocol."""
    return elf.has_note(vmlinux, b"Xen", XEN_ELFNOTE_PHYS32_ENTRY)


def payload(bzimage: bytes) -> bytes | None:
    """Return the compressed kernel inside a bzImage; None before boot protocol 2.08."""
    version = struct.unpack_from("<H", bzimage, 0x206)[0]
    if version < 0x208:
        return None
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return bzimage[start : start + length]


def extract(kernel: bytes) -> Extracted:
    """Return the vmlinux inside a kernel image, or the reason why it must be booted as it is."""
    if elf.header(kernel) is not None:
        return Extracted(kernel, "the kernel is a vmlinux already")
    packed = payload(kernel) if is_bzimage(kernel) else None
    if not packed:
        return Extracted(None, "the kernel image has no payload that could be taken out")
    try:
        vmlinux = decompress(packed)
    except CannotDecompress as error:
        return Extracted(None, f"booting the bzImage, which is slower: {error.brief}")
    if elf.header(vmlinux) is None:
        return Extracted(None, "booting the bzImage, which is slower: its payload is not an ELF file")
    if not has_pvh_entry(vmlinux):
        return Extracted(None, "booting the bzImage, which is slower: the kernel has no PVH entry")
    return Extracted(vmlinux, "vmlinux with a PVH entry, taken out of the bzImage")
