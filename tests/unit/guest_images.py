"""Small ELF files and kernel images, made by hand, for the tests of what reads them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def elf(
    *,
    sections: Sequence[tuple[bytes, bytes]] = (),
    segments: Sequence[tuple[int, bytes]] = (),
    filler: bytes = b"",
) -> bytes:
    """Return a 64-bit ELF file with these sections and segments."""
    body = bytearray(64 + 56 * len(segments))
    programs = []
    for kind, data in segments:
        programs.append(struct.pack("<IIQQQQQQ", kind, 0, len(body), 0, 0, len(data), len(data), 1))
        body += data
    names = b"\0" + b"".join(name + b"\0" for name, _data in sections) + b".shstrtab\0"
    heads = [bytes(64)]
    at = 1
    for name, data in sections:
        heads.append(struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, len(body), len(data), 0, 0, 1, 0))
        at += len(name) + 1
        body += data
    heads.append(struct.pack("<IIQQQQIIQQ", at, 3, 0, 0, len(body), len(names), 0, 0, 1, 0))
    body += names + filler
    where = len(body)
    body += b"".join(heads)
    body[:64] = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, where, 0, 64, 56, len(segments), 64, len(heads), len(heads) - 1
        )
    )
    body[64 : 64 + 56 * len(segments)] = b"".join(programs)
    return bytes(body)


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    """Return one ELF note."""
    name = owner + b"\0"
    pad = lambda raw: raw + bytes(-len(raw) % 4)  # noqa: E731
    return struct.pack("<III", len(name), len(data), kind) + pad(name) + pad(data)


def vmlinux(*, pvh: bool = True, release: str = "6.1.0-test") -> bytes:
    """Return what passes for an uncompressed kernel."""
    notes = note(b"Xen", 6, b"linux\0\0\0") + (note(b"Xen", 18, bytes(8)) if pvh else b"")
    return elf(segments=[(1, b"code"), (4, notes)], filler=b"Linux version " + release.encode() + b" (x) #1")


def bzimage(payload: bytes, *, release: str = "6.1.0-test", version: int = 0x20F) -> bytes:
    """Return what passes for a bzImage with that compressed payload."""
    image = bytearray(4 * 512)
    image[0x1F1] = 3
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<H", image, 0x20E, 0x400)
    banner = release.encode() + b" (builder@host) #1 SMP\0"
    image[0x600 : 0x600 + len(banner)] = banner
    struct.pack_into("<II", image, 0x248, 100, len(payload))
    return bytes(image) + bytes(100) + payload + b"after"


def module(*, depends: str = "", softdep: str = "", aliases: Sequence[str] = ()) -> bytes:
    """Return what passes for a kernel module."""
    entries = [f"depends={depends}", "license=GPL", *(f"alias={alias}" for alias in aliases)]
    if softdep:
        entries.append(f"softdep={softdep}")
    return elf(
        sections=[(b".text", b"code"), (b".modinfo", b"".join(entry.encode() + b"\0" for entry in entries))]
    )
