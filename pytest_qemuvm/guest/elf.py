"""The little of ELF that building a guest needs: is it static, its notes, one section's bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"\x7fELF"
PT_INTERP = 3
PT_NOTE = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header, as far as it is of use here."""

    type: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the file header says about where the tables are."""

    machine: int
    phoff: int
    phentsize: int
    phnum: int
    shoff: int
    shentsize: int
    shnum: int
    shstrndx: int


def header(data: bytes) -> Header | None:
    """Return the header of a 64-bit little-endian ELF file, or None if it is anything else."""
    if len(data) < 64 or data[:4] != MAGIC or data[4] != 2 or data[5] != 1:
        return None
    fields = struct.unpack_from("<HHIQQQIHHHHHH", data, 16)
    return Header(
        machine=fields[1],
        phoff=fields[4],
        shoff=fields[5],
        phentsize=fields[8],
        phnum=fields[9],
        shentsize=fields[10],
        shnum=fields[11],
        shstrndx=fields[12],
    )


def segments(data: bytes) -> list[Segment]:
    """Return the program headers; an empty list if this is not such a file or it is cut off."""
    head = header(data)
    if head is None or head.phoff + head.phnum * head.phentsize > len(data) or head.phentsize < 56:
        return []
    found = []
    for index in range(head.phnum):
        kind, _flags, offset, _vaddr, _paddr, filesz = struct.unpack_from(
            "<IIQQQQ", data, head.phoff + index * head.phentsize
        )
        found.append(Segment(kind, offset, filesz))
    return found


def is_static(data: bytes) -> bool:
    """Tell whether this is an ELF program that needs no dynamic loader."""
    found = segments(data)
    return bool(found) and not any(segment.type == PT_INTERP for segment in found)


def has_note(data: bytes, name: bytes, note_type: int) -> bool:
    """Tell whether a note of that owner and type is in one of the note segments."""
    for segment in segments(data):
        if segment.type != PT_NOTE:
            continue
        at, end = segment.offset, min(segment.offset + segment.size, len(data))
        while at + 12 <= end:
            name_size, desc_size, kind = struct.unpack_from("<III", data, at)
            owner = data[at + 12 : at + 12 + name_size].rstrip(b"\0")
            if owner == name and kind == note_type:
                return True
            at += 12 + _aligned(name_size) + _aligned(desc_size)
    return False


def section(data: bytes, wanted: bytes) -> bytes | None:
    """Return the bytes of the first section of that name, or None."""
    head = header(data)
    if head is None or head.shentsize < 64 or head.shoff + head.shnum * head.shentsize > len(data):
        return None
    entries = [
        struct.unpack_from("<IIQQQQ", data, head.shoff + index * head.shentsize)
        for index in range(head.shnum)
    ]
    if head.shstrndx >= len(entries):
        return None
    names = entries[head.shstrndx][4]
    for entry in entries:
        start = names + entry[0]
        if data[start : start + len(wanted) + 1] == wanted + b"\0":
            return data[entry[4] : entry[4] + entry[5]]
    return None


def _aligned(size: int) -> int:
    return (size + 3) & ~3
