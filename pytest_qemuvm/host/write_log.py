"""The log that QEMU's ``blklogwrites`` keeps of a disk, and what of it a power cut leaves.

The format is that of Linux's dm-log-writes (``drivers/md/dm-log-writes.c``): a superblock in the first
sector, then for each request a sector with its header, and, for a write, its data. Sectors are of 512 bytes.
QEMU writes the superblock now and then, so it is not believed: what is in the file counts (QEMU 7.2 and
10.0).
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_qemuvm.devices.disk import SECTOR
from pytest_qemuvm.errors import QemuVMError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
_HEADER = struct.Struct("<QQQQ")
_KNOWN = FLUSH | FUA | DISCARD | MARK

Keep = Literal["none", "all", "random"]
"""What of the writes after the last flush a power cut leaves."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, in the order in which QEMU took them."""

    sector: int
    sectors: int
    """How many; none for a flush."""
    flags: int = 0
    at: int = 0
    """Where in the file a write's data begins, in bytes."""


def read_log(file: BinaryIO) -> tuple[list[Entry], bool]:
    """Return the requests of a log, and whether that is all of them.

    It is not where QEMU was killed while several were on their way, and an earlier one did not get into the
    log before a later one did: what follows the hole cannot be found. One at the end that is there in part
    was never answered, and is left out. Raises QemuVMError for what is no such log.
    """
    length = file.seek(0, 2)
    entries: list[Entry] = []
    at = SECTOR
    while at + SECTOR <= length:
        file.seek(at)
        sector, sectors, flags, _ = _HEADER.unpack(file.read(_HEADER.size))
        if flags & ~_KNOWN:
            raise QemuVMError(f"the log of a disk's writes makes no sense at byte {at}", f"flags: {flags:#x}")
        if not (flags or sectors):
            return entries, False
        at += SECTOR
        data = 0 if flags & DISCARD else sectors * SECTOR
        if at + data > length:
            break
        entries.append(Entry(sector, sectors, flags, at))
        at += data
    return entries, True


def settled(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Return the changes that a drive must have kept, and those that it may have lost, each in their order.

    It must have kept what came before the last flush, and each write that was to be durable by itself (FUA).
    """
    flushes = [number for number, entry in enumerate(entries) if entry.flags & FLUSH]
    last = flushes[-1] if flushes else -1
    changes = [(number, entry) for number, entry in enumerate(entries) if entry.sectors]
    durable = [number < last or bool(entry.flags & (FUA | FLUSH)) for number, entry in changes]
    pairs = list(zip(changes, durable, strict=True))
    return [entry for (_, entry), is_ in pairs if is_], [entry for (_, entry), is_ in pairs if not is_]


def surviving(entries: Sequence[Entry], keep: Keep, seed: str) -> tuple[list[Entry], int, int]:
    """Return the changes that a power cut leaves, in their order; how many unflushed ones it left, and lost.

    ``random`` leaves any subset of what was not flushed, the same for the same log and ``seed``.
    """
    durable, volatile = settled(entries)
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    lucky = {id(entry) for entry in volatile if keep == "all" or (keep == "random" and chance.getrandbits(1))}
    left = {id(entry) for entry in durable} | lucky
    return [entry for entry in entries if id(entry) in left], len(lucky), len(volatile) - len(lucky)
